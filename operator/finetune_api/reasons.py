"""Meaning and remedy of each reason in a status.

``OPERATOR_REASONS`` come from the operator, pods and Kueue; the trainer's are in
:mod:`finetune_api.protocol.reasons`. The reference page has both. The metrics use the first as
label values, which bounds their number.
"""

from __future__ import annotations

from finetune_api.endpoint_reasons import ENDPOINTS
from finetune_api.reason_help import ReasonHelp

_WAIT = "Nothing: the job goes on by itself."
_SCHEDULING = "Nothing, unless it lasts: then lower `resources` or add nodes."
_IMAGE = "Check `trainer.image`, the registry and `podTemplate.imagePullSecrets`."

ACCEPTANCE = {
    "Valid": ReasonHelp("The spec is valid and allowed on this cluster.", "Nothing."),
    "InvalidSpec": ReasonHelp(
        "This version of the operator cannot read the spec.",
        "Bring CRD and operator to one version.",
    ),
    "InvalidTemplate": ReasonHelp(
        "A source's `template` is not valid Jinja.", "Correct it where the message says."
    ),
    "URINotAllowed": ReasonHelp(
        "A `file://` path outside the allowed folders, or a malformed `pvc://`.",
        "Use `s3://` or `pvc://claim/path`.",
    ),
    "EndpointNotAllowed": ReasonHelp(
        "`s3.endpoint` is not on the cluster's list.",
        "Have it added to `config.allowedEndpoints`.",
    ),
    "TrackerNotAllowed": ReasonHelp(
        "`tracking.mlflow.uri` or `tracking.wandb.uri` is not on the cluster's list.",
        "Have it added to `config.allowedTrackers`, or leave that tracker out.",
    ),
    "PriceNotSet": ReasonHelp(
        "`budget.amount` is set, and this cluster has no price of a GPU for an hour.",
        "Set `budget.gpuHours`, or ask the administrator for `gpuHourPrice`.",
    ),
    "LicenceNotAllowed": ReasonHelp(
        "`model.licence` is none that the administrator allows for base models.",
        "Choose another model, or have the licence added to `config.allowedLicences`.",
    ),
    "RequesterNotNamed": ReasonHelp(
        "`requestedBy` is missing in a namespace where requesters do not approve their own jobs.",
        "Write your user name there (`kubectl auth whoami`), or `finetune submit"
        " --name-requester`.",
    ),
    "RemoteCodeNotAllowed": ReasonHelp(
        "`model.trustRemoteCode` is off on this cluster.",
        "Choose a model without code of its own, or ask the administrator.",
    ),
    "ImageNotAllowed": ReasonHelp(
        "`trainer.image` is none that the administrator allows here.",
        "Leave it out, or have it added to `config.allowedImages`.",
    ),
    "EngineNotAllowed": ReasonHelp(
        "`evaluation.engine` is `VLLM`, and the administrator has named no image for it.",
        "Use `Transformers`, or have `config.vllmImage` set.",
    ),
    "RedTeamNotAllowed": ReasonHelp(
        "`evaluation.redTeam` is given, and the administrator has named no image for it.",
        "Leave it out, or have `config.garakImage` set.",
    ),
    "CustomMetricNotAllowed": ReasonHelp(
        "`evaluation.customMetric` names a file, and jobs may bring no code of their own here.",
        "Leave it out, or have `config.allowCustomMetrics` turned on.",
    ),
    "JudgeNotAllowed": ReasonHelp(
        "`evaluation.judge.endpoint` is none that rows may be sent to here.",
        "Leave the judge out, or have it added to `config.allowedJudgeEndpoints`.",
    ),
    "ServiceAccountNotAllowed": ReasonHelp(
        "`podTemplate.serviceAccountName` is none that the administrator allows here.",
        "Leave it out, or have it added to `config.allowedServiceAccounts`.",
    ),
    "NodeSelectorNotAllowed": ReasonHelp(
        "`podTemplate` asks for nodes that the administrator does not allow here.",
        "Leave the label out, or have it added to `config.allowedNodeSelectors`.",
    ),
    "MountNotAllowed": ReasonHelp(
        "`podTemplate.volumeMounts` has a path outside the folders that the administrator allows.",
        "Mount below `/data` or `/mnt`, or have the folder added to `config.allowedMountRoots`.",
    ),
    "EnvironmentNotAllowed": ReasonHelp(
        "`podTemplate.env` sets a variable that the administrator does not allow here.",
        "Leave it out, name your own `APP_...`, or have it added to `config.allowedEnvironment`.",
    ),
    "LabelNotAllowed": ReasonHelp(
        "`podTemplate.labels` sets a label that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedLabels`.",
    ),
    "AnnotationNotAllowed": ReasonHelp(
        "`podTemplate.annotations` sets an annotation that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedAnnotations`.",
    ),
    "TolerationNotAllowed": ReasonHelp(
        "`podTemplate.tolerations` tolerates a taint that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedTolerations`.",
    ),
    "PriorityClassNotAllowed": ReasonHelp(
        "`podTemplate.priorityClassName` is none that the administrator allows here.",
        "Leave it out, or have it added to `config.allowedPriorityClasses`.",
    ),
    "RuntimeClassNotAllowed": ReasonHelp(
        "`podTemplate.runtimeClassName` is none that the administrator allows here.",
        "Leave it out, or have it added to `config.allowedRuntimeClasses`.",
    ),
    "SchedulerNotAllowed": ReasonHelp(
        "`podTemplate.schedulerName` is none that the administrator allows here.",
        "Leave it out, or have it added to `config.allowedSchedulers`.",
    ),
    "ReservedName": ReasonHelp(
        "`podTemplate` uses a name that the operator needs.", "Rename what the message names."
    ),
}
"""Reasons of ``Accepted``."""

LIFE = {
    "Preparing": ReasonHelp("`prepare` reads, checks and divides the examples.", _WAIT),
    "Prepared": ReasonHelp("The data set is stored and verified.", _WAIT),
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
    "WaitingForQuota": ReasonHelp("Kueue has not looked at the Job yet.", _WAIT),
    "Queued": ReasonHelp("The job waits in its queue.", _WAIT),
    "Running": ReasonHelp("Training pods run.", _WAIT),
    "NoRecentProgress": ReasonHelp(
        "Training pods run, and the last progress report is more than 15 minutes old.",
        "Look at the pod's log: a training that hangs ends by itself; else pods no longer reach "
        "the progress endpoint.",
    ),
    "Evaluating": ReasonHelp("Base and tuned model are compared.", _WAIT),
    "Publishing": ReasonHelp(
        "Job `publish` reads evaluation and gates from storage, and publishes.", _WAIT
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
    "Approved": ReasonHelp("Somebody has approved the data set; training may begin.", _WAIT),
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
        "Change what its message names, or ask whoever set the policy; the operator asks again.",
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
    "QuotaReserved": ReasonHelp("Kueue has reserved quota and admitted the stage.", _WAIT),
    "SuspendedByUser": ReasonHelp("`spec.suspend` is true.", "Set it to false to go on."),
    "Resumed": ReasonHelp("The job was suspended and goes on.", _WAIT),
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
    "Evaluated": ReasonHelp("Both models are scored.", _WAIT),
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
"""Reasons that the operator gives during the life of a job."""

EVENTS = {
    "Accepted": ReasonHelp("The job or the sweep is accepted, and work on it begins.", "Nothing."),
    "DatasetReady": ReasonHelp(
        "The data is prepared, and too few rows are held out for what is asked.",
        "Hold out more rows, or ask for less.",
    ),
    "TrainingStarted": ReasonHelp("The pods of the training are running.", _WAIT),
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
    "Stopped": ReasonHelp("The stage saved and stopped as it was asked to.", _WAIT),
    "ImageError": ReasonHelp("The image cannot be pulled or run.", _IMAGE),
    "Unschedulable": ReasonHelp("No node can take the pod.", _SCHEDULING),
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
        "The pod waits for its scheduling gates.", "Nothing: whoever set them removes them."
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
    "PreemptionByScheduler": ReasonHelp("A pod of higher priority took the place.", _WAIT),
    "EvictionByEvictionAPI": ReasonHelp("The pod was evicted, mostly by a drain.", _WAIT),
    "DeletionByTaintManager": ReasonHelp("The node got a taint that the pod does not bear.", _WAIT),
    "DeletionByPodGC": ReasonHelp("The pod's node is gone.", _WAIT),
    "TerminationByKubelet": ReasonHelp("The node is short of something, or shuts down.", _WAIT),
}
"""Reasons that are read off pods and their containers."""

QUEUE = {
    "Pending": ReasonHelp("The Workload waits for quota.", _WAIT),
    "Inadmissible": ReasonHelp(
        "The queue cannot take the Workload as it is.",
        "Read the message: a LocalQueue or ClusterQueue is missing or stopped.",
    ),
    "Preempted": ReasonHelp(
        "Something more important got the GPUs; the job resumes at its last checkpoint.", _WAIT
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
        "Ask whoever runs the check; then activate the Workload as the message says.",
    ),
    "DeactivatedDueToMaximumExecutionTimeExceeded": ReasonHelp(
        "The job was admitted for longer than Kueue's limit allows.",
        "Have the limit raised, then activate the Workload as the message says.",
    ),
    "Reactivated": ReasonHelp("The Workload is active again.", _WAIT),
    "AdmissionChecksPending": ReasonHelp(
        "Quota is reserved; the checks that the message names have not passed yet.", _WAIT
    ),
    "NodeFailures": ReasonHelp("A node failed, and Kueue places the job anew.", _WAIT),
    "FailedToStart": ReasonHelp(
        "What Kueue or a check adds to the pods contradicts `podTemplate`.",
        "Take the key that the message names out of `podTemplate`.",
    ),
    "MultiKueue": ReasonHelp(
        "The LocalQueue hands its Jobs to other clusters, where this one's pods cannot run.",
        "Use another queue, or create the job on the other cluster.",
    ),
    "QueueChanged": ReasonHelp("An edit of queue or priority was carried to the Job.", _WAIT),
    "PodsReadyTimeout": ReasonHelp(
        "The pods were not ready in the time that Kueue allows.", "Look at why they wait."
    ),
    "AdmissionCheck": ReasonHelp("An admission check is not done, or said no.", _WAIT),
    "ClusterQueueStopped": ReasonHelp("The ClusterQueue is stopped.", "Ask its administrator."),
    "LocalQueueStopped": ReasonHelp("The LocalQueue is stopped.", "Ask its administrator."),
}
"""Reasons that Kueue gives."""

SWEEPS = {
    "InvalidTrial": ReasonHelp(
        "A trial of a FineTuneSweep would be none that a FineTuneJob's schema takes.",
        "Correct the parameter that the message names, in a new sweep.",
    ),
    "TrialsCreated": ReasonHelp("The sweep has created its first trials.", _WAIT),
    "TrialFailed": ReasonHelp(
        "A trial has failed for good; the message has its reason. The search goes on without it.",
        "Nothing, unless others fail alike: `kubectl describe ftj` of the trial says more.",
    ),
    "TrialPruned": ReasonHelp(
        "A trial was ended before its last step; what it has stored stays.", "Nothing."
    ),
    "TrialNotScored": ReasonHelp(
        "A trial was trained and has no score by the objective, so that it cannot win.",
        "Read the message, which has the reason; the other trials go on.",
    ),
    "TrialNotChanged": ReasonHelp(
        "The API server refuses a change of a trial, to stop it or to let it go on; the sweep "
        "waits until it can.",
        "Do what the message names; the operator tries again by itself.",
    ),
    "Selected": ReasonHelp(
        "A trial is chosen: it is evaluated, and published if it passes.", _WAIT
    ),
    "Searching": ReasonHelp("Trials are created, trained and compared.", _WAIT),
    "NoHeadway": ReasonHelp(
        "For two hours no trial of the sweep has begun, reported a step or ended. It goes on by "
        "itself once one does.",
        "`finetune sweep describe NAME` shows what each trial does; the message names the one that "
        "moved last. [What may be the cause](../how-to/troubleshooting.md#finetunesweepstalled).",
    ),
    "Replicating": ReasonHelp("The best setting is trained again, with other seeds.", _WAIT),
    "BudgetReached": ReasonHelp(
        "`spec.budget` has ended the search; the best of what was trained is chosen.",
        "Nothing, or raise the budget before the choice is made.",
    ),
    "NoTrialTrained": ReasonHelp(
        "No trial came to its end with a validation loss, or with a score by the objective.",
        "Read the message; `kubectl describe ftj` of a trial that failed says more.",
    ),
    "NotScored": ReasonHelp(
        "A trial was trained, and did not tell the score that trials are compared by.",
        "Use a trainer image of the operator's version; other trials go on.",
    ),
    "TrialDeleted": ReasonHelp(
        "Somebody deleted a trial, or took it from its sweep. It stays counted, as failed; the"
        " sweep goes on, and ends if it was the chosen one.",
        "Nothing; if the sweep has failed, create it again.",
    ),
}
"""Reasons of FineTuneSweeps; one whose chosen trial failed has the reason of that."""

OPERATOR_REASONS: dict[str, ReasonHelp] = {
    **ACCEPTANCE,
    **LIFE,
    **EVENTS,
    **CLASSES,
    **PODS,
    **QUEUE,
    **SWEEPS,
    **ENDPOINTS,
}
"""All of them."""
