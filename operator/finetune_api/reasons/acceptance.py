"""Reasons of ``Accepted``."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp

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
        "A `file://` path or an `s3://` folder outside the allowed ones, a malformed `pvc://`, or"
        " an endpoint whose answers would go to a `pvc://`.",
        "Use an allowed `s3://` folder, or for jobs `pvc://claim/path`.",
    ),
    "TrafficNotCaptured": ReasonHelp(
        "A `traffic://` source names no FineTuneEndpoint of the namespace, or one that captures"
        " nothing.",
        "Correct the name, or set `spec.capture` of the endpoint. A new job waits a minute for it.",
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
    "ModelDownloadNotAllowed": ReasonHelp(
        "Pods would download `model.uri` while they, or the other nodes of the job, hold GPUs.",
        "Have `config.cacheClaim` set, or put the model on a volume and name it as `pvc://`, "
        "or have `config.modelDownloads` set to `Anywhere`.",
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
    "ExtraResourceNotAllowed": ReasonHelp(
        "`podTemplate.extraResources` names a resource that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedExtraResources`.",
    ),
    "ResourceClaimNotAllowed": ReasonHelp(
        "`podTemplate.resourceClaims` names a template that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedResourceClaimTemplates`.",
    ),
    "CapabilityNotAllowed": ReasonHelp(
        "`podTemplate.capabilities` names one that the administrator does not allow here.",
        "Leave it out, or have it added to `config.allowedCapabilities`.",
    ),
    "ReservedName": ReasonHelp(
        "`podTemplate` uses a name that the operator needs.", "Rename what the message names."
    ),
}
