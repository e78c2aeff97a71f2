"""What a schedule makes and keeps: pauses, history limits, bounds and deadlines."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from finetune_operator.status.conditions import timestamp
from finetune_operator.tenants import TenantSettings
from kit.builders.jobs import NOW
from kit.builders.schedules import NAME, ScheduleWorld, ended, endpoint, published

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
FAILED = ended("Failed", "Internal", "no luck")
EACH_MINUTE = {"cron": "* * * * *"}


def by_cron() -> ScheduleWorld:
    """A schedule that trains each minute."""
    return ScheduleWorld(triggers=EACH_MINUTE)


def by_traffic() -> ScheduleWorld:
    """A schedule that trains on each answer."""
    return ScheduleWorld(endpoint(), triggers={"newRows": 1})


def live(world: ScheduleWorld, end: Callable[[int], Any], *, days: int = 1, every: int = 1) -> int:
    """Ask and end jobs every so many minutes; return the most jobs that there were at once."""
    most = 0
    for minute in range(0, days * 1440, every):
        if world.endpoint is not None:
            world.capture(rows=minute + 1)
        world.look_at(NOW + minute * MINUTE)
        most = max(most, len(world.jobs))
        if world.active:
            world.end_job(end(minute))
    return most


@pytest.mark.parametrize("make", [by_cron, by_traffic], ids=["cron", "traffic"])
def test_a_day_of_a_failing_schedule_makes_few_jobs_and_keeps_fewer(
    make: Callable[[], ScheduleWorld],
) -> None:
    world = make()
    most = live(world, lambda minute: FAILED)
    assert 5 <= len(world.created) <= 10
    assert most <= 4  # three that have failed, and one that runs
    assert world.condition() == ("False", "Backoff")
    assert world.status["backoff"]["cycles"] == len(world.created)


def test_failures_for_a_month_make_two_jobs_a_day() -> None:
    world = by_cron()
    most = live(world, lambda minute: FAILED, days=30, every=30)
    assert 2 * 28 <= len(world.created) <= 10 + 2 * 30
    assert most <= 4


@pytest.mark.parametrize("make", [by_cron, by_traffic], ids=["cron", "traffic"])
def test_a_day_of_versions_makes_a_job_an_hour(make: Callable[[], ScheduleWorld]) -> None:
    world = make()
    world.settings = TenantSettings()
    if world.endpoint is not None:
        world.endpoint["spec"]["version"] = 1  # so that a cycle ends with its job
    most = live(world, lambda minute: published(minute + 2))
    assert 20 <= len(world.created) <= 24
    assert most <= 4


def test_pauses_grow_from_ten_minutes_to_twelve_hours() -> None:
    world = by_cron()
    begun, pauses = [], []
    while len(begun) < 10:
        world.look(60)
        if world.active:
            begun.append(world.now)
            world.end_job(FAILED)
            world.look()
            pauses.append(datetime.fromisoformat(world.status["backoff"]["until"]) - world.now)
    assert pauses[:4] == [10 * MINUTE, 20 * MINUTE, 40 * MINUTE, 80 * MINUTE]
    assert pauses[-1] == 12 * HOUR
    between = [after - before for before, after in pairwise(begun)]
    assert between == pauses[:-1]


def test_a_pause_is_told_with_its_end_and_a_version_ends_it() -> None:
    world = by_cron()
    world.look(60)
    world.end_job(FAILED)
    world.look(60)
    assert world.condition() == ("False", "Backoff")
    until = world.status["backoff"]["until"]
    assert until in world.status["conditions"][0]["message"]
    world.look_at(datetime.fromisoformat(until))
    world.end_job(published(2))
    world.look()
    assert "backoff" not in world.status
    world.look(60)
    assert world.condition() == ("True", "CycleRunning")


def test_an_edit_of_the_spec_ends_a_pause_and_the_next_one_is_the_first_again() -> None:
    world = by_cron()
    for _ in range(3):
        world.edit(suspend=False)
        world.look(60)
        world.end_job(FAILED)
        world.look()
        assert world.status["backoff"]["cycles"] == 1
    assert len(world.created) == 3


def test_a_person_waits_for_no_pause() -> None:
    world = by_cron()
    world.settings = TenantSettings()
    world.look(60)
    world.end_job(FAILED)
    world.look(60)
    world.ask("now")
    world.look()
    assert world.active["trigger"] == "Manual"


@pytest.mark.parametrize("end", ["RolledBack", "Refused", "NotPublished", "Deleted"])
def test_each_end_without_a_version_is_followed_by_a_pause(end: str) -> None:
    world = by_traffic()
    world.capture(rows=1)
    world.look()
    if end == "Deleted":
        world.jobs.clear()
    elif end == "NotPublished":
        world.end_job(ended("Failed", "GatesNotMet"))
    else:
        world.end_job(published(2))
        reason = "Worse" if end == "RolledBack" else "AnswersDiffer"
        world.tell(rejected=[{"version": 2, "reason": reason}])
    world.look(60)
    assert (world.outcomes, world.condition()) == ([end], ("False", "Backoff"))


def run_nights(world: ScheduleWorld, *ends: Any) -> None:
    """Let a cycle begin and end each night."""
    for night, end in enumerate(ends):
        world.look_at(NIGHT + night * DAY)
        world.end_job(end)
        world.look()


def test_the_newest_jobs_are_kept_of_both_kinds_and_the_newest_version_always() -> None:
    world = ScheduleWorld(successfulJobsHistoryLimit=1, failedJobsHistoryLimit=2)
    run_nights(world, published(2), published(3), *[FAILED] * 5)
    kept = list(world.jobs)
    assert kept == [world.created[1], *world.created[-2:]]
    assert len(world.status["history"]) == 7
    world.edit(failedJobsHistoryLimit=0)
    world.look()
    assert list(world.jobs) == [world.created[1]]


def test_the_job_of_a_version_that_traffic_decides_on_is_kept() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 1}, successfulJobsHistoryLimit=1)
    for number in (2, 3):
        world.capture(rows=number)
        world.look(60)
        world.end_job(published(number))
        world.look()
        if number == 2:
            world.tell(active={"version": 2})
            world.look()
    assert world.active["waitsFor"] == "Traffic"
    assert len(world.jobs) == 2


def test_jobs_that_run_are_not_counted_and_not_deleted() -> None:
    world = ScheduleWorld(failedJobsHistoryLimit=0)
    run_nights(world, FAILED)
    world.look_at(NIGHT + DAY)
    # one that a person has made the schedule the owner of
    world.jobs["other"] = {**world.jobs[world.active["job"]], "status": {}}
    world.jobs["other"]["metadata"] = {**world.jobs["other"]["metadata"], "name": "other"}
    world.look(3600)
    assert set(world.jobs) == {world.active["job"], "other"}


def test_a_cron_table_that_is_too_frequent_is_told_with_bound_and_remedy() -> None:
    world = by_cron()
    world.settings = TenantSettings(min_cycle_interval="2h")
    world.look(60)
    world.end_job(published(2))
    world.look(60)
    assert world.condition() == ("False", "TooFrequent")
    message = world.status["conditions"][0]["message"]
    assert "config.minCycleInterval is 2h" in message
    assert timestamp(NOW + MINUTE + 2 * HOUR) in message
    world.look_at(NOW + MINUTE + 2 * HOUR)
    assert len(world.created) == 2


def test_a_schedule_that_has_no_trigger_within_the_interval_is_told_nothing() -> None:
    world = ScheduleWorld()
    world.settings = TenantSettings(min_cycle_interval="12h")
    run_nights(world, published(2), published(3))
    assert world.condition() == ("True", "WaitingForTrigger")
    assert len(world.created) == 2


def test_more_schedules_than_are_allowed_wait_until_there_is_room() -> None:
    world = ScheduleWorld()
    world.settings = TenantSettings(max_schedules=2)
    world.num_older = 2
    world.look_at(NIGHT)
    world.ask("now")
    world.look(60)
    assert world.condition() == ("False", "TooManySchedules")
    assert world.condition("Stalled")[0] == "True"
    assert world.last.requeue_after == 60
    world.num_older = 1
    world.look(60)
    assert len(world.created) == 1


def test_no_cycle_begins_where_the_schedules_have_as_many_jobs_as_are_allowed() -> None:
    world = ScheduleWorld()
    world.settings = TenantSettings(max_schedule_jobs=2)
    run_nights(world, published(2), published(3))
    world.look_at(NIGHT + 2 * DAY)
    assert world.condition() == ("False", "TooManyJobs")
    assert "failedJobsHistoryLimit" in world.status["conditions"][0]["message"]
    world.edit(successfulJobsHistoryLimit=1)
    world.look(60)
    assert len(world.created) == 3


@pytest.mark.parametrize(
    ("spec", "deadline"),
    [
        ({"cycleDeadlineSeconds": 7200}, 2 * HOUR),
        ({}, 14 * DAY),
        ({"triggers": {"cron": "0 3 25 */3 *"}}, 90 * DAY),
    ],
    ids=["of the spec", "nightly", "quarterly"],
)
def test_a_cycle_without_an_end_is_timed_out_and_its_job_deleted(
    spec: dict[str, Any], deadline: timedelta
) -> None:
    world = ScheduleWorld(**spec)
    if "triggers" in spec:
        world.ask("now")
    world.look_at(NIGHT)
    late = world.active["job"]
    world.look_at(NIGHT + deadline - MINUTE)
    assert (world.active["job"], world.outcomes) == (late, [])
    world.look_at(NIGHT + deadline)
    assert world.outcomes == ["TimedOut"]
    assert late not in world.jobs
    assert "CycleTimedOut" in [reason for reason, _ in world.events]


def test_an_operator_that_dies_before_the_deletion_deletes_the_job_later() -> None:
    world = ScheduleWorld(cycleDeadlineSeconds=7200)
    world.look_at(NIGHT)
    late = world.active["job"]
    world.now = NIGHT + 2 * HOUR
    world.look(crashes=True)
    assert (world.outcomes, list(world.jobs)) == (["TimedOut"], [late])
    world.look(60)
    assert world.jobs == {}


def test_a_version_that_traffic_decides_on_for_too_long_stays_and_its_cycle_ends() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 1}, cycleDeadlineSeconds=86400)
    world.capture(rows=1)
    world.look()
    world.end_job(published(2))
    world.look(60)
    world.look_at(NOW + DAY)
    assert world.outcomes == ["TimedOut"]
    assert world.status["history"][0]["version"] == 2
    assert len(world.jobs) == 1


def test_a_deadline_is_looked_at_without_any_event() -> None:
    world = ScheduleWorld(cycleDeadlineSeconds=3600)
    world.look_at(NIGHT)
    assert world.active["job"].startswith(NAME)
    assert world.last.requeue_after == 60
