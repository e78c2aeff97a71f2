"""What a job costs: GPUs times running time, told in the status and held against its budget."""

from __future__ import annotations

from finetune_api.meta import decimal_of
from finetune_api.protocol.trainer import FailureClass
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.holds.cost import (
    amount_text,
    budget_text,
    cost_text,
    gpu_seconds,
    hours_of,
    hours_text,
    limit_in_hours,
    num_gpus,
    past_gpu_seconds,
)
from finetune_operator.finetunejob.lifecycle.stopping import cut, stage_to_cut
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.gpu_time import HOUR_SECONDS
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import ConditionType, timestamp


def is_spent(step: Step, spec: FineTuneJobSpec) -> bool:
    """End a job that has used up its ``budget`` while it runs; return whether it did."""
    limit = limit_in_hours(spec, step.config.gpu_hour_price)
    view = stage_to_cut(step, spec)
    if limit is None or view is None:
        return False
    used = gpu_seconds(step, spec)
    left = limit * HOUR_SECONDS - used
    held = num_gpus(spec, view.stage)
    if left > 0:
        if held and view.is_stoppable:
            step.look_again(max(1.0, float(left / held)))
        return False
    if not held:
        return False  # what holds no GPU costs nothing
    spent = cost_text(hours_of(used), step.config.gpu_hour_price)
    message = (
        f"The job used {spent} and its budget is {budget_text(spec)}; stage"
        f" {view.stage.value} was stopped. Raise the budget in a new job, or ask for less: fewer"
        " epochs, fewer rows."
    )
    reason = FailureClass.BUDGET_EXCEEDED.value
    cause = Cause(
        failure_class=FailureClass.BUDGET_EXCEEDED,
        reason=reason,
        message=message,
        time=timestamp(step.now),
    )
    step.draft.conditions.set(ConditionType.WITHIN_BUDGET, False, reason, message)
    cut(step, spec, view, cause)
    return True


def set_cost(step: Step, spec: FineTuneJobSpec) -> None:
    """Put into the status what has been used up to the last pause; at the end, all of it.

    What runs now is left out: it would be another number, and a write, with every look.
    """
    seconds = gpu_seconds(step, spec) if step.draft.has_ended else past_gpu_seconds(step, spec)
    hours, price = hours_of(seconds), step.config.gpu_hour_price
    told = decimal_of((step.draft.get("cost") or {}).get("gpuHours") or "0")
    if not seconds or decimal_of(hours_text(hours)) < told:
        return  # with its Workload Kueue's account is gone, and the number never falls
    cost = {"gpuHours": hours_text(hours)}
    if price is not None:
        cost["amount"] = amount_text(hours, price)
    step.draft.put("cost", cost)
