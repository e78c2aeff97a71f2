"""The trials in a sweep's status: counts, the best, and one line for each."""

from __future__ import annotations

import math
from typing import Any

from finetune_api.names import trial_name
from finetune_api.v1alpha1.evaluation.objective import (
    VALIDATION_LOSS,
    direction_of,
    is_lower_better,
    metric_of,
)
from finetune_api.v1alpha1.status.sweep import MAX_TRIALS_LISTED
from finetune_operator.finetunesweep.deleted import read_deleted
from finetune_operator.finetunesweep.search import ranking
from finetune_operator.finetunesweep.step import Step
from finetune_operator.finetunesweep.trials.trial import Trial
from finetune_operator.status.conditions import ConditionType, Reason

Object = dict[str, Any]

MAX_NAMED = 8
"""Trials that one Event names."""
_OVER = ("Trained", "Pruned", "Failed", "Publishing", "Published")


def set_trials(step: Step) -> None:
    """Put counts, best trial and trials into the status."""
    draft = step.draft
    _announce_changes(step)
    counts = _counts(step)
    draft.put("counts", counts)
    over = sum(trial.state in _OVER for trial in step.trials) + len(step.deleted.numbers)
    draft.put("progress", f"{over}/{counts['total']}")
    metric = metric_of(step.observed.spec)
    draft.put("objective", {"metric": metric, "direction": direction_of(metric)})
    if (best := _best(step)) is not None:
        draft.put("best", best)
    else:
        draft.drop("best")
    draft.put(
        "spent",
        {
            "gpuHours": str(step.gpu_hours),
            "tokens": sum(_tokens(step, trial) for trial in step.trials) + step.deleted.tokens,
        },
    )
    if step.deleted.numbers:
        draft.put("deleted", step.deleted.to_wire())
    draft.put("trials", _entries(step))


def _counts(step: Step) -> Object:
    trials, spec = step.trials, step.observed.spec
    states = [trial.state for trial in trials]
    num_created = len(step.numbers)
    total = spec.num_trials + spec.replicates
    if step.chosen is not None or step.draft.has_ended:
        total = num_created
    return {
        "total": max(total, num_created),
        "created": max(num_created, step.num_created),
        "running": sum(trial.is_under_way for trial in trials),
        "trained": sum(state in ("Trained", "Publishing", "Published") for state in states),
        "pruned": states.count("Pruned"),
        "failed": states.count("Failed") + len(step.deleted.numbers),
    }


def _best(step: Step) -> Object | None:
    """Return the chosen trial, or the one with the best score so far."""
    best = step.chosen or _leader(step)
    if best is None:
        return None
    entry: Object = {
        "name": best.name,
        "score": best.score or "unknown",
        "parameters": _texts(best),
        "chosen": step.chosen is not None,
    }
    if len(step.searched) == len(step.trials):
        return entry  # no setting was trained twice
    first = best.number if best.replicate_of is None else best.replicate_of
    sign = 1 if is_lower_better(best.metric) else -1
    for standing in ranking.rank(trial.as_trained() for trial in step.trials):
        if standing.number == first - 1 and standing.num_runs > 1 and standing.mean is not None:
            entry |= {"mean": f"{sign * standing.mean:.6g}", "spread": f"{standing.spread:.3g}"}
    return entry


def _leader(step: Step) -> Trial | None:
    """Return the trial with the best score so far; for losses, running ones count too."""
    known = (trial for trial in step.trials if trial.state != "Failed")
    scored = (trial for trial in known if trial.badness is not None)
    return min(scored, key=_place_of, default=None)


def _place_of(trial: Trial) -> tuple[float, float, int]:
    """Return the sort key of trials, the best first: score, then loss, then number."""
    known = [math.inf if each is None else each for each in (trial.badness, trial.loss)]
    return (known[0], known[1], trial.number)


def _entries(step: Step) -> list[Object]:
    """Return one entry for each trial in their order; at the limit, the most important ones."""
    told = sorted(step.trials, key=_importance)[:MAX_TRIALS_LISTED]
    by_number = {trial.number: _entry(step, trial) for trial in told}
    for number in sorted(step.deleted.numbers):
        if len(by_number) < MAX_TRIALS_LISTED:
            name = trial_name(step.observed.name, number)
            reason = Reason.TRIAL_DELETED.value
            by_number[number] = {"name": name, "state": "Deleted", "reason": reason}
    return [by_number[number] for number in sorted(by_number)]


def _importance(trial: Trial) -> tuple[bool, bool, tuple[float, float, int]]:
    return (not trial.is_released, not trial.is_under_way, _place_of(trial))


def _entry(step: Step, trial: Trial) -> Object:
    state = "Waiting" if step.rests(trial) and not step.observed.spec.suspend else trial.state
    entry: Object = {"name": trial.name, "state": state, "parameters": _texts(trial)}
    if trial.state == "Failed" and trial.reason:
        entry["reason"] = trial.reason
    elif trial.waits_for:
        entry["reason"] = trial.waits_for
    elif trial.why_unscored is not None:
        entry["reason"] = trial.why_unscored[0]
    if trial.score:
        entry["score"] = trial.score
    if trial.bounds is not None:
        entry["low"], entry["high"] = trial.bounds
    if trial.metric != VALIDATION_LOSS and trial.lowest_loss:
        entry["loss"] = trial.lowest_loss
    if trial.step:
        entry["step"] = trial.step
    if tokens := _tokens(step, trial):
        entry["tokens"] = tokens
    if trial.replicate_of is not None:
        entry["replicateOf"] = trial_name(step.observed.name, trial.replicate_of)
    return entry


def _tokens(step: Step, trial: Trial) -> int:
    return max(trial.tokens, step.draft.stored_tokens(trial.name))


def _texts(trial: Trial) -> dict[str, str]:
    return {path: str(value) for path, value in trial.values.items()}


def progress_text(step: Step) -> str:
    """Return how far the search is, in a sentence."""
    over = sum(trial.state in _OVER for trial in step.trials)
    under_way = sum(trial.is_under_way for trial in step.trials)
    text = f"{over} of {step.observed.spec.num_trials} trials are over, {under_way} under way"
    if step.deleted.numbers:
        text += f", {len(step.deleted.numbers)} deleted"
    if step.waiting:
        text += f", of which {len(step.waiting)} wait at step {step.rung} for the others"
    held = [trial for trial in step.trials if trial.waits_for]
    if held:
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        text += f"; {held[0].name}{more} cannot go on: {held[0].waits_for}"
    best = step.chosen or _leader(step)
    return f"{text}; best {best.name} with {best.score_text}." if best else f"{text}."


def _announce_changes(step: Step) -> None:
    draft = step.draft
    # The first ones only: an Event for each trial costs one more write.
    if step.trials and not draft.num_created:
        names = [trial.name for trial in step.trials]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        left = step.observed.spec.num_trials - len(names)
        later = f"; {left} follow as there is room" if left > 0 else ""
        draft.announce("TrialsCreated", f"Created {', '.join(names[:MAX_NAMED])}{more}{later}")
    _announce_deleted(step)
    for trial in step.trials:
        before = draft.stored_state(trial.name)
        # A trial without room in the status was reported before.
        is_known = before == trial.state or (not before and trial.number <= draft.num_created)
        if not is_known:
            _announce(step, trial)


def _announce_deleted(step: Step) -> None:
    told = read_deleted(step.observed.sweep.get("status", {}).get("deleted"))
    new = sorted(step.deleted.numbers - told.numbers)
    if not new:
        return
    names = [trial_name(step.observed.name, number) for number in new]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    text = (
        f"{', '.join(names[:MAX_NAMED])}{more}: deleted, or taken from the sweep, by somebody."
        " Counted as failed; not created again, and cannot be chosen"
    )
    step.draft.announce(Reason.TRIAL_DELETED, text, warning=True)


def _announce(step: Step, trial: Trial) -> None:
    """Emit an Event for a trial that failed or that a rule has stopped."""
    if trial.state == "Failed" and step.chosen is not trial:
        text = f"{trial.name} failed with {trial.reason}: {trial.message}"
        step.draft.announce("TrialFailed", text, warning=True)
    elif trial.state == "Pruned" and step.chosen is None:
        text = f"{trial.name} was stopped at step {trial.step}, validation loss {trial.lowest_loss}"
        step.draft.announce("TrialPruned", text)
    elif trial.why_unscored is not None:
        step.draft.announce("TrialNotScored", trial.unscored_text, warning=True)


def set_phase(step: Step) -> None:
    """Derive phase and reason, two words for columns, from the conditions."""
    draft = step.draft
    if draft.is_true(ConditionType.FAILED):
        phase, of = "Failed", ConditionType.FAILED
    elif draft.is_true(ConditionType.COMPLETE):
        phase, of = "Succeeded", ConditionType.COMPLETE
    elif draft.is_true(ConditionType.SUSPENDED):
        phase, of = "Suspended", ConditionType.SUSPENDED
    else:
        phase = step.under_way if step.trials else "Pending"
        of = ConditionType.PROGRESSING
    draft.put("phase", phase)
    draft.put("reason", draft.conditions.reason_of(of) or "")
