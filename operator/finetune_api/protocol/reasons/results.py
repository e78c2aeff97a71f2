"""Reasons of `evaluate` and of publishing."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

RESULTS = {
    "AnswersMissing": _Help(
        "Workers left questions unanswered: a defect.", "Report it with the log."
    ),
    "EngineFailed": _Help(
        "The vLLM server beside the evaluation ended, or stopped answering.",
        "Read what it said (`kubectl logs POD -c vllm`, or `logs/` of the run): memory, a model it "
        "does not know.",
    ),
    "EngineMissing": _Help(
        "`evaluation.engine` is `VLLM`, and no server stands beside the stage.",
        "Have `config.vllmImage` set, or use `Transformers`.",
    ),
    "EngineNotReady": _Help(
        "The vLLM server did not come up in time.",
        "Read what it said: `kubectl logs POD -c vllm`.",
    ),
    "EngineRefuses": _Help(
        "The vLLM server cannot be asked as the evaluation asks.",
        "Have `config.vllmImage` changed (0.32 or newer), or use `Transformers`.",
    ),
    "FolderMissing": _Help(
        "A folder that is published is not there: a defect.", "Report it with the log."
    ),
    "MergeFailed": _Help("The merge ended without a word.", "Read the pod's log."),
    "MergeNotFinite": _Help(
        "The merged weights are not finite: training diverged.", "Lower `learningRate`."
    ),
    "MergeOutOfMemory": _Help(
        "The merge needs more memory.", "Raise `resources.memory`, or drop `Merged`."
    ),
    "MergeUnsupported": _Help(
        "An adapter cannot be folded into this base.",
        "Name the unquantised model, or drop `Merged`.",
    ),
    "NoWeights": _Help("The saved folder holds no weights: a defect.", "Report it with the log."),
    "RedTeamFailed": _Help(
        "The garak beside the evaluation was killed, did not list its probes, or did "
        "nothing for half an hour.",
        "Read the message, then `evaluate-garak.log` and `evaluate-garak-debug.log` in `logs/` of "
        "the run (the container itself prints nothing); "
        "`redTeam.severity: Warn` goes on without it.",
    ),
    "RedTeamMissing": _Help(
        "`evaluation.redTeam` is given, and no garak stands beside the stage.",
        "Have `config.garakImage` set, or leave `redTeam` out.",
    ),
    "RedTeamProbeUnknown": _Help(
        "`evaluation.redTeam.probes` names what this garak does not have, or does not run.",
        "Name probes that the message or `garak --list_probes` lists.",
    ),
    "RedTeamUnsuitable": _Help(
        "This garak is too old for a selection of probes.",
        "Have `config.garakImage` changed (0.17.1), or leave `redTeam` out.",
    ),
    "StoppedBeforeMerge": _Help(
        "Stopped on request; the adapter is published.", "Nothing: the next attempt only merges."
    ),
    "StoppedBeforeScores": _Help(
        "Stopped on request while the models were asked.",
        "Nothing: the next attempt asks for the rest.",
    ),
    "LooksContended": _Help(
        "Other evaluations of the same held-out side keep counting.", "Run again."
    ),
    "UnsupportedFile": _Help(
        "A file that is published is no regular file: a defect.", "Report it with the log."
    ),
    "VersionContended": _Help("Other runs of the same name keep publishing.", "Run again."),
    "WorkerKilled": _Help(
        "A process of the evaluation was killed.", "Nothing; if it repeats: the node's memory."
    ),
    "WorkersFailed": _Help(
        "A process of the evaluation ended without a word.", "Read the pod's log."
    ),
}
