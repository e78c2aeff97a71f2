"""Reasons of the program itself, on a cluster and at a desk."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

PROGRAM = {
    "CodeNotTrusted": _Help(
        "The model runs code of its own.", "Say `--trust-remote-code` if you trust it here."
    ),
    "EmptyPrompt": _Help("The prompt is empty.", "Write one."),
    "InvalidJob": _Help("The job file is not valid.", "Correct what the message names."),
    "InvalidSetting": _Help(
        "An environment variable of the trainer has a value that it cannot have.",
        "Correct it where the message says.",
    ),
    "JobFileChanged": _Help(
        "The job file is not the one that the stage was created with.",
        "Create the job anew (`finetune retry`), and find out who may change ConfigMaps in its"
        " namespace.",
    ),
    "JobFileUnreadable": _Help("The job file cannot be read.", "Is it there and readable?"),
    "NoGPUAsked": _Help(
        "`--gpu` is given and the job trains on CPU.", "Set `resources.gpusPerNode`."
    ),
    "NotAnAdapter": _Help(
        "No run wrote this folder as its adapter.",
        "Give the adapter of a run, or a published version.",
    ),
    "PortInUse": _Help(
        "Another program listens on the port of the engine.",
        "Stop what listens there, or give another `--port`.",
    ),
    "Succeeded": _Help("The stage has done its work.", "Nothing."),
    "UnknownGPU": _Help("`--gpu` names no known GPU.", "Take one that the message lists."),
    "WorkDirUnwritable": _Help(
        "Work or cache folder cannot be written.", "Point them at folders that can."
    ),
}
