"""What a job costs: GPUs times running time, told in the status and held against its budget."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from finetune_api.meta import decimal_of
from finetune_api.trainer import FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.endings import fail_stage
from finetune_operator.finetunejob.failure import Cause
from finetune_operator.finetunejob.render.pod import num_gpus_of
from finetune_operator.finetunejob.step import Step
from finetune_operator.status.conditions import timestamp

HOUR_SECONDS = 3600


def num_gpus(spec: FineTuneJobSpec, stage: Stage) -> int:
    """Return the GPUs that all pods of a stage hold while it runs."""
    num_pods = spec.resources.nodes if stage is Stage.TRAIN else 1
    return num_pods * num_gpus_of(spec, stage)


def is_spent(step: Step, spec: FineTuneJobSpec) -> bool:
    """End a job that has used up its ``budget`` while it runs; return whether it did."""
    limit = _limit_in_hours(step, spec)
    view = next((view for view in step.views if view.is_stoppable), None)
    if limit is None or view is None:
        return False
    left = limit * HOUR_SECONDS - _gpu_seconds(step, spec)
    held = num_gpus(spec, view.stage)
    if left > 0:
        if held:
            step.look_again(max(1.0, float(left / held)))
        return False
    if not held:
        return False  # what holds no GPU costs nothing
    message = (
        f"The job used {_cost_text(step, spec)} and its budget is {_budget_text(spec)}; stage"
        f" {view.stage.value} was stopped. Raise the budget in a new job, or ask for less: fewer"
        " epochs, fewer rows."
    )
    cause = Cause(
        failure_class=FailureClass.BUDGET_EXCEEDED,
        reason=FailureClass.BUDGET_EXCEEDED.value,
        message=message,
        time=timestamp(step.now),
    )
    fail_stage(step, view, cause)
    return True


def tell_cost(step: Step, spec: FineTuneJobSpec) -> None:
    """Put into the status what has been used up to the last pause; at the end, all of it.

    What runs now is left out: it would be another number, and a write, with every look.
    """
    seconds = _gpu_seconds(step, spec) if step.draft.has_ended else _past_gpu_seconds(step, spec)
    told = decimal_of((step.draft.get("cost") or {}).get("gpuHours") or "0")
    if not seconds or Decimal(_hours_text(seconds)) < told:
        return  # with its Workload Kueue's account is gone, and the number never falls
    cost = {"gpuHours": _hours_text(seconds)}
    if step.config.gpu_hour_price is not None:
        cost["amount"] = _amount_text(seconds, decimal_of(step.config.gpu_hour_price))
    step.draft.put("cost", cost)


def _gpu_seconds(step: Step, spec: FineTuneJobSpec) -> int:
    return sum(
        step.draft.active_seconds([view]) * num_gpus(spec, view.stage) for view in step.views
    )


def _past_gpu_seconds(step: Step, spec: FineTuneJobSpec) -> int:
    draft = step.draft
    return sum(
        (draft.active_seconds([view]) if draft.is_done(view.stage) else view.past_seconds)
        * num_gpus(spec, view.stage)
        for view in step.views
    )


def _limit_in_hours(step: Step, spec: FineTuneJobSpec) -> Decimal | None:
    """Return the tighter bound in GPU hours; None where there is none."""
    budget, price = spec.budget, step.config.gpu_hour_price
    limits: list[Decimal] = []
    if budget is not None and budget.gpu_hours is not None:
        limits.append(decimal_of(budget.gpu_hours))
    # A price that was taken away does not reach back to a job that was accepted with it.
    if budget is not None and budget.amount is not None and price and decimal_of(price) > 0:
        limits.append(decimal_of(budget.amount) / decimal_of(price))
    return min(limits, default=None)


def _cost_text(step: Step, spec: FineTuneJobSpec) -> str:
    seconds = _gpu_seconds(step, spec)
    price = step.config.gpu_hour_price
    at_price = f" ({_amount_text(seconds, decimal_of(price))} at {price} an hour)" if price else ""
    return f"{_hours_text(seconds)} GPU hours{at_price}"


def _budget_text(spec: FineTuneJobSpec) -> str:
    assert spec.budget is not None
    hours, amount = spec.budget.gpu_hours, spec.budget.amount
    parts = [f"{hours} GPU hours"] if hours is not None else []
    parts += [f"an amount of {amount}"] if amount is not None else []
    return " and ".join(parts)


def _hours_text(seconds: int) -> str:
    return _rounded(Decimal(seconds) / HOUR_SECONDS, "0.001")


def _amount_text(seconds: int, price: Decimal) -> str:
    return _rounded(Decimal(seconds) / HOUR_SECONDS * price, "0.01")


def _rounded(value: Decimal, step: str) -> str:
    return str(value.quantize(Decimal(step), rounding=ROUND_HALF_UP))
