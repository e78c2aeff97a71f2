"""Classes of failures, and reasons that are read off pods."""

from __future__ import annotations

from finetune_api.reason_help import GOES_ON, ReasonHelp

_IMAGE = "Check `trainer.image`, the registry and `podTemplate.imagePullSecrets`."

CLASSES = {
    "UserError": ReasonHelp(
        "The job asks for something that cannot work.", "Correct the value that the message names."
    ),
    "DataError": ReasonHelp(
        "The examples cannot be trained on.", "Correct the rows that the message names."
    ),
    "Internal": ReasonHelp("A defect.", "Report it with the traceback of the pod's log."),
    "StorageError": ReasonHelp(
        "Object storage or a disk failed.", "Check the server, its keys and the space."
    ),
    "Retryable": ReasonHelp(
        "Something that should pass, more often than `backoffLimit` allows.",
        "Check the network between the job's pods and the memory of their nodes.",
    ),
    "Hang": ReasonHelp(
        "No rank made a step for longer than `trainer.stepTimeoutSeconds`.",
        "Read in the message which rank was behind and where; the next attempt resumes.",
    ),
    "OutOfMemory": ReasonHelp(
        "GPU or host memory did not suffice.",
        "Nothing while the message says what the next attempt does; else lower "
        "`maxSequenceLength`, or raise `resources.memory`.",
    ),
    "Stopped": ReasonHelp("The stage saved and stopped as it was asked to.", GOES_ON),
    "ImageError": ReasonHelp("The image cannot be pulled or run.", _IMAGE),
    "Unschedulable": ReasonHelp(
        "No node can take the pod.",
        "Nothing, unless it lasts: then lower `resources` or add nodes.",
    ),
    "Evicted": ReasonHelp(
        "Kubernetes ended the pod: a drain, a preemption, a limit of its disk.",
        "Nothing, unless it repeats: then read the message.",
    ),
    "DeadlineExceeded": ReasonHelp(
        "The job ran for longer than `activeDeadlineSeconds`.",
        "Raise it in a new job that begins from the last checkpoint: `finetune retry`.",
    ),
    "BudgetExceeded": ReasonHelp(
        "The job reached `spec.budget`: it saved and stopped.",
        "Raise it in a new job that begins from the last checkpoint: `finetune retry`.",
    ),
    "GoalNotMet": ReasonHelp(
        "Everything ran and the scores do not reach `spec.goal`; nothing was published.",
        "Read the evaluation's report; better data, or more held-out rows.",
    ),
    "GatesNotMet": ReasonHelp(
        "Everything ran, and a gate of `evaluation.gates` is missed; nothing was published.",
        "Read the evaluation's report; better data, or more held-out rows of the gate's slice.",
    ),
}
"""Classes of failures; the reason of ``Failed`` is one of them."""

PODS = {
    "ErrImagePull": ReasonHelp("The image cannot be pulled; the kubelet tries again.", _IMAGE),
    "ImagePullBackOff": ReasonHelp("The image could not be pulled several times.", _IMAGE),
    "InvalidImageName": ReasonHelp("The image's reference is malformed.", _IMAGE),
    "ErrImageNeverPull": ReasonHelp(
        "The image is not on the node and `imagePullPolicy` is `Never`.", _IMAGE
    ),
    "ImageInspectError": ReasonHelp("The node cannot read the image.", _IMAGE),
    "RegistryUnavailable": ReasonHelp("The registry does not answer.", _IMAGE),
    "SignatureValidationFailed": ReasonHelp("The image's signature is not accepted.", _IMAGE),
    "CreateContainerConfigError": ReasonHelp(
        "The container's settings cannot be read, mostly a Secret that does not exist.",
        "Create the Secret of `credentialsRef` in the job's namespace.",
    ),
    "CreateContainerError": ReasonHelp(
        "The node cannot create the container.",
        "Read the message: of vLLM's and garak's container it is their image, of others the node.",
    ),
    "RunContainerError": ReasonHelp(
        "The node cannot run the container.",
        "Read the message: of vLLM's and garak's container it is their image, of others the node.",
    ),
    "CrashLoopBackOff": ReasonHelp(
        "A container that comes before the stage's own ends again and again.",
        "Read its log, as the message says; vLLM's and garak's are images of the operator's "
        "configuration.",
    ),
    "InitContainerFailed": ReasonHelp(
        "An init container that something has added to the pod failed, so that the stage's own "
        "never started.",
        "Read its log, as the message says, or keep it out of the job's pods.",
    ),
    "StartError": ReasonHelp("The container's program cannot be started.", _IMAGE),
    "ContainerCannotRun": ReasonHelp("The container's program cannot be started.", _IMAGE),
    "VolumesNotReady": ReasonHelp(
        "A volume of the pod cannot be mounted.",
        "Do the Secrets and claims that the job names exist in its namespace?",
    ),
    "PodFailed": ReasonHelp(
        "The node refused the pod, and Kubernetes gave no reason.",
        "Look at the node: `kubectl describe node`.",
    ),
    "FailedCreatePodSandBox": ReasonHelp(
        "The pod's node cannot set up its network, or its sandbox: no free address, a network "
        "plugin that is away.",
        "Nothing at once: it is waited for. If it lasts, look at the node, or delete the pod, and "
        "the next one may get another.",
    ),
    "NetworkNotReady": ReasonHelp(
        "The network of the pod's node is not ready.", "Nothing, unless it lasts: look at the node."
    ),
    "SchedulingGated": ReasonHelp(
        "The pod waits for its scheduling gates.",
        "Nothing: the controller that set them removes them.",
    ),
    "OOMKilled": ReasonHelp(
        "The container went over its memory limit.", "Raise `resources.memory`."
    ),
    "KilledSIGKILL": ReasonHelp(
        "The container was killed and left no message.",
        "Is the node short of memory, or `terminationGracePeriodSeconds` too short to save?",
    ),
    "KilledSIGTERM": ReasonHelp(
        "The container was asked to stop and left no message.",
        "Raise `terminationGracePeriodSeconds` above the time of one checkpoint.",
    ),
    "ContainerLost": ReasonHelp(
        "The node was restarted, or its container runtime, and does not know how the container "
        "ended; no retry is used up. More than `backoffLimit` + 1 in a row without a new step end "
        "the job.",
        "Nothing, unless it repeats: then look at the node that `status.attempts.history` names. "
        "The kernel's log says whether memory ran out or the GPU's driver failed.",
    ),
    "JobFailed": ReasonHelp(
        "The Job failed and its pods are gone, so that no cause is known.",
        "Begin again from the last checkpoint: `finetune retry`.",
    ),
    "PreemptionByScheduler": ReasonHelp("A pod of higher priority took the place.", GOES_ON),
    "EvictionByEvictionAPI": ReasonHelp("The pod was evicted, mostly by a drain.", GOES_ON),
    "DeletionByTaintManager": ReasonHelp(
        "The node got a taint that the pod does not bear.", GOES_ON
    ),
    "DeletionByPodGC": ReasonHelp("The pod's node is gone.", GOES_ON),
    "TerminationByKubelet": ReasonHelp("The node is short of something, or shuts down.", GOES_ON),
}
"""Reasons that are read off pods and their containers."""
