"""What Prometheus is told of schedules that bring no version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.metrics.schedules import ScheduleMetrics
from kit.builders.schedules import NAME, NAMESPACE, ScheduleWorld, ended, endpoint, published
from kit.processes.clock import FakeClock

NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def tell(schedules: list[Any], now: datetime, jobs: Sequence[Any] = ()) -> CollectorRegistry:
    registry = CollectorRegistry()
    stores = [SimpleNamespace(objects=lambda found=found: found) for found in (schedules, jobs)]
    ScheduleMetrics(*stores, registry, clock=FakeClock(now))  # type: ignore[arg-type]
    return registry


def delays(world: ScheduleWorld, *, after: float = 600) -> list[tuple[str, str, float]]:
    """Return state, reason and seconds that are told some time after the last look."""
    registry = tell([world.schedule], world.now + timedelta(seconds=after))
    return [
        (sample.labels["state"], sample.labels["reason"], sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "finetune_schedule_waiting_seconds"
    ]


def end_cycles(world: ScheduleWorld, *reasons: str) -> None:
    """Let a cycle end each night."""
    for night, reason in enumerate(reasons):
        world.look_at(NIGHT + night * DAY)
        world.end_job(published(2) if reason == "Published" else ended("Failed", reason))
        world.look(60)


@pytest.mark.parametrize(
    ("reasons", "told"),
    [
        (["Published"], []),
        (["GatesNotMet"], []),
        (["GatesNotMet", "GoalNotMet"], [("InVain", "NotPublished", 86400 + 600)]),
        (["Internal"], [("InVain", "Failed", 600)]),
        (["GatesNotMet", "Internal"], [("InVain", "Failed", 86400 + 600)]),
        (["Internal", "Published"], []),
        (["Internal", "Published", "GatesNotMet"], []),
    ],
)
def test_cycles_in_vain_are_told_since_the_first_of_them(
    reasons: list[str], told: list[tuple[str, str, float]]
) -> None:
    world = ScheduleWorld()
    end_cycles(world, *reasons)
    assert delays(world) == told
    world.edit(suspend=True)
    world.look(60)
    assert delays(world) == []


def test_a_schedule_that_cannot_go_on_is_told_and_a_suspended_one_is_not() -> None:
    world = ScheduleWorld()
    world.look()
    assert delays(world) == []
    world.refusal = Refusal(reason="Forbidden", message="exceeded quota")
    world.look_at(NIGHT)
    assert delays(world) == [("Stalled", "Forbidden", 600)]
    lost = ScheduleWorld(endpoint(), triggers={"newRows": 5})
    lost.endpoint = None
    lost.look()
    assert delays(lost) == [("Stalled", "EndpointNotFound", 600)]
    paused = ScheduleWorld(suspend=True)
    paused.look()
    assert delays(paused) == []


def test_a_cycle_under_way_is_told_since_its_trigger() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 5})
    world.capture(rows=5)
    world.look()
    assert delays(world) == [("Job", "NewRows", 600)]
    world.end_job(published(2))
    world.look(3600)
    assert delays(world) == [("Traffic", "NewRows", 4200)]


@pytest.mark.parametrize(
    ("world", "after", "told"),
    [
        (ScheduleWorld(), DAY + timedelta(hours=23), ("Job", "Cron", 47 * 3600)),
        (ScheduleWorld(), 2 * DAY + timedelta(minutes=5), ("Missed", "Job", 300)),
        (ScheduleWorld(triggers={"cron": "0 3 1 * *"}), 20 * DAY, ("Job", "Manual", 20 * 86400)),
    ],
    ids=["one start", "two starts", "a month is not over"],
)
def test_two_starts_that_a_cycle_has_let_pass_are_told(
    world: ScheduleWorld, after: timedelta, told: tuple[str, str, float]
) -> None:
    if "0 3 1" in world.schedule["spec"]["triggers"]["cron"]:
        world.ask("now")
    world.edit(cycleDeadlineSeconds=365 * 86400)
    world.look_at(NIGHT)
    assert delays(world, after=after.total_seconds()) == [told]


def test_a_cycle_that_lasts_over_two_starts_is_told_before_cycles_in_vain() -> None:
    world = ScheduleWorld()
    end_cycles(world, "GatesNotMet", "GoalNotMet")
    world.look_at(NIGHT + 2 * DAY)
    assert delays(world, after=2 * 86400) == [("Missed", "Job", 0)]


def test_schedules_are_counted_by_reason_and_few_of_them_have_series() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    metadata = world.schedule["metadata"]
    many = [{**world.schedule, "metadata": {**metadata, "name": f"s{n}"}} for n in range(150)]
    registry = tell([*many, {"metadata": metadata}], world.now)
    for reason, number in (("CycleRunning", 150), ("", 1)):
        labels = {"namespace": NAMESPACE, "reason": reason}
        assert registry.get_sample_value("finetune_schedules", labels) == number
    told = [s for f in registry.collect() for s in f.samples if "state" in s.labels]
    assert len(told) == 100
    assert NAME not in {each.labels["finetuneschedule"] for each in told}


def test_the_jobs_of_each_schedule_are_counted_for_those_that_have_most() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    (job,) = world.jobs.values()
    (owner,) = job["metadata"]["ownerReferences"]
    others = [
        {"metadata": {**job["metadata"], "ownerReferences": [{**owner, "name": f"s{number}"}]}}
        for number in range(150)
    ]
    by_hand = {"metadata": {"name": "job", "namespace": NAMESPACE}}
    registry = tell([world.schedule], world.now, [*others, by_hand, job, job])
    found = next(each for each in registry.collect() if each.name == "finetune_schedule_jobs")
    numbers = {each.labels["finetuneschedule"]: each.value for each in found.samples}
    assert len(numbers) == 100
    assert numbers[NAME] == 2
