"""Reasons that Kueue gives."""

from __future__ import annotations

from finetune_api.reason_help import GOES_ON, ReasonHelp

QUEUE = {
    "Pending": ReasonHelp("The Workload waits for quota.", GOES_ON),
    "Inadmissible": ReasonHelp(
        "The queue cannot take the Workload as it is.",
        "Read the message: a LocalQueue or ClusterQueue is missing or stopped.",
    ),
    "Preempted": ReasonHelp(
        "Something more important got the GPUs; the job resumes at its last checkpoint.", GOES_ON
    ),
    "Deactivated": ReasonHelp(
        "Somebody has deactivated the Workload; the message says who.",
        "Ask them: the message has the command that lets the job go on.",
    ),
    "DeactivatedDueToRequeuingLimitExceeded": ReasonHelp(
        "Kueue gave the job up: its pods were not ready in time, too often.",
        "Find out why they wait, then activate the Workload as the message says.",
    ),
    "DeactivatedDueToAdmissionCheck": ReasonHelp(
        "An admission check rejected the job.",
        "Ask the owner of the check; then activate the Workload as the message says.",
    ),
    "DeactivatedDueToMaximumExecutionTimeExceeded": ReasonHelp(
        "The job was admitted for longer than Kueue's limit allows.",
        "Have the limit raised, then activate the Workload as the message says.",
    ),
    "Reactivated": ReasonHelp("The Workload is active again.", GOES_ON),
    "AdmissionChecksPending": ReasonHelp(
        "Quota is reserved; the checks that the message names have not passed yet.", GOES_ON
    ),
    "NodeFailures": ReasonHelp("A node failed, and Kueue places the job anew.", GOES_ON),
    "FailedToStart": ReasonHelp(
        "What Kueue or a check adds to the pods contradicts `podTemplate`.",
        "Take the key that the message names out of `podTemplate`.",
    ),
    "MultiKueue": ReasonHelp(
        "The LocalQueue hands its Jobs to other clusters, where this one's pods cannot run.",
        "Use another queue, or create the job on the other cluster.",
    ),
    "QueueChanged": ReasonHelp("An edit of queue or priority was carried to the Job.", GOES_ON),
    "PodsReadyTimeout": ReasonHelp(
        "The pods were not ready in the time that Kueue allows.", "Look at why they wait."
    ),
    "AdmissionCheck": ReasonHelp("An admission check is not done, or said no.", GOES_ON),
    "ClusterQueueStopped": ReasonHelp("The ClusterQueue is stopped.", "Ask its administrator."),
    "LocalQueueStopped": ReasonHelp("The LocalQueue is stopped.", "Ask its administrator."),
}
