"""The choice of the best trial, and all that follows the search."""

from __future__ import annotations

from finetune_api.names import trial_name
from finetune_operator.finetunesweep.search import ranking
from finetune_operator.finetunesweep.step import Step
from finetune_operator.finetunesweep.trials.trial import Trial
from finetune_operator.status.conditions import ConditionType, Reason

_CAN_END = ("Publishing", "Published")
_NOT_GOOD_ENOUGH = (Reason.GOAL_NOT_MET, Reason.GATES_NOT_MET)


def find_chosen(step: Step) -> Trial | None:
    """Return the trial that the sweep or a person released to its evaluation.

    The release is the record of the choice. Of several trials, it is the one in the status, else
    the first. The release of a trial that ended untrained is no choice.
    """
    released = [trial for trial in step.trials if trial.is_released]
    named = [trial for trial in released if trial.name == step.draft.was_chosen]
    released = [each for each in released if each.state in _CAN_END or each.is_trained]
    return next(iter((*named, *released)), None)


def best_of_search(step: Step) -> Trial | None:
    """Return the trained trial of the search with the best score; None without any."""
    return _winner(step.searched)


def choose(step: Step) -> None:
    """Let the winner go on; without one, end the sweep."""
    best = _winner(step.trials)
    if best is not None:
        step.patch(best, holdAfter=None)
        return
    failed = [trial for trial in step.trials if trial.state == "Failed"]
    unscored = [trial for trial in step.trials if trial.why_unscored is not None]
    if unscored:
        message = f"No trial that was trained to its end has a score. {unscored[0].unscored_text}"
    elif failed:
        message = (
            f"No trial was trained to its end. {failed[0].name} failed with {failed[0].reason}:"
            f" {failed[0].message}"
        )
    elif step.deleted.numbers:
        names = [trial_name(step.observed.name, number) for number in sorted(step.deleted.numbers)]
        message = (
            f"No trial that is there was trained to its end; {len(names)} were deleted, {names[0]}"
            " among them. Create the sweep again."
        )
    else:
        message = (
            "No trial was trained to its end with a validation loss, so there is none to choose."
            " Raise spec.budget or earlyStopping.minSteps in a new sweep."
        )
    step.fail(Reason.NO_TRIAL_TRAINED, message)


def follow_chosen(step: Step, chosen: Trial) -> None:
    """End the other trials, and tell how the chosen one ends: then the sweep ends too."""
    step.chosen = chosen
    step.prune_all_but(chosen)
    is_held_at_rung = step.halves(chosen) and chosen.is_suspended
    if is_held_at_rung and not (step.draft.was_chosen or step.observed.spec.suspend):
        step.patch(chosen, suspend=False)
    if not step.draft.was_chosen:
        step.draft.announce("Selected", f"{chosen.name} is chosen, with {chosen.score_text}")
    status = chosen.job.get("status") or {}
    if chosen.state == "Published":
        artifact = status.get("artifact") or {}
        version = f" as version {artifact['version']}" if artifact.get("version") else ""
        where = f": {artifact['manifestUri']}" if artifact.get("manifestUri") else ""
        step.complete(f"{chosen.name} is published{version}{where}")
    elif chosen.state == "Failed":
        _fail(step, chosen)
    elif chosen.state == "Pruned":
        step.fail(
            Reason.PRUNE_REQUESTED,
            f"{chosen.name} was chosen, and then ended by spec.prune: nothing is published.",
        )
    else:
        conditions = step.draft.conditions
        reason = str(status.get("reason") or "")
        detail = f"{chosen.phase}{f', {reason}' if reason else ''}"
        text = f"{chosen.name} is chosen; it is evaluated and published by itself: {detail}."
        conditions.set(ConditionType.PROGRESSING, True, Reason.PUBLISHING, text)
        step.under_way = "Publishing"


def _fail(step: Step, chosen: Trial) -> None:
    if chosen.reason in _NOT_GOOD_ENOUGH:
        begin = f"The chosen trial {chosen.name} is not published, and its candidate is kept"
    else:
        begin = f"The chosen trial {chosen.name} failed"
    message = f"{begin}: {chosen.message}"
    step.draft.conditions.set(ConditionType.PUBLISHED, False, chosen.reason, message)
    step.fail(chosen.reason or Reason.NO_TRIAL_TRAINED, message)


def _winner(trials: tuple[Trial, ...]) -> Trial | None:
    standing = ranking.winner(trial.for_search() for trial in trials)
    if standing is None or standing.best_run is None:
        return None
    return next(trial for trial in trials if trial.number == standing.best_run + 1)
