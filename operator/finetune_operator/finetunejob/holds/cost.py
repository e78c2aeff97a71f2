"""GPU hours and money: what a job has used, and what it may use. Pure arithmetic over a step."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal
from functools import partial

from finetune_api.meta import decimal_of
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.render.resources import num_gpus_of
from finetune_operator.finetunejob.state.gpu_time import HOUR_SECONDS, gpu_time_of
from finetune_operator.finetunejob.state.step import Step


def num_gpus(spec: FineTuneJobSpec, stage: Stage) -> int:
    """Return the GPUs that all pods of a stage hold while it runs."""
    num_pods = spec.resources.nodes if stage is Stage.TRAIN else 1
    return num_pods * num_gpus_of(spec, stage)


def gpu_seconds(step: Step, spec: FineTuneJobSpec) -> int:
    """Return GPUs times running time over all stages, up to now."""
    entries = [step.draft.entry_now(view) for view in step.views]
    time = gpu_time_of(entries, step.draft.get("cost"), partial(num_gpus, spec))
    return time.until(step.now)


def past_gpu_seconds(step: Step, spec: FineTuneJobSpec) -> int:
    """Return the same up to the last pause: what runs now is left out."""
    entries = [step.draft.entry_at_pause(view) for view in step.views]
    time = gpu_time_of(entries, step.draft.get("cost"), partial(num_gpus, spec))
    return time.until(step.now)


def limit_in_hours(spec: FineTuneJobSpec, price: str | None) -> Decimal | None:
    """Return the tighter bound of the budget in GPU hours; None where there is none.

    Args:
        spec: The job's spec.
        price: Price of a GPU hour; None where the administrator has set none.
    """
    budget = spec.budget
    limits: list[Decimal] = []
    if budget is not None and budget.gpu_hours is not None:
        limits.append(decimal_of(budget.gpu_hours))
    # A price that was taken away does not reach back to a job that was accepted with it.
    if budget is not None and budget.amount is not None and price and decimal_of(price) > 0:
        limits.append(decimal_of(budget.amount) / decimal_of(price))
    return min(limits, default=None)


def cost_text(hours: Decimal, price: str | None) -> str:
    """Say what GPU hours cost: ``3.200 GPU hours (8.00 at 2.50 an hour)``."""
    at_price = f" ({amount_text(hours, price)} at {price} an hour)" if price else ""
    return f"{hours_text(hours)} GPU hours{at_price}"


def budget_text(spec: FineTuneJobSpec) -> str:
    """Say what the job may cost; it has a budget."""
    assert spec.budget is not None
    hours, amount = spec.budget.gpu_hours, spec.budget.amount
    parts = [f"{hours} GPU hours"] if hours is not None else []
    parts += [f"an amount of {amount}"] if amount is not None else []
    return " and ".join(parts)


def hours_of(seconds: int) -> Decimal:
    """Return GPU seconds in GPU hours."""
    return Decimal(seconds) / HOUR_SECONDS


def hours_text(hours: Decimal) -> str:
    """Return GPU hours as the status holds them."""
    return _rounded(hours, "0.001")


def amount_text(hours: Decimal, price: str) -> str:
    """Return what GPU hours cost, as the status holds it."""
    return _rounded(hours * decimal_of(price), "0.01")


def _rounded(value: Decimal, step: str) -> str:
    return str(value.quantize(Decimal(step), rounding=ROUND_HALF_UP))
