"""What holds of a schedule whatever happens to its clock, its jobs, its endpoint and its leader."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import takewhile
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from finetune_api.v1alpha1.status.schedule import FineTuneScheduleStatus
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetuneschedule.cron import Times
from finetune_operator.finetuneschedule.plan import plan
from finetune_operator.status.conditions import is_terminal
from kit.builders.jobs import NOW
from kit.builders.schedules import ScheduleWorld, ended, endpoint, published

TABLE = "0 */6 * * *"
ROWS = 100
SECONDS = st.sampled_from([0, 30, 3600, 6 * 3600, 86400, 30 * 86400])
ENDS = st.sampled_from(["Published", "Failed", "GatesNotMet"])


class ScheduleMachine(RuleBasedStateMachine):
    """A schedule to which anything happens between two looks."""

    def __init__(self) -> None:
        super().__init__()
        triggers = {"cron": TABLE, "timeZone": "Europe/Berlin", "newRows": ROWS, "drift": True}
        self.world = ScheduleWorld(endpoint(), triggers=triggers)
        self.latest = NOW
        self.rows = 0
        self.num_drifts = 0
        self.num_asked = 0
        self.version = 1
        self.was_deleted = False

    @rule(seconds=SECONDS)
    def look(self, seconds: int) -> None:
        self.world.look(seconds)
        self._planning_again_changes_nothing()

    @rule(seconds=SECONDS)
    def crash_before_the_creation(self, seconds: int) -> None:
        self.world.look(seconds, crashes=True)

    @rule(seconds=SECONDS)
    def look_as_two_leaders(self, seconds: int) -> None:
        """Both plan from the same snapshot; the second one acts after the first."""
        world = self.world
        world.now += timedelta(seconds=seconds)
        version, observed = world.version, world.observe()
        for _ in range(2):
            made = plan(observed, world.now + timedelta(seconds=1))
            if world.write(made, version):
                world.delete(made)
                world.create(made)

    @rule(seconds=st.sampled_from([3600, 86400]))
    def set_the_clock_back(self, seconds: int) -> None:
        self.world.now = max(NOW, self.world.now - timedelta(seconds=seconds))

    @precondition(lambda self: self.world.active.get("job") in self.world.jobs)
    @rule(end=ENDS)
    def end_the_job(self, end: str) -> None:
        job = self.world.jobs[self.world.active["job"]]
        if is_terminal(job.get("status")):
            return
        self.version += end == "Published"
        status = published(self.version) if end == "Published" else ended("Failed", end)
        self.world.end_job(status)

    @precondition(lambda self: self.world.active.get("jobUid"))
    @rule()
    def delete_the_job(self) -> None:
        self.world.jobs.pop(self.world.active["job"], None)
        self.was_deleted = True

    @rule(is_promoted=st.booleans())
    def decide_on_the_version(self, is_promoted: bool) -> None:
        version = self.world.active.get("version")
        if version is None:
            return
        if is_promoted:
            self.world.tell(active={"version": version})
        else:
            self.world.tell(rejected=[{"version": version, "reason": "Worse"}])

    @rule(rows=st.integers(1, 3 * ROWS))
    def answer(self, rows: int) -> None:
        self.rows += rows
        self.world.capture(rows=self.rows)

    @rule()
    def drift(self) -> None:
        self.num_drifts += 1
        began = f"2026-11-24T12:{self.num_drifts % 60:02}:00Z"
        self.world.tell(
            conditions=[{"type": "Drifted", "status": "True", "lastTransitionTime": began}]
        )

    @rule(value=st.sampled_from(["a", "b"]))
    def ask(self, value: str) -> None:
        self.num_asked += 1
        self.world.ask(value)

    @rule(suspend=st.booleans())
    def suspend(self, suspend: bool) -> None:
        self.world.edit(suspend=suspend)

    @rule(is_refused=st.booleans())
    def refuse_jobs(self, is_refused: bool) -> None:
        refusal = Refusal(reason="Forbidden", message="exceeded quota")
        self.world.refusal = refusal if is_refused else None

    def _planning_again_changes_nothing(self) -> None:
        again = plan(self.world.observe(), self.world.now)
        assert again.status is None
        assert again.events == ()
        assert again.create is None or self.world.refusal is not None

    @invariant()
    def no_job_is_created_twice(self) -> None:
        assert len(set(self.world.created)) == len(self.world.created)

    @invariant()
    def only_ended_jobs_are_deleted_and_those_that_had_no_end(self) -> None:
        """The history limits end no job. Only the deadline of a cycle does."""
        outcomes = {each["job"]: each["outcome"] for each in self.world.status.get("history", ())}
        for job in self.world.deleted[-5:]:
            is_late = outcomes.get(job["metadata"]["name"]) == "TimedOut"
            assert is_terminal(job.get("status")) or is_late
            assert job["metadata"]["name"] != self.world.active.get("job")

    @invariant()
    def the_newest_job_that_has_published_is_kept(self) -> None:
        versions = [_version_of(job) for job in self.world.deleted if _version_of(job)]
        kept = [_version_of(job) for job in self.world.jobs.values()]
        assert not versions or self.was_deleted or max(kept) > max(versions)

    @invariant()
    def at_most_one_job_runs(self) -> None:
        running = [j for j in self.world.jobs.values() if not is_terminal(j.get("status"))]
        assert len(running) <= 1

    @invariant()
    def no_trigger_fires_more_often_than_there_is_cause(self) -> None:
        world = self.world
        self.latest = max(self.latest, world.now + timedelta(seconds=1))
        times = Times(table=TABLE, zone="Europe/Berlin").after(NOW)
        num_times = sum(1 for _ in takewhile(lambda each: each <= self.latest, times))
        suffixes = Counter(_cause_of(name) for name in world.created)
        assert suffixes["r"] <= self.rows // ROWS
        assert suffixes["d"] <= self.num_drifts
        assert suffixes["m"] <= self.num_asked
        assert suffixes["cron"] <= num_times

    @invariant()
    def the_history_tells_of_every_cycle_and_the_status_is_valid(self) -> None:
        status = FineTuneScheduleStatus.model_validate(self.world.status, by_alias=True)
        told = {each.job for each in status.history}
        told |= {status.active.job} if status.active else set()
        assert len(status.history) <= 10
        assert set(self.world.created[-len(status.history) :]) <= told or not status.history


def _version_of(job: dict[str, Any]) -> int:
    return int(((job.get("status") or {}).get("artifact") or {}).get("version") or 0)


def _cause_of(job: str) -> str:
    suffix = job.rpartition("-")[2]
    return suffix[0] if suffix[0] in "rfdm" else "cron"


ScheduleMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSchedule = ScheduleMachine.TestCase
