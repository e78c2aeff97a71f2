"""What a job is going to cost: known as soon as anything is, and held against its budget.

First only the GPUs that the spec asks for; once the data is prepared what the trainer reckons from
rows, tokens and model; once training has run for some steps what it measures of itself. An estimate
stops nothing that may yet fit. What cannot fit whatever happens is not begun.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.meta import decimal_of
from finetune_api.protocol.stage_results import PrepareResult, TimeEstimate
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds.cost import (
    amount_text,
    budget_text,
    cost_text,
    hours_of,
    hours_text,
    limit_in_hours,
    num_gpus,
)
from finetune_operator.finetunejob.state.stages import StageState, StageView
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    parse_timestamp,
    shorten,
)

Section = dict[str, Any]

SECTION = "estimate"
MIN_STEPS = 5
MIN_SHARE = 0.02
"""Of its steps training must have done so many, and this share, before its speed counts."""
NEWS = Decimal("0.2")
"""A measurement is told anew when it has moved by so much: a write per step says nothing."""
BASIS_CHARACTERS = 253
_ASKING = ("validationSeconds", "evaluateSeconds")
"""What training does not measure: how long models take to answer."""
_REMEDY = (
    "Raise the budget, which may be changed while the job runs, or ask for less in a new one: fewer"
    " epochs, fewer rows."
)


def set_estimate(step: Step, spec: FineTuneJobSpec) -> None:
    """Put into the status what the job will take, as far as it can be known by now."""
    before: Section = step.draft.get(SECTION) or {}
    found = _measured(step, spec, before) or _reckoned(step, spec, before) or before
    told = {**_by_the_hour(spec, step.config.gpu_hour_price), **_kept(found)}
    if "trainSeconds" in found:
        told |= _priced(spec, found, step.config.gpu_hour_price)
    if told:
        step.draft.put(SECTION, {"basis": found.get("basis", "Spec"), **told})
    _hold_against_budget(step, spec, told)


def is_hopeless(step: Step, spec: FineTuneJobSpec) -> str:
    """Say why the budget cannot be enough for training, whatever its speed; empty if it may be.

    A trial of a sweep may be ended early by it, and is never hopeless.
    """
    least = (step.draft.get(SECTION) or {}).get("leastGpuHours")
    limit = limit_in_hours(spec, step.config.gpu_hour_price)
    if least is None or limit is None or step.observed.is_trial or decimal_of(least) <= limit:
        return ""
    hours = cost_text(decimal_of(least), step.config.gpu_hour_price)
    return (
        f"Training takes at least {hours}, with GPUs that compute at the peak of their data sheet"
        f" all the time, and the budget is {budget_text(spec)}: no GPU is asked for. Raise the"
        " budget in a new job, or ask for less: fewer epochs, fewer rows."
    )


def is_budget_warning_unsent(step: Step) -> bool:
    """Whether the status has yet to say that the estimate is beyond the budget."""
    stored = (step.observed.job.get("status") or {}).get("conditions")
    was_told = (find_condition(stored, ConditionType.WITHIN_BUDGET) or {}).get("status") == "False"
    return step.draft.conditions.status_of(ConditionType.WITHIN_BUDGET) == "False" and not was_told


def _reckoned(step: Step, spec: FineTuneJobSpec, before: Section) -> Section | None:
    """Return what the trainer reckons, unless something better is known."""
    result = step.result(PrepareResult)
    if before.get("basis") == "Measured" or result is None or result.estimate is None:
        return None
    estimate = result.estimate
    section = {
        "basis": "Assumed",
        "trainSeconds": estimate.train_seconds,
        "evaluateSeconds": estimate.evaluate_seconds,
        "message": shorten(_basis_text(estimate, spec), BASIS_CHARACTERS),
        "validationSeconds": estimate.validation_seconds or None,
        "leastTrainSeconds": estimate.least_train_seconds or None,
    }
    return {name: value for name, value in section.items() if value is not None}


def _basis_text(estimate: TimeEstimate, spec: FineTuneJobSpec) -> str:
    speed = f"{float(estimate.tokens_per_second):,.0f} tokens/s on {estimate.device}"
    work = f"{estimate.tokens:,} tokens at an assumed {speed}"
    if not estimate.tokens:
        work = f"nothing is trained; the evaluation at an assumed speed on {estimate.device}"
    left_out = "start-up is" if spec.evaluation.red_team is None else "start-up and red team are"
    text = f"{work}; {left_out} not in it"
    if not estimate.is_device_known:
        text += "; which GPUs there are is assumed, too (gpuKind of the operator's configuration)"
    return text


def _measured(step: Step, spec: FineTuneJobSpec, before: Section) -> Section | None:
    """Return what training says of itself while it runs; None until it has run for a while.

    What was reported before a pause, a preemption or a restart is when training would have ended
    without it: what was known stands until the next report.
    """
    view = next(view for view in step.views if view.stage is Stage.TRAIN)
    progress = (step.observed.job.get("status") or {}).get("progress") or {}
    done, total = progress.get("step"), progress.get("totalSteps")
    end = parse_timestamp(progress.get("estimatedCompletionTime"))
    if view.state is not StageState.RUNNING or progress.get("stage") != Stage.TRAIN.value:
        return None
    if not _is_of_this_attempt(view, parse_timestamp(progress.get("lastHeartbeatTime"))):
        return None
    if end is None or not done or not total or done < max(MIN_STEPS, MIN_SHARE * total):
        return None
    answers = before.get("validationSeconds", 0)
    if answers and done >= total:
        return None  # no step is left that would measure anything: the answers have begun
    left = (end - step.now).total_seconds() + answers
    seconds = max(1, round(step.draft.active_seconds([view]) + left))
    if before.get("basis") == "Measured":
        known = int(before.get("trainSeconds") or 0)
        if abs(seconds - known) <= NEWS * known:
            return None
    section: Section = {"basis": "Measured", "trainSeconds": seconds}
    reckoned = {name: before[name] for name in _ASKING if name in before}
    evaluation = "the evaluation is not in it"
    if "evaluateSeconds" in reckoned:
        evaluation = f"the evaluation{' and answers to validation rows are' if answers else ' is'}"
        evaluation += " still reckoned"
        if spec.evaluation.red_team is not None:
            evaluation += ", and a red team comes on top"
    section |= reckoned
    section["message"] = (
        f"measured after {done} of {total} steps, with the time of earlier attempts; {evaluation}"
    )
    return section


def _is_of_this_attempt(view: StageView, reported: datetime | None) -> bool:
    """Return whether the pods that run have sent a report, and not those before them."""
    began = [at for at in (view.run_began, view.youngest_began) if at is not None]
    return reported is not None and bool(began) and max(began) <= reported


def _kept(found: Section) -> Section:
    names = ("trainSeconds", *_ASKING, "leastTrainSeconds", "message")
    return {name: found[name] for name in names if name in found}


def _by_the_hour(spec: FineTuneJobSpec, price: str | None) -> Section:
    """Return what training holds and costs by the hour; nothing of a job without GPUs."""
    gpus = num_gpus(spec, Stage.TRAIN)
    if not gpus:
        return {}
    return {"gpus": gpus, **({"hourlyAmount": amount_text(Decimal(gpus), price)} if price else {})}


def _priced(spec: FineTuneJobSpec, found: Section, price: str | None) -> Section:
    """Return the GPU hours of both stages, and their price."""
    training, evaluating = num_gpus(spec, Stage.TRAIN), num_gpus(spec, Stage.EVALUATE)
    seconds = found["trainSeconds"] * training + found.get("evaluateSeconds", 0) * evaluating
    if not seconds:
        return {}
    hours = hours_of(seconds)
    section = {"gpuHours": hours_text(hours)}
    if price is not None:
        section["amount"] = amount_text(hours, price)
    if least := found.get("leastTrainSeconds"):
        section["leastGpuHours"] = hours_text(hours_of(least * training))
    return section


def _hold_against_budget(step: Step, spec: FineTuneJobSpec, told: Section) -> None:
    """Say whether the estimate fits the budget, and warn at once where it does not."""
    conditions, kind = step.draft.conditions, ConditionType.WITHIN_BUDGET
    limit = limit_in_hours(spec, step.config.gpu_hour_price)
    if limit is None:
        if conditions.get(kind) is not None:
            conditions.set(kind, True, Reason.WITHIN_BUDGET, "The job has no budget any more.")
        return
    if "gpuHours" not in told:
        return
    hours = decimal_of(told["gpuHours"])
    expected = cost_text(hours, step.config.gpu_hour_price)
    text = f"Training and evaluation should take {expected}, and the budget is {budget_text(spec)}"
    basis = told.get("message", "")
    if hours <= limit:
        conditions.set(kind, True, Reason.WITHIN_BUDGET, f"{text} ({basis}).")
        return
    reason = Reason.ESTIMATE_EXCEEDS_BUDGET
    text += f": the job would be stopped with a save before its end ({basis}). {_REMEDY}"
    if conditions.reason_of(kind) != reason:
        step.draft.announce(reason, text, warning=True)
    conditions.set(kind, False, reason, text)
