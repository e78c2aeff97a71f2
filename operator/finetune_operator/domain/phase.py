"""The phase: one word for columns. Derived from the conditions, never decided on."""

from __future__ import annotations

from finetune_api.trainer import Stage
from finetune_operator.domain.conditions import Conditions, ConditionType
from finetune_operator.domain.stages import StageState

_OF_STAGE = {
    Stage.PREPARE: "Preparing",
    Stage.TRAIN: "Training",
    Stage.EVALUATE: "Evaluating",
}


def phase_of(
    conditions: Conditions, stage: Stage | None, state: StageState | None, *, is_queued: bool
) -> str:
    """Return the phase.

    Args:
        conditions: The conditions as planned.
        stage: The current stage, None before the first.
        state: Where it is.
        is_queued: Whether it waits for Kueue.
    """
    if conditions.status_of(ConditionType.FAILED) == "True":
        return "Failed"
    if conditions.status_of(ConditionType.COMPLETE) == "True":
        return "Succeeded"
    if conditions.status_of(ConditionType.SUSPENDED) == "True":
        return "Suspended"
    if is_queued:
        return "Queued"
    if stage is None or state in (None, StageState.ABSENT):
        return "Pending"
    return _OF_STAGE[stage]
