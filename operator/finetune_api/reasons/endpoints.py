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
        "This version of the operator cannot read the status, which a newer one wrote.",
        "Bring CRD and operator to one version.",
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
    "GatewayNotFound": ReasonHelp(
        "`serve.routing` is `Gateway`, and the cluster has no inference gateway for it.",
        "Write `Front`, or ask the administrator to set `config.gateway` and to install it.",
    ),
    "FrontNotReady": ReasonHelp(
        "No pod of the namespace's front is ready.",
        "`kubectl describe deployment finetune-front`; the message has what is known.",
    ),
    "ServerNotReady": ReasonHelp(
        "No pod of the server is ready: it starts, loads the base model, or cannot be scheduled.",
        "Nothing at first. If it lasts, `kubectl describe` the Deployment that the message names.",
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
    "VersionRejected": ReasonHelp(
        "The newest version was refused or rolled back, and none before it was served.",
        "Read `status.rejected`. Publish another version, or name one in `spec.version`.",
    ),
    "RollingOut": ReasonHelp("The candidate gets a share of the requests.", _WAIT),
    "Held": ReasonHelp(
        "The candidate is shown to be worse, and `rollout.onWorse` is `Hold`; or a front took it "
        "out of rotation, and its server is waited for.",
        "`finetune endpoint describe NAME` shows the counts. `finetune endpoint rollback NAME` "
        "goes back to the active version; remove `rollout` to go on.",
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
    "NoDrift": ReasonHelp("Answers and requests are what the version was made for.", "Nothing."),
    "TooFewAnswers": ReasonHelp(
        "Fewer answers have been captured than `monitor.minAnswers`.",
        "Nothing; or capture a larger share (`capture.sample`).",
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
