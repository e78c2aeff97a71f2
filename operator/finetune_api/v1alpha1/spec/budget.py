"""What a job may cost."""

from __future__ import annotations

from finetune_api.meta import APIModel, DecimalString, decimal_of
from finetune_api.rule import Rule


class Budget(APIModel):
    """What a job may cost before it is stopped.

    GPU hours are the GPUs of a stage times its running time, over all attempts; time in the queue,
    suspended, or in which no pod has a node costs nothing. A job that reaches its budget saves a
    checkpoint, stops and fails with `BudgetExceeded`; `finetune retry` goes on from there.
    """

    gpu_hours: DecimalString | None = None
    """GPU hours."""
    amount: DecimalString | None = None
    """Money, in the currency of the administrator's price of a GPU for an hour, `gpuHourPrice`. A
    cluster without a price refuses the job."""


BUDGET_RULES: tuple[Rule, ...] = (
    Rule(
        rule="!has(self.budget) || has(self.budget.gpuHours) || has(self.budget.amount)",
        message="budget needs gpuHours, amount or both; leave budget out to set none",
        field="budget",
        check=lambda s: (
            s.budget is None or s.budget.gpu_hours is not None or s.budget.amount is not None
        ),
    ),
    Rule(
        rule="!has(self.budget) || !has(self.budget.gpuHours)"
        " || double(self.budget.gpuHours) > 0.0",
        message="budget.gpuHours must be above 0",
        field="budget.gpuHours",
        check=lambda s: (
            s.budget is None or s.budget.gpu_hours is None or decimal_of(s.budget.gpu_hours) > 0
        ),
    ),
    Rule(
        rule="!has(self.budget) || !has(self.budget.amount) || double(self.budget.amount) > 0.0",
        message="budget.amount must be above 0",
        field="budget.amount",
        check=lambda s: (
            s.budget is None or s.budget.amount is None or decimal_of(s.budget.amount) > 0
        ),
    ),
    Rule(
        rule="!has(self.budget) || self.resources.gpusPerNode > 0",
        message="budget counts GPU hours, and resources.gpusPerNode is 0; bound the time of a job "
        "on CPUs with activeDeadlineSeconds",
        field="budget",
        check=lambda s: s.budget is None or s.resources.gpus_per_node > 0,
    ),
)
