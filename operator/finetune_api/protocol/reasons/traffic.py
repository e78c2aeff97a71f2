"""Reasons of captured traffic, and of looks at it."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

TRAFFIC = {
    "ClockMovedBack": _Help(
        "Answers of a time to come have been looked at: a clock was wrong.",
        "Set it right and wait until then, or delete the file that the message names.",
    ),
    "DamagedFeedback": _Help("An entry of feedback cannot be read.", "Delete the object."),
    "DamagedSegment": _Help("A file of captured answers cannot be read.", "Delete the object."),
    "DamagedState": _Help(
        "The state of a monitor cannot be read.",
        "Delete the file that the message names; the monitor gathers a new reference.",
    ),
    "EvaluationUnreadable": _Help(
        "The answers of a version's evaluation cannot be read.", "Publish another version."
    ),
    "NothingToWatch": _Help(
        "Training and evaluation have nothing of the signals that are to be watched.",
        "Name other ones in `monitor.signals`, or leave the field out.",
    ),
    "OtherEvaluation": _Help(
        "The evaluation in storage is not the one that the version was published with.",
        "Publish another version.",
    ),
    "OtherVersion": _Help(
        "The version in storage is not the one that answers.", "Publish another version."
    ),
    "SegmentChanging": _Help(
        "A file of captured answers goes on changing while answers are deleted from it.",
        "Find the other writer, and delete again.",
    ),
}
