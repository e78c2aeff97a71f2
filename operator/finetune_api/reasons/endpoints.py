"""Meaning and remedy of each reason of a FineTuneEndpoint, and of the pods that serve it."""

from __future__ import annotations

from typing import get_args

from finetune_api.reason_help import ReasonHelp
from finetune_api.v1alpha1.status.traffic import DriftSignal

_WAIT = "Nothing: the endpoint goes on by itself."
_REPUBLISH = "Publish another version: run the job again under the same name. The active one stays."

_DRIFTED = (
    "Look at the page that the message names. Train on what is asked now, or change what is asked"
    " ([guide](../how-to/monitoring.md))."
)

_SIGNALS = {
    "PromptLength": "Requests are longer or shorter than the training prompts.",
    "Language": "The languages of requests are others than those of the training prompts.",
    "Vocabulary": "The words of requests are others than those of the training prompts.",
    "AnswerLength": "Answers are longer or shorter than those of the evaluation.",
    "Refusals": "The model refuses more or fewer answers than in its evaluation.",
    "InvalidJson": "More or fewer answers are no JSON than in the evaluation.",
    "Labels": "The shares of the labels that are answered are others than in the evaluation.",
    "Format": "The form of the answers is another than in the evaluation.",
    "ThumbsDown": "More than 5 % of users mark an answer as bad.",
    "Errors": "The engine fails for more users than 2 %.",
}

ENDPOINTS = {
    "Serving": ReasonHelp("The active version answers.", "Nothing."),
    "InvalidStatus": ReasonHelp(
        "This version of the operator cannot read the field of the status that the message names: a"
        " newer version wrote it, or somebody edited it. It changes nothing until it can.",
        "Bring CRD and operator to one version. After an edit, write the field as it was:"
        " `kubectl edit --subresource=status`.",
    ),
    "TooManyEndpoints": ReasonHelp(
        "The namespace has more endpoints than `config.maxEndpoints`. Newer ones do not serve.",
        "Delete another one, or ask your administrator. It starts within five minutes.",
    ),
    "UpToDate": ReasonHelp("The active version has all requests.", "Nothing."),
    "AsWanted": ReasonHelp("Nothing is wrong with the endpoint.", "Nothing."),
    "JobNotFound": ReasonHelp(
        "`spec.jobRef` names a FineTuneJob that is not in this namespace.",
        "Create the job, or create the endpoint with another `jobRef`.",
    ),
    "NoVersion": ReasonHelp(
        "The job has published no version yet, or not the one that `spec.version` names.",
        "Nothing while the job runs; else correct `spec.version`.",
    ),
    "FrontNotReady": ReasonHelp(
        "No pod of the namespace's front is ready.",
        "`kubectl describe deployment finetune-front`; the message has what is known.",
    ),
    "ServerNotReady": ReasonHelp(
        "No pod of the server is ready: it starts, loads the base model, or cannot be scheduled.",
        "Nothing at first. If it lasts, `kubectl describe` the Deployment that the message names.",
    ),
    "PodsMissing": ReasonHelp(
        "The active version answers, but from fewer pods than are wanted.",
        "The message has the cluster's words, such as a resource that no node has left, or an image"
        " that cannot be pulled.",
    ),
    "PodsRefuse": ReasonHelp(
        "Pods of the server refuse the active version, and others answer with it.",
        "The message has a pod and its reason. Restart no pod while files are damaged in the"
        " storage; delete a pod that alone goes on refusing.",
    ),
    "NotReported": ReasonHelp(
        "No pod of the server has told the operator for 90 seconds which versions it answers with.",
        "May the operator reach port 8081 of the pods? See the NetworkPolicies of the namespace and"
        " the log of container `agent`.",
    ),
    "Moving": ReasonHelp(
        "`spec.serve` or the operator's configuration was changed, so the version is verified on a"
        " further server before it leaves the present one.",
        _WAIT,
    ),
    "WaitsForTurn": ReasonHelp(
        "The operator's configuration was changed, and other servers move before this one.",
        "Nothing. If it lasts, look at the endpoint that the message leads to: its move may have"
        " failed. `config.serverMoves` is the number of servers that move at once.",
    ),
    "MoveRefused": ReasonHelp(
        "The active version does not answer as evaluated on the server that it was to move to. It"
        " goes on answering on the present one. The other server is stopped.",
        "Undo the edit of `spec.serve`, or the operator's configuration by `helm rollback`. The"
        " operator tries again an hour later, then more seldom, and after an edit of the spec.",
    ),
    "MoveStuck": ReasonHelp(
        "Pods of the server that the active version is to move to do not start. It goes on"
        " answering on the present one.",
        "The message has the cluster's words. Correct the image, free the resource, or undo the"
        " change (`helm rollback` for the operator's configuration).",
    ),
    "Fetching": ReasonHelp(
        "The version's files are fetched and compared with its manifest.",
        "Nothing. If it lasts, the message says what storage answers.",
    ),
    "Loading": ReasonHelp("The engine loads the version.", _WAIT),
    "Verifying": ReasonHelp(
        "The version is asked held-out questions of its evaluation, before anybody else may.", _WAIT
    ),
    "Verified": ReasonHelp("The version answers as its evaluation says.", "Nothing."),
    "AnswersDiffer": ReasonHelp(
        "The loaded version does not answer as it did in its evaluation.",
        "Read the message, which has lines that differ. Serve it on the engine and data type "
        "of the evaluation, or publish another version. The active one stays.",
    ),
    "AnswersLikeBase": ReasonHelp(
        "The loaded version answers like the base model: the engine takes no notice of its weights,"
        " mostly because the names of its modules are others.",
        "Do `method.adapter.targetModules` and the base model of the server belong together? Then "
        "publish another version. The active one stays.",
    ),
    "FilesDamaged": ReasonHelp(
        "A file of the version is missing, or is not the one that its manifest names.", _REPUBLISH
    ),
    "OtherBaseModel": ReasonHelp(
        "The version was trained on another base model than the server has.",
        "Does the repository of the base model have another revision now? Name one in `model.uri` "
        "of the job, and publish another version.",
    ),
    "NothingToCompare": ReasonHelp(
        "The version's evaluation has no answers that a server could be compared with.",
        "Hold out rows and have them evaluated (`evaluation`), and publish another version.",
    ),
    "EngineRefused": ReasonHelp(
        "The engine cannot load the version.",
        "The message has the engine's words: often a rank above `--max-lora-rank`, or a kind of "
        "adapter that it does not know.",
    ),
    "OthersDamaged": ReasonHelp(
        "Since the version was loaded, the base model or another version answers otherwise: the "
        "engine mixes adapters up. The version was unloaded.",
        "Serve it from a server of its own (`serve.dedicated`), or with another release of the "
        "engine.",
    ),
    "EngineSlow": ReasonHelp(
        "The engine does not answer in time. Answers that it has given are kept, and the others "
        "are asked again with growing pauses; after five tries without progress, when the engine "
        "starts again.",
        "Is the engine overloaded? The message says how many questions are answered. Give the "
        "server more GPUs or replicas, or restart its pod.",
    ),
    "FewQuestions": ReasonHelp(
        "The candidate is verified, on fewer than 20 held-out questions. It replaces no version by "
        "itself.",
        "`finetune endpoint promote NAME`, or name it in `spec.version`. Or hold out more rows, "
        "and publish another version.",
    ),
    "VersionRejected": ReasonHelp(
        "The newest version was refused or rolled back, and none before it was served.",
        "Read `status.rejected`. Publish another version, or name one in `spec.version`.",
    ),
    "VersionNotFound": ReasonHelp(
        "Object storage has no version of the number that is wanted, mostly because `spec.version`"
        " names one that was never published.",
        "Set `spec.version` to a published version, or remove it. The active one stays.",
    ),
    "DecisionsUnread": ReasonHelp(
        "The endpoint has no version that answers, and its server still reads from object storage"
        " which version answered before.",
        _WAIT,
    ),
    "Recorded": ReasonHelp(
        "The decisions on the endpoint are stored beside its versions.", "Nothing."
    ),
    "Restored": ReasonHelp(
        "The status was lost, and the stored decisions were taken over: the version that answered"
        " before answers again, and rejected versions stay out.",
        "Nothing.",
    ),
    "StatusIsOlder": ReasonHelp(
        "The stored decisions are newer than the endpoint's status, mostly because the cluster was"
        " restored from an older backup.",
        "Is the active version the right one? If not, set `spec.version`. The next decision is"
        " stored again.",
    ),
    "DecisionsDamaged": ReasonHelp(
        "The stored decisions on the endpoint cannot be read.",
        "Nothing: they are stored anew once a version answers.",
    ),
    "RollingOut": ReasonHelp("The candidate gets a share of the requests.", _WAIT),
    "Held": ReasonHelp(
        "The candidate is shown to be worse, and `rollout.onWorse` is `Hold`; or a front took it "
        "out of rotation, and its server is waited for.",
        "`finetune status endpoint/NAME` shows the counts. `finetune endpoint rollback NAME` "
        "goes back to the active version; remove `rollout` to go on.",
    ),
    "Undecided": ReasonHelp(
        "The requests of this step cannot decide: too few users send them, nearly all bad answers "
        "went to one sender's users, or the evidence stays between as good and worse.",
        "The message says what is missing ([table](../explanation/rollouts.md)). "
        "`finetune endpoint promote NAME --at-once` or `rollback NAME` decides.",
    ),
    "Worse": ReasonHelp(
        "Requests show, at `rollout.certainty`, that the candidate is worse. It was rolled back.",
        "Read in `status.decisions` which signal says so. " + _REPUBLISH,
    ),
    "Tripped": ReasonHelp(
        "The candidate failed hard: its server refused connections, or failed several times in a "
        "row. The front took it out of rotation.",
        "Look at the log of its server. `finetune endpoint promote NAME --to VERSION` tries the "
        "version again.",
    ),
    "Refused": ReasonHelp(
        "A version was not verified, and answers nobody.", "Read the message of the Event."
    ),
    "Advanced": ReasonHelp("The candidate gets a larger share of the requests.", _WAIT),
    "Promoted": ReasonHelp("The candidate is the active version now.", "Nothing."),
    "RolledBack": ReasonHelp(
        "The candidate was taken out of rotation; the active version has all requests.",
        "Read the message of the Event, which has the numbers.",
    ),
    "NoDrift": ReasonHelp(
        "Users ask and get what those of the version's first window did.", "Nothing."
    ),
    "NoComparison": ReasonHelp(
        "The first window of the version, or the one after it, has not passed.", _WAIT
    ),
    "TooFewUsers": ReasonHelp(
        "The window has fewer users than `monitor.minUsers`, or too few to find any change that"
        " would be of interest.",
        "Capture a larger share (`capture.sample`), or write a longer `monitor.window`.",
    ),
    "LooksTooFrequent": ReasonHelp(
        "`monitor.every` is less than `config.minLookInterval`, which counts instead.",
        "Write a longer `monitor.every`, or ask your administrator.",
    ),
    "LookFailed": ReasonHelp(
        "The last look at captured answers failed.",
        "Read the message. The next look makes up for it.",
    ),
    "QualityBelowGoal": ReasonHelp(
        "People find fewer answers good than the goal asks for: the whole interval is below it.",
        "Read the answers that people marked as bad, correct them and train on them "
        "([guide](../how-to/monitoring.md#live-quality)).",
    ),
    "NotMonitored": ReasonHelp("`spec.monitor` was taken out.", "Nothing."),
    "Drifted": ReasonHelp("Traffic has changed; the message says in which signal.", _DRIFTED),
    **{name: ReasonHelp(_SIGNALS[name], _DRIFTED) for name in get_args(DriftSignal)},
}
"""Reasons of FineTuneEndpoints."""
