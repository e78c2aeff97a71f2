"""What ends before its time: a hopeless trial, or a search that has used up its budget."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.finetunesweep import FineTuneSweepSpec
from finetune_operator.finetunejob.state.gpu_time import HOUR_SECONDS
from finetune_operator.finetunesweep.search.halving import Halving, judge_rungs
from finetune_operator.finetunesweep.search.stopping import (
    Asha,
    Median,
    rungs,
    should_prune,
)
from finetune_operator.finetunesweep.step import Step
from finetune_operator.status.conditions import parse_timestamp


def stop_hopeless(step: Step) -> None:
    """Stop the trials whose losses the rule of the spec calls hopeless beside the others'."""
    rule = _rule_of(step.observed.spec)
    if isinstance(rule, Halving):
        _halve(step, rule)
    elif rule is not None:
        _stop_behind(step, rule)


def _stop_behind(step: Step, rule: Asha | Median) -> None:
    """End each trial that falls behind those that came as far."""
    known = {trial.number: trial.for_search() for trial in step.searched}
    for trial in step.searched:
        if not trial.is_under_way or trial.is_pruned:
            continue
        judged = step.draft.stored_step(trial.name)
        others = [each for number, each in known.items() if number != trial.number]
        if should_prune(rule, known[trial.number], others, judged_step=judged):
            step.patch(trial, prune=True)
        elif isinstance(rule, Asha):
            step.is_judged |= rungs(rule, judged) != rungs(rule, trial.step)


def _halve(step: Step, rule: Halving) -> None:
    """Let trials wait at a rung, end the worse ones once all are there, let the others go on."""
    left = {t.number - 1: t for t in step.searched if not t.is_pruned}
    verdict = judge_rungs(
        rule,
        [trial.for_search() for trial in left.values()],
        num_trials=len(step.searched_numbers),
        is_complete=step.is_all_created,
    )
    step.waiting, step.rung = frozenset(n + 1 for n in verdict.waiting), verdict.rung
    for number, trial in left.items():
        if number in verdict.ending:
            step.patch(trial, prune=True)
        elif number in verdict.waiting and not trial.is_suspended:
            step.patch(trial, suspend=True)
    if step.first or step.observed.spec.suspend:
        return
    going_on = [t for n, t in left.items() if t.is_suspended and n not in verdict.waiting]
    for trial in going_on[: max(0, step.num_free_places)]:
        step.patch(trial, suspend=False)


def _rule_of(spec: FineTuneSweepSpec) -> Asha | Median | Halving | None:
    given = spec.early_stopping
    match spec.stopping_method:
        case "ASHA":
            return Asha(min_steps=given.min_steps, reduction=given.reduction)
        case "Halving":
            return Halving(min_steps=given.min_steps, reduction=given.reduction)
        case "Median":
            return Median(min_steps=given.min_steps)
        case _:
            return None


def tell_start(step: Step) -> None:
    """Record when the first trial was created."""
    created = (trial.job["metadata"].get("creationTimestamp") for trial in step.trials)
    if step.draft.get("startTime") is None and (found := min(filter(None, created), default=None)):
        step.draft.put("startTime", found)


def spent_text(step: Step) -> str:
    """Return which bound of the budget is reached, in words; empty while none is."""
    budget = step.observed.spec.budget
    if budget is None:
        return ""
    started = parse_timestamp(step.draft.get("startTime"))
    if budget.duration_seconds is not None and started is not None:
        end = started + timedelta(seconds=budget.duration_seconds)
        if step.now >= end:
            return f"budget.durationSeconds of {budget.duration_seconds} is over"
        step.look_again(max(1.0, (end - step.now).total_seconds()))
    if budget.gpu_hours is not None:
        return _spent_hours_text(step, decimal_of(budget.gpu_hours))
    return ""


def _spent_hours_text(step: Step, limit: Decimal) -> str:
    used = step.gpu_hours
    if used >= limit:
        return f"budget.gpuHours of {limit} is used up"
    num_running = sum(trial.state == "Running" for trial in step.trials)
    resources = step.observed.spec.template.resources
    held = num_running * resources.nodes * resources.gpus_per_node
    if held:
        step.look_again(max(1.0, float((limit - used) * HOUR_SECONDS / held)))
    return ""
