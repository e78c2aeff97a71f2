"""Reasons that the operator gives during the life of a job, in conditions and Events."""

from __future__ import annotations

from finetune_api.reason_help import GOES_ON, ReasonHelp

LIFE = {
    "Preparing": ReasonHelp("`prepare` reads, checks and divides the examples.", GOES_ON),
    "Prepared": ReasonHelp("The data set is stored and verified.", GOES_ON),
    "TakenOver": ReasonHelp(
        "The job trains nothing: an earlier FineTuneJob of its name had the same content, and its"
        " run in storage is complete. Job `publish` reads its evaluation, and its version if it has"
        " one.",
        "Nothing. To train again on purpose, give the job another name or another seed.",
    ),
    "WaitingForPods": ReasonHelp(
        "The stage's pods do not run yet.", "Nothing; `kubectl describe pod` if it lasts."
    ),
    "PodsNotCreated": ReasonHelp(
        "A stage's Job is there, and the API server refuses its pods: a ResourceQuota, Pod"
        " Security, a missing ServiceAccount, a policy on pods.",
        "Do what the message names; the Job controller asks again by itself.",
    ),
    "PodNotEnding": ReasonHelp(
        "The stage's own container has ended, and its pod goes on: a container beside it runs.",
        "Keep that container out of the job's pods, or have it added as a native sidecar; the"
        " message says how.",
    ),
    "WaitingForQuota": ReasonHelp("Kueue has not looked at the Job yet.", GOES_ON),
    "Queued": ReasonHelp("The job waits in its queue.", GOES_ON),
    "Running": ReasonHelp("Training pods run.", GOES_ON),
    "NoRecentProgress": ReasonHelp(
        "Training pods run, and the last progress report is more than 15 minutes old.",
        "Look at the pod's log: a training that hangs ends by itself; else pods no longer reach "
        "the progress endpoint.",
    ),
    "Evaluating": ReasonHelp("Base and tuned model are compared.", GOES_ON),
    "Publishing": ReasonHelp(
        "Job `publish` reads evaluation and gates from storage, and publishes.", GOES_ON
    ),
    "ReviewRequired": ReasonHelp(
        "`evaluation.review.required` is set, and the panel's result is not in yet.",
        "`finetune review open NAME` shows the page, `finetune review submit NAME FILE...` hands"
        " the result in.",
    ),
    "PublicationApprovalRequired": ReasonHelp(
        "The candidate has passed, and `requireApproval` of the namespace has somebody decide"
        " whether it is published.",
        "Read the report, then `finetune publish NAME --reason WHY`, or `--reject`.",
    ),
    "PublicationRejected": ReasonHelp(
        "Somebody has decided that the candidate is not published.",
        "Read why; the candidate and its report are kept.",
    ),
    "Overridden": ReasonHelp(
        "The candidate missed its goal or a gate, and somebody has published it all the same.",
        "Read who and why in `status.publication`; the version's manifest and card say it too.",
    ),
    "PublishingFailed": ReasonHelp(
        "Job `publish` failed, and the candidate lies unpublished in storage.",
        "Read the message, correct the cause, and decide on it: `finetune publish NAME --override"
        " --reason WHY`, also where it was decided on before.",
    ),
    "Retrying": ReasonHelp(
        "A pod failed and the next one has not started.", "Read the cause in the message."
    ),
    "Succeeded": ReasonHelp("The stage, or the job, has done its work.", "Nothing."),
    "ResultNotReported": ReasonHelp(
        "A stage succeeded and its result was lost with its pod.",
        "Nothing: the next stage finds it in storage, and Job `publish` reads an evaluation. On a"
        " failed job: keep ended pods for a minute.",
    ),
    "ResultRefused": ReasonHelp(
        "A stage succeeded and its result was not taken: it breaks the bounds of the status, or is"
        " of another stage.",
        "The message names the field. Use a trainer image of the operator's version. What the stage"
        " found is in object storage, and the next stage reads it there.",
    ),
    "ApprovalRequired": ReasonHelp(
        "`dataset.approval` is `Required`, or the namespace's `requireApproval` has `DataSet`, and"
        " nobody has decided on the data set yet.",
        "Read the data set's report, then `finetune approve`; the message has digest and place.",
    ),
    "OtherDataApproved": ReasonHelp(
        "A FineTuneApproval names this job and a digest that its data set does not have.",
        "Look at the data set that the job has now, and decide on that one.",
    ),
    "ApprovedByRequester": ReasonHelp(
        "Only the requester of the job has approved, which does not count in this namespace.",
        "Have somebody else decide; the message names the FineTuneApproval.",
    ),
    "ApprovalsNotRead": ReasonHelp(
        "The job needs an approval and the operator cannot read FineTuneApprovals.",
        "Apply the `crds` folder and the roles of the chart; the job goes on by itself.",
    ),
    "Approved": ReasonHelp("Somebody has approved the data set; training may begin.", GOES_ON),
    "DataRejected": ReasonHelp(
        "Somebody has rejected the data set; nothing was trained.",
        "Correct what the message names, and create a new job.",
    ),
    "JobDeleted": ReasonHelp(
        "The Job of a stage was deleted before its end. It is made again and goes on at the last"
        " checkpoint, unless that happens again and again.",
        "Find who deletes it. Once the job has failed: `finetune retry`.",
    ),
    "NodesReleased": ReasonHelp(
        "Some pods of a training found no node while the others held theirs.",
        "Add nodes, ask for fewer, or use a queue, which admits all or none. It tries again.",
    ),
    "Outage": ReasonHelp(
        "A stage that has run before cannot go on: its image, its volumes, a node or its storage is"
        " away. It holds no GPUs meanwhile, costs no retry and tries again, at most hourly.",
        "Mend what the message names. The job ends only after `config.outageDeadlineSeconds`.",
    ),
    "NodeLost": ReasonHelp(
        "A pod that was to be deleted never ended: its node does not answer.",
        "Nothing for the job: the pod is replaced. Look at the node.",
    ),
    "NameTaken": ReasonHelp(
        "An object of somebody else has the name that one of this job or endpoint would have; or a"
        " server has another adapter loaded under the name of a version.",
        "Delete or rename that object, or restart the pod of the server; it goes on by itself.",
    ),
    "Forbidden": ReasonHelp(
        "The API server refuses a child: a ResourceQuota, a policy, or missing rights.",
        "Do what the message names; the operator tries again by itself.",
    ),
    "ChangeRefused": ReasonHelp(
        "The API server refuses a change of a Job, Workload or pod: to stop or resume it, or to "
        "move it to another queue. What runs goes on.",
        "Do what the message names; the operator tries again by itself.",
    ),
    "TrackingFailed": ReasonHelp(
        "A tracker of the job was away or refused something; the job goes on without it.",
        "The message says what: address, Secret or server; what is missing is sent by the next "
        "stage or attempt.",
    ),
    "Restored": ReasonHelp(
        "The job's ConfigMap or Service was deleted and is there again.",
        "Find out who deletes it.",
    ),
    "Invalid": ReasonHelp(
        "The API server finds a child invalid.", "Correct the field of `podTemplate` it names."
    ),
    "AdmissionDenied": ReasonHelp(
        "A policy or an admission webhook refuses a child.",
        "Change what its message names, or ask the policy's owner; the operator asks again.",
    ),
    "WebhookUnavailable": ReasonHelp(
        "An admission webhook does not answer, so no child can be created.",
        "Mend the webhook that the message names (Kueue's, often); the operator asks again.",
    ),
    "APIServerError": ReasonHelp(
        "The API server failed to create a child.", "Nothing, unless it lasts: the server's log."
    ),
    "NotManagedByKueue": ReasonHelp(
        "No Workload appeared for a queued Job.",
        "Is Kueue running, is the namespace one of its own, does the WorkloadPriorityClass exist?",
    ),
    "KueueNotInstalled": ReasonHelp(
        "The job names a queue and the operator does not use Kueue, or cannot list its Workloads.",
        "Install Kueue (`kueue.enabled` of the chart), see that its controller runs, or create the"
        " job without `queueName`.",
    ),
    "QuotaReserved": ReasonHelp("Kueue has reserved quota and admitted the stage.", GOES_ON),
    "SuspendedByUser": ReasonHelp("`spec.suspend` is true.", "Set it to false to go on."),
    "Resumed": ReasonHelp("The job was suspended and goes on.", GOES_ON),
    "WithinBudget": ReasonHelp("What the job should take is within its budget.", "Nothing."),
    "EstimateExceedsBudget": ReasonHelp(
        "The job should take more than its budget, and would be stopped with a save.",
        "Raise `budget` while it runs, or ask for less in a new job; `status.estimate` says what it"
        " rests on.",
    ),
    "BudgetTooSmall": ReasonHelp(
        "Not even GPUs at the peak of their data sheet would train the job within its budget.",
        "Raise `budget` in a new job, or ask for less: fewer epochs, fewer rows.",
    ),
    "HeldAfterTraining": ReasonHelp(
        "The job is trained, and `spec.holdAfter` keeps it from being evaluated.",
        "Nothing in a sweep, which chooses. Else remove `spec.holdAfter`, or set `spec.prune`.",
    ),
    "PruneRequested": ReasonHelp(
        "`spec.prune` has ended the job, which is no failure; what it has stored stays.",
        "Nothing. To begin from its weights: `finetune retry`, or `spec.initFrom` of a new job.",
    ),
    "JobSuspended": ReasonHelp(
        "Somebody other than the operator suspended a stage's Job.",
        "Set its `spec.suspend` to false, or find out who does that.",
    ),
    "Evaluated": ReasonHelp("Both models are scored.", GOES_ON),
    "GoalReached": ReasonHelp("The scores reach `spec.goal`.", "Nothing."),
    "Published": ReasonHelp("The version's manifest is written.", "Nothing."),
    "OutdatedCRD": ReasonHelp(
        "The CustomResourceDefinition is older than the operator, so no status can be written.",
        "Apply the `crds` folder of the chart; the job goes on by itself.",
    ),
    "StatusRefused": ReasonHelp(
        "The API server refuses the status. The job goes on, and suspension, deadlines and deletion"
        " work; what `kubectl get` shows is old.",
        "The message has the server's answer: mostly an old CustomResourceDefinition, a missing"
        " right, or an admission policy. The write is tried again.",
    ),
    "StatusCut": ReasonHelp(
        "The status cannot hold all that was found: a text was cut, or a field left out.",
        "The message names the field. The operator's log and object storage have the rest.",
    ),
    "ReconcileError": ReasonHelp(
        "The operator cannot handle this job: a defect.",
        "Report it with the traceback of the operator's log; it tries again.",
    ),
}

EVENTS = {
    "Accepted": ReasonHelp("The job or the sweep is accepted, and work on it begins.", "Nothing."),
    "DatasetReady": ReasonHelp(
        "The data is prepared, and too few rows are held out for what is asked.",
        "Hold out more rows, or ask for less.",
    ),
    "TrainingStarted": ReasonHelp("The pods of the training are running.", GOES_ON),
    "Suspended": ReasonHelp(
        "`spec.suspend` was set to true: running pods save and stop.",
        "Set it to false to go on.",
    ),
    "Pruned": ReasonHelp(
        "`spec.prune` has ended the job, which is no failure; what it has stored stays.",
        "Nothing. To begin from its weights: `finetune retry`, or `spec.initFrom` of a new job.",
    ),
    "Failed": ReasonHelp(
        "The job has failed; the message has the cause, and condition `Failed` its class.",
        "Do what the message says, then `finetune retry`, which begins from what was trained.",
    ),
}
"""Reasons of Events alone; most Events have the reason of a condition."""
