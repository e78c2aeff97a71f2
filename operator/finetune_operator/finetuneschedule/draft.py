"""The status of a FineTuneSchedule being built during one plan."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.status.schedule import FineTuneScheduleStatus
from finetune_operator.status.conditions import ConditionType
from finetune_operator.status.draft import Draft
from finetune_operator.status.fitting import FittedStatus, StatusSchema

Object = dict[str, Any]

SECTIONS = (
    "lastTriggerTime",
    "lastScheduleTime",
    "nextTriggerTime",
    "handledTrigger",
    "active",
    "history",
    "anchor",
    "counted",
    "backoff",
    "used",
)
"""What :class:`FineTuneScheduleStatus` has beside conditions, reason and generation."""
OWNED_FIELDS = ("observedGeneration", "reason", "conditions", *SECTIONS)
STATUS = StatusSchema(FineTuneScheduleStatus)


class ScheduleDraft(Draft):
    """Mutable status of one plan."""

    def __init__(self, schedule: Object, now: datetime) -> None:
        super().__init__(schedule, STATUS, OWNED_FIELDS, now)

    def put_state(self, state: FineTuneScheduleStatus) -> None:
        """Replace all sections."""
        wire = state.to_wire()
        for section in SECTIONS:
            self.drop(section)
            if wire.get(section):
                self.put(section, wire[section])

    def set_ready(self, *, ready: bool, reason: str, message: str, stalled: bool = False) -> None:
        """Set both conditions, and the column that shows the reason."""
        self.conditions.set(ConditionType.READY, ready, reason, message)
        if stalled:
            self.conditions.set(ConditionType.STALLED, True, reason, message)
        else:
            self.conditions.set(ConditionType.STALLED, False, "AsWanted")
        self.put("reason", reason)

    def to_wire(self) -> FittedStatus | None:
        """Return the status to write; None if nothing has changed."""
        return self.fit(self.sections(), lambda new: new != self._stored)
