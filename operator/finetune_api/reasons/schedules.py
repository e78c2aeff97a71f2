"""Meaning and remedy of each reason of a FineTuneSchedule."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp

_WAIT = "Nothing: the schedule goes on by itself."
_READ = "Read the message, and `kubectl describe ftj` of the job. The version that answered stays."

SCHEDULES = {
    "WaitingForTrigger": ReasonHelp("No trigger of the schedule has fired.", _WAIT),
    "CycleRunning": ReasonHelp(
        "A FineTuneJob of the schedule runs, or its version has to prove itself in traffic.", _WAIT
    ),
    "CoolingDown": ReasonHelp("The last cycle began less than `cooldown` ago.", _WAIT),
    "BudgetSpent": ReasonHelp(
        "The jobs or GPU hours of `budget` are used up in this period.",
        "Nothing: the next period begins by itself. Or raise `budget`.",
    ),
    "EndpointNotFound": ReasonHelp(
        "`spec.endpointRef` names a FineTuneEndpoint that is not in this namespace.",
        "Create the endpoint, or create the schedule with another `endpointRef`.",
    ),
    "InvalidSchedule": ReasonHelp(
        "`triggers.cron` or `triggers.timeZone` cannot be read.",
        "Correct what the message names.",
    ),
    "Triggered": ReasonHelp("A trigger has fired; a cycle begins.", _WAIT),
    "MissedStart": ReasonHelp(
        "A start by `triggers.cron` was missed by more than `startingDeadlineSeconds`.",
        "Nothing: the next one comes. A cycle, `cooldown` or `budget` was in the way, or the"
        " operator was away.",
    ),
    "TooManyMissedTimes": ReasonHelp(
        "More than 100 starts by `triggers.cron` were missed; the last of them is made up for.",
        "Was the operator away, or a clock wrong? Set `startingDeadlineSeconds` to leave late ones"
        " out.",
    ),
    "CyclePromoted": ReasonHelp("The version of a cycle is the active one now.", "Nothing."),
    "CyclePublished": ReasonHelp(
        "The cycle has published a version, and no endpoint takes it.",
        "Nothing; or remove `spec.version` of the endpoint.",
    ),
    "CycleRolledBack": ReasonHelp("Traffic showed that the version of a cycle is worse.", _READ),
    "CycleRefused": ReasonHelp("The version of a cycle was not verified.", _READ),
    "CycleSuperseded": ReasonHelp("A later version came before that of the cycle.", "Nothing."),
    "CycleNotPublished": ReasonHelp("Goal, gates or a person said no to the result.", _READ),
    "CycleFailed": ReasonHelp("The FineTuneJob of a cycle failed.", _READ),
    "CycleDeleted": ReasonHelp("Somebody deleted the FineTuneJob of a cycle.", "Nothing."),
}
"""Reasons of FineTuneSchedules."""
