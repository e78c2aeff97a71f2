"""What a schedule begins, what it waits for, and what it writes of the end of a cycle."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetuneschedule.plan import plan
from kit.builders.jobs import NOW
from kit.builders.schedules import (
    NAME,
    PUBLISHED,
    TEMPLATE,
    ScheduleWorld,
    ended,
    endpoint,
    published,
    schedule,
)

DAY = timedelta(days=1)
NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)


def test_a_cycle_begins_at_its_time_under_a_name_of_that_minute() -> None:
    world = ScheduleWorld()
    world.look()
    assert world.condition() == ("True", "WaitingForTrigger")
    assert world.status["nextTriggerTime"] == "2026-11-25T03:00:00Z"
    world.look_at(NIGHT - timedelta(seconds=1))
    assert world.created == []
    world.look_at(NIGHT + timedelta(seconds=5))
    assert world.created == [f"{NAME}-{int(NIGHT.timestamp()) // 60}"]
    assert world.active["trigger"] == "Cron"
    assert world.status["lastScheduleTime"] == "2026-11-25T03:00:00Z"
    assert world.condition() == ("True", "CycleRunning")


def test_a_job_is_only_created_after_the_status_names_it() -> None:
    world = ScheduleWorld()
    made = plan(world.observe(), NIGHT)
    assert made.status is not None
    assert made.create is not None
    assert made.status["active"]["job"] == made.create["metadata"]["name"]


def test_an_operator_that_dies_before_the_creation_creates_that_job_later() -> None:
    world = ScheduleWorld()
    world.now = NIGHT
    world.look(crashes=True)
    assert world.created == []
    world.look_at(NIGHT + 3 * DAY)
    assert world.created == [f"{NAME}-{int(NIGHT.timestamp()) // 60}"]
    assert world.active["time"] == "2026-11-25T03:00:00Z"


def test_no_cycle_begins_while_one_runs_and_the_last_missed_start_is_made_up_for() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    world.look_at(NIGHT + 3 * DAY + timedelta(hours=1))
    assert len(world.created) == 1
    world.end_job(published(2))
    world.look()
    missed = int((NIGHT + 3 * DAY).timestamp()) // 60
    assert world.created[1:] == [f"{NAME}-{missed}"]
    assert world.outcomes == ["Published"]


def test_an_operator_that_was_dead_over_three_times_begins_one_cycle() -> None:
    world = ScheduleWorld()
    world.look()
    world.look_at(NIGHT + 2 * DAY + timedelta(hours=5))
    assert world.created == [f"{NAME}-{int((NIGHT + 2 * DAY).timestamp()) // 60}"]
    world.end_job(published(2))
    world.look()
    assert len(world.created) == 1


def test_a_start_that_is_too_late_is_left_out_and_told_once() -> None:
    world = ScheduleWorld(startingDeadlineSeconds=600)
    world.look_at(NIGHT + timedelta(seconds=601))
    world.look(60)
    assert world.created == []
    assert [reason for reason, _ in world.events] == ["MissedStart"]
    assert world.status["lastScheduleTime"] == "2026-11-25T03:00:00Z"
    world.look_at(NIGHT + DAY + timedelta(seconds=600))
    assert len(world.created) == 1


def test_more_than_100_missed_starts_are_told_and_the_last_is_made_up_for() -> None:
    world = ScheduleWorld(triggers={"cron": "*/5 * * * *"})
    world.look_at(NOW + timedelta(days=40, minutes=3))
    last = NOW + timedelta(days=40)
    assert world.created == [f"{NAME}-{int(last.timestamp()) // 60}"]
    assert "TooManyMissedTimes" in [reason for reason, _ in world.events]


def test_a_schedule_whose_clock_was_a_year_ahead_says_when_it_goes_on() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT + 365 * DAY)
    world.end_job(published(2))
    world.look()
    world.look_at(NIGHT + DAY)
    assert (len(world.created), world.condition()) == (1, ("True", "WaitingForTrigger"))
    message = world.status["conditions"][0]["message"]
    assert "A clock was wrong: the start at 2027-11-25T03:00:00Z" in message
    assert world.status["nextTriggerTime"] == "2027-11-26T03:00:00Z"
    world.ask("now")  # a person does not wait for it
    world.look()
    assert len(world.created) == 2


def test_a_clock_that_was_set_back_doubles_nothing() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    world.end_job(published(2))
    world.look()
    world.look_at(NIGHT - timedelta(hours=5))
    world.look_at(NIGHT)
    assert len(world.created) == 1


@pytest.mark.parametrize(
    ("triggers", "trigger", "before", "at"),
    [
        ({"newRows": 500}, "NewRows", {"rows": 499}, {"rows": 500}),
        ({"newFeedback": 50}, "NewFeedback", {"feedback": 49, "rows": 900}, {"feedback": 50}),
    ],
)
def test_new_answers_and_new_feedback_count_from_the_last_trigger(
    triggers: dict[str, Any], trigger: str, before: dict[str, Any], at: dict[str, Any]
) -> None:
    world = ScheduleWorld(endpoint(), triggers=triggers)
    world.capture(**before)
    world.look()
    assert world.created == []
    world.capture(**at)
    world.look(60)
    assert world.active["trigger"] == trigger
    world.end_job(ended("Failed", "Internal", "no luck"))
    world.look(60)
    assert (len(world.created), world.outcomes) == (1, ["Failed"])
    world.capture(**{name: 2 * number for name, number in at.items()})
    world.look(600)
    assert len(set(world.created)) == 2


def test_an_endpoint_that_counts_anew_is_counted_from_nothing() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 100})
    world.capture(rows=1000)
    world.look()
    world.end_job(ended("Failed", "Internal"))
    world.look(600)
    world.capture(rows=99, since=NOW + DAY)
    world.look()
    assert len(world.created) == 1
    world.capture(rows=100, since=NOW + DAY)
    world.look()
    assert len(world.created) == 2


def test_the_same_drift_is_reacted_to_once() -> None:
    world = ScheduleWorld(endpoint(), triggers={"drift": True})
    drift = {"type": "Drifted", "status": "True", "lastTransitionTime": "2026-11-24T12:00:00Z"}
    world.tell(conditions=[drift])
    world.look()
    assert world.active["trigger"] == "Drift"
    world.end_job(ended("Failed", "GatesNotMet", "not better"))
    world.look(3600)
    assert (len(world.created), world.outcomes) == (1, ["NotPublished"])
    world.tell(conditions=[{**drift, "status": "False"}])
    world.look(3600)
    world.tell(conditions=[{**drift, "lastTransitionTime": "2026-11-25T12:00:00Z"}])
    world.look(3600)
    assert len(world.created) == 2


@pytest.mark.parametrize(
    ("number", "goal", "left"),
    [
        (None, None, "not known"),
        (14, None, "3"),
        (15, None, None),
        (30, None, None),
        (7, "0.99", None),  # a surer verdict can be shown less often
        (7, "0.9", "17"),
    ],
)
def test_drift_leaves_the_last_three_evaluations_of_the_held_out_rows(
    number: int | None, goal: str | None, left: str | None
) -> None:
    template = copy.deepcopy(TEMPLATE)
    if goal is not None:
        template["spec"]["goal"] = {"metric": "exactMatch", "atLeast": "0.8", "certainty": goal}
    both = {"drift": True, "newRows": 100}
    world = ScheduleWorld(endpoint(), triggers=both, jobTemplate=template, historyLimit=1)
    world.ask("first")
    world.look()
    look = {} if number is None else {"number": number}
    world.end_job(ended("Failed", "GatesNotMet", evaluation={"look": look}))
    world.ask("second")  # and this one fails before its evaluation
    world.look()
    world.end_job(ended("Failed", "DataRejected"))
    drift = {"type": "Drifted", "status": "True", "lastTransitionTime": "2026-11-25T12:00:00Z"}
    world.tell(conditions=[drift])
    world.look(86400)
    assert len(world.created) == (2 if left is None else 3)
    if left is not None:
        assert f"evaluations left for the held-out rows: {left})" in world.events[-1][1]
        return
    assert world.condition() == ("False", "FewLooksLeft")
    world.capture(rows=100)
    world.look(60)
    assert world.active["trigger"] == "NewRows"
    world.end_job(ended("Failed", "GatesNotMet", evaluation={"look": {"number": 1}}))
    world.tell(conditions=[{**drift, "lastTransitionTime": "2026-11-28T12:00:00Z"}])
    world.look(86400)  # against new rows the count begins anew
    assert world.active["trigger"] == "Drift"


def test_a_person_begins_one_cycle_with_each_new_value() -> None:
    world = ScheduleWorld(cooldown="24h")
    for number, value in enumerate(("a", "b", "a"), start=1):
        world.ask(value)
        world.look(60)
        assert world.active["trigger"] == "Manual"
        assert world.status["handledTrigger"] == value
        world.end_job(published(number))
        world.look(60)
        world.look(3600)
        assert len(set(world.created)) == number
    assert [each["version"] for each in world.status["history"]] == [1, 2, 3]


@pytest.mark.parametrize("value", ["x" * 64, "x" * 254, "ü" * 100_000, "a\x00b", " \n"])
def test_a_value_of_any_length_begins_one_cycle(value: str) -> None:
    world = ScheduleWorld(triggers={"cron": "0 3 1 1 *"})
    world.ask(value)
    for _ in range(3):
        world.look(60)
        if world.active:
            world.end_job(published(2))
    assert len(world.created) == 1
    world.ask(value + "!")
    world.look(60)
    assert len(world.created) == 2


def test_what_a_person_asks_for_waits_for_the_cycle_under_way_and_for_the_end_of_a_suspension() -> (
    None
):
    world = ScheduleWorld()
    world.look_at(NIGHT)
    world.ask("now")
    world.look(60)
    assert world.active["trigger"] == "Cron"
    world.edit(suspend=True)
    world.end_job(published(2))
    world.look(60)
    assert world.condition() == ("False", "SuspendedByUser")
    world.edit(suspend=False)
    world.look(60)
    assert world.active["trigger"] == "Manual"
    assert len(world.created) == 2


def test_a_budget_binds_a_person_too() -> None:
    world = ScheduleWorld(budget={"jobs": 1, "per": "30d"})
    world.look_at(NIGHT)
    world.end_job(published(2))
    world.ask("now")
    world.look(60)
    assert world.condition() == ("False", "BudgetSpent")
    assert len(world.created) == 1


def test_cooldown_delays_a_trigger_and_does_not_lose_it() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 10}, cooldown="24h")
    world.capture(rows=10)
    world.look()
    world.end_job(ended("Failed", "Internal"))
    world.capture(rows=20)
    world.look(3600)
    assert world.condition() == ("True", "CoolingDown")
    assert world.last.requeue_after == 60
    world.look_at(NOW + DAY)
    assert len(world.created) == 2


@pytest.mark.parametrize(
    ("budget", "hours"), [({"jobs": 1}, "0"), ({"gpuHours": "4"}, "4.5")], ids=["jobs", "hours"]
)
def test_a_budget_that_is_spent_holds_until_its_period_ends(
    budget: dict[str, Any], hours: str
) -> None:
    template = schedule()["spec"]["jobTemplate"]
    template["spec"]["resources"] = {"gpusPerNode": 1}
    world = ScheduleWorld(budget={**budget, "per": "7d"}, jobTemplate=template)
    world.look_at(NIGHT)
    world.end_job(published(2), hours)
    world.look()
    world.look_at(NIGHT + DAY)
    assert world.condition() == ("False", "BudgetSpent")
    assert len(world.created) == 1
    world.look_at(NIGHT + 7 * DAY)
    assert len(world.created) == 2
    assert (world.status["used"]["jobs"], world.status["used"]["gpuHours"]) == (1, "0")


def test_a_job_gets_what_is_left_of_the_gpu_hours() -> None:
    template = schedule()["spec"]["jobTemplate"]
    template["spec"] |= {"resources": {"gpusPerNode": 1}, "budget": {"gpuHours": "3"}}
    world = ScheduleWorld(budget={"gpuHours": "4"}, jobTemplate=template)
    world.look_at(NIGHT)
    first = world.active["job"]
    world.end_job(published(2), "2.5")
    world.look()
    world.look_at(NIGHT + DAY)
    hours = [
        world.jobs[name]["spec"]["budget"]["gpuHours"] for name in (first, world.active["job"])
    ]
    assert hours == ["3", "1.5"]


def test_suspension_begins_nothing_and_lets_the_present_cycle_end() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    world.edit(suspend=True)
    world.end_job(published(2))
    world.look(5 * 86400)
    assert world.outcomes == ["Published"]
    assert world.condition() == ("False", "SuspendedByUser")
    assert len(world.created) == 1


def test_a_job_that_is_refused_is_tried_again_under_the_same_name() -> None:
    world = ScheduleWorld()
    world.refusal = Refusal(reason="Forbidden", message="exceeded quota: jobs")
    world.look_at(NIGHT)
    world.look(86400)
    assert world.condition() == ("False", "Forbidden")
    assert world.condition("Stalled") == ("True", "Forbidden")
    world.refusal = None
    world.look(60)
    assert world.created == [f"{NAME}-{int(NIGHT.timestamp()) // 60}"]
    assert world.condition("Stalled") == ("False", "AsWanted")


def test_a_job_that_can_never_be_created_ends_its_cycle() -> None:
    world = ScheduleWorld()
    world.refusal = Refusal(reason="Invalid", message="spec.model: no", is_final=True)
    world.look_at(NIGHT)
    assert world.outcomes == ["Failed"]
    assert "spec.model" in world.status["history"][0]["message"]


@pytest.mark.parametrize(
    ("told", "outcome"),
    [
        ({"active": {"version": 2}}, "Promoted"),
        ({"active": {"version": 3}}, "Superseded"),
        ({"rejected": [{"version": 2, "reason": "Worse", "message": "errors"}]}, "RolledBack"),
        ({"rejected": [{"version": 2, "reason": "AnswersDiffer"}]}, "Refused"),
    ],
    ids=["promoted", "superseded", "worse", "refused"],
)
def test_traffic_decides_on_a_version(told: dict[str, Any], outcome: str) -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 10})
    world.capture(rows=10)
    world.look()
    world.end_job(published(2))
    world.capture(rows=500)
    world.look(60)
    world.tell(candidate={"version": 2, "weight": 25})
    world.look(60)
    assert world.active["waitsFor"] == "Traffic"
    assert len(world.created) == 1
    world.tell(candidate=None, **told)
    world.look(60)
    entry = world.status["history"][0]
    assert (entry["outcome"], entry["version"], entry["job"]) == (outcome, 2, world.created[0])
    assert entry["dataDigest"] == "d" * 64
    assert f"Cycle{outcome}" in [reason for reason, _ in world.events]


def test_two_schedules_of_one_endpoint_train_once_each_and_the_later_version_wins() -> None:
    first, second = (ScheduleWorld(endpoint(), triggers={"newRows": 10}) for _ in range(2))
    second.schedule["metadata"] |= {"name": "other", "uid": "uid-of-other"}
    for number, world in enumerate((first, second), start=2):
        world.capture(rows=10)
        world.look()
        world.end_job(published(number))
        world.look(3600)
    assert (len(first.created), len(second.created)) == (1, 1)
    assert first.created != second.created
    for world in (first, second):
        world.tell(active={"version": 1}, candidate={"version": 3})
        world.look(60)
    assert (first.outcomes, second.outcomes) == (["Superseded"], [])
    second.tell(active={"version": 3}, candidate=None)
    second.look(60)
    assert second.outcomes == ["Promoted"]


@pytest.mark.parametrize("told", [{"active": {"version": 2}}, {"active": {"version": 3}}])
def test_an_endpoint_of_another_job_under_the_same_name_decides_nothing(
    told: dict[str, Any],
) -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 1})
    world.capture(rows=1)
    world.look()
    world.end_job(published(2))
    world.look()
    assert world.active["waitsFor"] == "Traffic"
    world.endpoint = endpoint(**told)
    world.endpoint["metadata"]["uid"] = "uid-of-another-endpoint"
    world.endpoint["spec"]["jobRef"]["name"] = "somebody-elses"
    world.look(60)
    assert world.outcomes == ["Published"]


def test_a_pinned_endpoint_takes_no_version_and_the_history_says_so() -> None:
    pinned = endpoint()
    pinned["spec"]["version"] = 1
    world = ScheduleWorld(pinned, triggers={"newRows": 1})
    world.capture(rows=1)
    world.look()
    world.end_job(published(2))
    world.look()
    assert world.outcomes == ["Published"]
    assert "pins 1" in world.status["history"][0]["message"]


def test_a_deleted_job_ends_its_cycle_and_is_not_created_again() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    world.jobs.clear()
    world.look(3600)
    assert world.outcomes == ["Deleted"]
    assert len(world.created) == 1


def test_a_deleted_job_that_has_published_still_has_its_version_judged() -> None:
    world = ScheduleWorld(endpoint(), triggers={"newRows": 1})
    world.capture(rows=1)
    world.look()
    world.end_job(published(2))
    world.look()
    world.jobs.clear()
    world.look()
    assert world.active["version"] == 2
    world.tell(active={"version": 2})
    world.look()
    assert world.outcomes == ["Promoted"]


def test_the_history_keeps_the_newest_cycles() -> None:
    world = ScheduleWorld(historyLimit=2)
    for night in range(4):
        world.look_at(NIGHT + night * DAY)
        world.end_job(published(night + 2))
        world.look()
    assert [each["version"] for each in world.status["history"]] == [4, 5]


@pytest.mark.parametrize(
    ("triggers", "named"),
    [
        ({"cron": "0 3 31 2 *"}, "0 3 31 2 *"),
        ({"cron": "0 5-3 * * *"}, "0 5-3 * * *"),
        ({"cron": "0 3 * * *", "timeZone": "Europe/Atlantis"}, "Europe/Atlantis"),
    ],
)
def test_times_that_cannot_be_read_stall_the_schedule(triggers: dict[str, str], named: str) -> None:
    world = ScheduleWorld(triggers=triggers)
    world.look(10 * 86400)
    assert world.condition("Stalled") == ("True", "InvalidSchedule")
    message = world.status["conditions"][0]["message"]
    assert named in message
    assert "write" in message
    assert world.created == []


def test_without_its_endpoint_nothing_begins() -> None:
    world = ScheduleWorld(endpoint(), triggers={"cron": "0 3 * * *"})
    world.endpoint = None
    world.look_at(NIGHT)
    assert world.condition() == ("False", "EndpointNotFound")
    assert world.created == []


def test_the_job_is_the_template_pinned_to_the_trigger() -> None:
    template = schedule()["spec"]["jobTemplate"]
    template["metadata"] = {"labels": {"team": "news"}}
    template["spec"]["dataset"]["sources"] += [
        {"uri": "traffic://headlines"},
        {"uri": "traffic://headlines", "until": "2026-01-01T00:00:00Z"},
    ]
    world = ScheduleWorld(
        endpoint(), jobTemplate=template, promote="Approval", requestedBy="ann@example.org"
    )
    world.look_at(NIGHT + timedelta(seconds=30))
    job = world.jobs[world.active["job"]]
    assert job["metadata"]["labels"]["team"] == "news"
    assert job["metadata"]["labels"]["finetune.dev/schedule"] == NAME
    assert job["metadata"]["ownerReferences"][0]["uid"] == f"uid-of-{NAME}"
    spec = job["spec"]
    assert spec["output"]["publishAs"] == PUBLISHED
    assert spec["output"]["approval"] == "Required"
    assert spec["requestedBy"] == "ann@example.org"
    ends = [each.get("until") for each in spec["dataset"]["sources"]]
    assert ends == [None, "2026-11-25T03:00:30Z", "2026-01-01T00:00:00Z"]
    assert "until" not in template["spec"]["dataset"]["sources"][1]


def test_without_an_endpoint_versions_have_the_name_of_the_schedule() -> None:
    world = ScheduleWorld()
    world.look_at(NIGHT)
    output = world.jobs[world.active["job"]]["spec"]["output"]
    assert (output["publishAs"], output.get("approval")) == (NAME, None)


def test_a_schedule_that_is_being_deleted_is_left_alone() -> None:
    world = ScheduleWorld()
    world.schedule["metadata"]["deletionTimestamp"] = "2026-11-25T02:00:00Z"
    made = plan(world.observe(), NIGHT)
    assert (made.status, made.create) == (None, None)


SEALED = {"digest": "a" * 64, "testSha256": "b" * 64}
REPORT = {"reportUri": "s3://models/report.json"}
EVALUATED = ended("Failed", "GoalNotMet", dataset=SEALED, evaluation=REPORT)


def next_job(world: ScheduleWorld, night: int, status: dict[str, Any]) -> dict[str, Any]:
    """Let a cycle begin, end its job, and return the job's spec."""
    world.look_at(NIGHT + night * DAY)
    spec: dict[str, Any] = world.jobs[world.active["job"]]["spec"]
    world.end_job(status)
    world.look()
    return spec


def test_the_test_rows_of_the_first_evaluated_cycle_are_held_out_in_all_further_ones() -> None:
    world = ScheduleWorld()
    other = {"digest": "c" * 64, "testSha256": "d" * 64}
    first = next_job(world, 0, EVALUATED)
    assert "anchor" not in first["dataset"]
    assert first["evaluation"]["looks"] == "Correct"
    assert world.status["anchor"] == {**SEALED, "job": world.created[0]}
    second = next_job(world, 1, ended("Failed", "GoalNotMet", dataset=other, evaluation=REPORT))
    third = next_job(world, 2, ended("Failed", "Internal"))
    for spec in (second, third):
        assert spec["dataset"]["anchor"] == SEALED
        assert spec["evaluation"]["looks"] == "Correct"
    assert world.status["anchor"]["digest"] == SEALED["digest"]


@pytest.mark.parametrize(
    "status",
    [
        ended("Failed", "TooFewRows", dataset={}),
        ended("Failed", "DataRejected", dataset=SEALED),
        ended("Failed", "OutOfMemory", dataset=SEALED),
        ended("Failed", "GoalNotMet", dataset={"digest": "a" * 64}, evaluation=REPORT),
    ],
    ids=["no data set", "data rejected", "not evaluated", "prepared by an older trainer"],
)
def test_nothing_is_sealed_by_a_cycle_that_was_not_evaluated(status: dict[str, Any]) -> None:
    world = ScheduleWorld()
    next_job(world, 0, status)
    assert "anchor" not in world.status
    second = next_job(world, 1, EVALUATED)
    assert "anchor" not in second["dataset"]
    assert world.status["anchor"]["job"] == world.created[1]


@pytest.mark.parametrize(
    "evaluation", [{}, {"evaluation": REPORT}], ids=["not evaluated", "evaluated"]
)
def test_a_schedule_without_a_status_learns_from_its_next_job_what_is_on_record(
    evaluation: dict[str, Any],
) -> None:
    world = ScheduleWorld()
    recorded = {**SEALED, "job": "weekly-before-it-was-restored"}
    own = {"digest": "c" * 64, "testSha256": "d" * 64, "anchor": recorded}
    next_job(world, 0, ended("Failed", "GoalNotMet", dataset=own, **evaluation))
    assert world.status["anchor"] == recorded
    assert next_job(world, 1, EVALUATED)["dataset"]["anchor"] == SEALED
    assert world.status["anchor"] == recorded


def test_an_anchor_of_the_template_counts_instead_of_the_sealed_one() -> None:
    template = schedule()["spec"]["jobTemplate"]
    chosen = {"digest": "e" * 64, "testSha256": "f" * 64}
    template["spec"]["dataset"]["anchor"] = chosen
    template["spec"]["evaluation"]["looks"] = "Correct"
    world = ScheduleWorld(jobTemplate=template)
    next_job(world, 0, EVALUATED)
    assert next_job(world, 1, published(2))["dataset"]["anchor"] == chosen


def test_the_anchor_outlives_its_job_and_the_history() -> None:
    world = ScheduleWorld(historyLimit=1)
    next_job(world, 0, EVALUATED)
    for night in (1, 2):
        world.jobs.clear()
        spec = next_job(world, night, ended("Failed", "Internal"))
    assert len(world.status["history"]) == 1
    assert spec["dataset"]["anchor"] == SEALED
