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
    "Backoff": ReasonHelp(
        "Cycles in a row have brought no version. The pause after each is longer, up to 12 hours.",
        "Read `status.history`, and correct the cause. An edit of the spec ends the pause, and"
        " `finetune schedule trigger` does not wait for it.",
    ),
    "TooFrequent": ReasonHelp(
        "A trigger has fired again before `config.minCycleInterval` was over.",
        "Write rarer triggers or a longer `cooldown`, or ask your administrator.",
    ),
    "FewLooksLeft": ReasonHelp(
        "Drift has fired. Fewer than 3 further evaluations of the held-out rows can meet the goal.",
        "Hold out new rows, as the message says. Other triggers begin cycles as before.",
    ),
    "TooManySchedules": ReasonHelp(
        "The namespace has more schedules than `config.maxSchedules`. Only the oldest train.",
        "Suspend or delete another one, or ask your administrator.",
    ),
    "TooManyJobs": ReasonHelp(
        "The schedules of the namespace have `config.maxScheduleJobs` FineTuneJobs.",
        "Delete jobs, set smaller history limits, or ask your administrator.",
    ),
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
        "Nothing: the next one comes. A cycle, a pause or `budget` was in the way, or the operator"
        " was away.",
    ),
    "TooManyMissedTimes": ReasonHelp(
        "More than 100 starts by `triggers.cron` were missed; the last of them is made up for.",
        "Was a pause or a cycle long, the operator away, or a clock wrong? Set"
        " `startingDeadlineSeconds` to leave late ones out.",
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
    "CycleTimedOut": ReasonHelp(
        "A cycle lasted longer than `cycleDeadlineSeconds`. Its FineTuneJob is deleted if it had"
        " not ended.",
        "Give it an approval, quota or requests in time, or set a longer deadline.",
    ),
    "CycleDeleted": ReasonHelp("Somebody deleted the FineTuneJob of a cycle.", "Nothing."),
}
"""Reasons of FineTuneSchedules."""
