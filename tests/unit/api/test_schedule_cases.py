"""The models judge FineTuneSchedules as the table says, and so does the API server."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.meta import seconds_of
from finetune_api.v1alpha1.finetuneschedule import MAX_SCHEDULE_NAME_LENGTH, FineTuneSchedule
from kit.cases.schedule_cases import SCHEDULE_CASES, ScheduleCase, minimal_schedule


@pytest.mark.parametrize("case", SCHEDULE_CASES, ids=lambda case: case.name)
def test_a_schedule_is_judged(case: ScheduleCase) -> None:
    if case.expected is None:
        FineTuneSchedule.from_wire(case.body)
        return
    with pytest.raises(ValidationError) as refused:
        FineTuneSchedule.from_wire(case.body)
    assert case.expected in str(refused.value)


def test_a_name_leaves_room_for_those_of_its_jobs() -> None:
    FineTuneSchedule.from_wire(minimal_schedule("a" * MAX_SCHEDULE_NAME_LENGTH))
    with pytest.raises(ValidationError, match="at most 43"):
        FineTuneSchedule.from_wire(minimal_schedule("a" * (MAX_SCHEDULE_NAME_LENGTH + 1)))


def test_what_is_read_is_written_again() -> None:
    schedule = FineTuneSchedule.from_wire(minimal_schedule())
    assert schedule.spec.promote == "Approval"
    assert FineTuneSchedule.from_stored({**schedule.to_wire(), "later": 1}) == schedule


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("24h", 86400), ("30d", 2592000)])
def test_a_duration_is_read(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds
