"""Reasons of FineTuneSweeps; one whose chosen trial failed has the reason of that."""

from __future__ import annotations

from finetune_api.reason_help import GOES_ON, ReasonHelp

SWEEPS = {
    "InvalidTrial": ReasonHelp(
        "A trial of a FineTuneSweep would be none that a FineTuneJob's schema takes.",
        "Correct the parameter that the message names, in a new sweep.",
    ),
    "TrialsCreated": ReasonHelp("The sweep has created its first trials.", GOES_ON),
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
        "A trial is chosen: it is evaluated, and published if it passes.", GOES_ON
    ),
    "Searching": ReasonHelp("Trials are created, trained and compared.", GOES_ON),
    "Replicating": ReasonHelp("The best setting is trained again, with other seeds.", GOES_ON),
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
