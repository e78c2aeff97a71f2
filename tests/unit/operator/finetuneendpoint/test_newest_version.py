"""The active version never falls by itself, whatever becomes of the jobs of its versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from finetune_api.protocol.serving import RecordReport, StoredDecisions
from finetune_api.v1alpha1.status.fields import MAX_VERSION
from finetune_operator.finetuneendpoint.versions import choose_job
from finetune_operator.status.conditions import find_condition
from kit.builders.endpoints import (
    JOB,
    NAME,
    ROLLOUT,
    EndpointWorld,
    Object,
    digest_of,
    manifest_digest_of,
    published_job,
)

HAND, SCHEDULE, SWEEP = JOB, "weekly-29612345", "tuning-t7"
NAMES = (HAND, "again", SCHEDULE, "weekly-29622425", SWEEP, "tuning-t8")


def job_of(name: str, version: int | None) -> Object:
    """Return a job of any name that publishes, or has published, under the followed name."""
    job = published_job(version)
    job["metadata"] |= {"name": name, "uid": f"uid-of-{name}-{version}"}
    if name != JOB:
        job["spec"]["output"]["publishAs"] = JOB
    return job


class Cluster(EndpointWorld):
    """An endpoint, and jobs that come and go.

    Attributes:
        jobs: Jobs that exist, by name.
        unseen: Names of jobs that the operator's cache does not have.
    """

    def __init__(self, **spec: object) -> None:
        super().__init__(**spec)
        self.jobs: dict[str, Object] = {}
        self.unseen: frozenset[str] = frozenset()

    def look(self, seconds: float = 1.0):
        seen = [job for name, job in self.jobs.items() if name not in self.unseen]
        self.job = choose_job(seen, self.endpoint["spec"].get("version"))
        return super().look(seconds)


class JobsMachine(RuleBasedStateMachine):
    """Jobs of hand, schedule and sweep in any order, and an operator that restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = Cluster()
        self.newest = 0
        self.published: dict[int, str] = {}
        self.highest = 0
        self.lowered: list[tuple[int, int, object]] = []

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: str) -> None:
        self.world.jobs[name] = job_of(name, None)

    @rule(name=st.sampled_from(NAMES))
    def publish(self, name: str) -> None:
        self.newest += 1
        self.published[self.newest] = name
        self.world.jobs[name] = job_of(name, self.newest)

    @rule(name=st.sampled_from(NAMES))
    def delete_or_expire(self, name: str) -> None:
        self.world.jobs.pop(name, None)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """Bring back a job with the status that it had, in place of whatever has its name."""
        if self.published:
            version = data.draw(st.sampled_from(sorted(self.published)))
            name = self.published[version]
            self.world.jobs[name] = job_of(name, version)

    @rule(unseen=st.frozensets(st.sampled_from(NAMES)))
    def restart_with_part_of_the_jobs(self, unseen: frozenset[str]) -> None:
        self.world.unseen = unseen
        self.world.written_at = None

    @rule(rollout=st.sampled_from([ROLLOUT, None]))
    def change_rollout(self, rollout: object) -> None:
        self.world.edit(rollout=rollout)

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        numbers = st.integers(1, max(1, self.newest))
        self.world.edit(version=data.draw(st.one_of(st.none(), numbers)))

    @rule(version=st.integers(1, 8), state=st.sampled_from(["Verified", "Verifying", "Failed"]))
    def answer(self, version: int, state: str) -> None:
        self.world.answers[version] = (state, "AnswersDiffer" if state == "Failed" else "")

    @rule(weight=st.sampled_from([5, 25]), errors=st.sampled_from([0, 30]))
    def count(self, weight: int, errors: int) -> None:
        candidate = {"requests": 300, "errors": errors}
        self.world.count(weight, active={"requests": 5700}, candidate=candidate)

    @rule(num_looks=st.integers(1, 4))
    def look(self, num_looks: int) -> None:
        for _ in range(num_looks):
            before, _, _ = self.world.versions()
            if not (self.world.status.get("candidate") or {}).get("weight"):
                self.world.traffic.clear()
            self.world.look(seconds=10)
            active, candidate, _ = self.world.versions()
            pinned = self.world.endpoint["spec"].get("version")
            if before and active != before and active != pinned:
                assert active is not None
                assert active > before
            if before and candidate and candidate != pinned:
                assert candidate >= before

    @invariant()
    def the_newest_is_never_forgotten(self) -> None:
        told = (self.world.status.get("newest") or {}).get("version") or 0
        assert told >= self.highest
        self.highest = told


def two_versions(**spec: object) -> Cluster:
    """Return an endpoint whose second version, which a schedule published, answers."""
    world = Cluster(**spec)
    world.jobs[HAND] = job_of(HAND, 1)
    world.run()
    world.jobs[SCHEDULE] = job_of(SCHEDULE, 2)
    world.run()
    if "rollout" in spec:
        for weight in (5, 25):
            world.count(weight, active={"requests": 3800}, candidate={"requests": 200})
        world.run()
        world.traffic.clear()
    assert world.versions() == (2, None, 1)
    return world


@pytest.mark.parametrize("spec", [{}, {"rollout": ROLLOUT}])
def test_the_active_version_stays_when_the_job_that_published_it_is_deleted(spec):
    world = two_versions(**spec)
    del world.jobs[SCHEDULE]
    world.run(5)
    assert world.versions() == (2, None, 1)
    assert world.status["newest"]["version"] == 2
    world.jobs["again"] = job_of("again", 3)
    world.run()
    assert 3 in world.versions()[:2]


def test_a_version_whose_job_expires_during_the_rollout_before_it_still_comes():
    world = two_versions(rollout=ROLLOUT)
    world.jobs["third"] = job_of("third", 3)
    world.run()
    world.jobs["fourth"] = job_of("fourth", 4)
    world.run()
    assert world.versions() == (2, 3, None)
    del world.jobs["fourth"]
    bad = {"requests": 60, "errors": 30}
    world.count(5, active={"requests": 1140}, candidate=bad)
    world.look()
    world.traffic.clear()
    world.run()
    assert world.versions() == (2, 4, None)
    assert world.status["candidate"]["jobUid"] == "uid-of-fourth-4"


def test_a_person_goes_back_and_forth_with_the_version_of_a_job_that_is_gone():
    world = two_versions()
    world.jobs.clear()
    world.edit(version=1)
    world.run()
    assert world.versions() == (1, None, 2)
    decided = world.status["decisions"][-1]
    assert (decided["version"], decided["action"]) == (1, "Promoted")
    assert "instead of version 2" in decided["message"]
    world.run(5)
    assert world.versions() == (1, None, 2)
    world.edit(version=None)
    world.run()
    assert world.versions() == (2, None, 1)


def test_a_pin_above_all_known_versions_does_not_count_before_it_is_verified():
    world = two_versions()
    world.answers[9] = ("Fetching", "VersionNotFound")
    world.edit(version=9)
    world.run()
    assert (world.versions()[1], world.status["newest"]["version"]) == (9, 2)
    world.edit(version=None)
    world.run()
    assert world.versions() == (2, None, 1)
    world.answers.clear()
    world.edit(version=9)
    world.run()
    world.edit(version=None)
    world.run()
    assert (world.versions()[0], world.status["newest"]["version"]) == (9, 9)


def test_a_pin_of_a_version_that_was_never_published_is_told_and_the_active_one_answers():
    world = two_versions()
    world.answers[9] = ("Fetching", "VersionNotFound")
    world.edit(version=9)
    world.run()
    assert world.versions() == (2, 9, 1)
    assert world.condition("Stalled") == ("True", "VersionNotFound")
    assert world.condition("Available") == ("True", "Serving")
    assert (world.status["phase"], world.status["reason"]) == ("Degraded", "VersionNotFound")
    world.edit(version=None)
    world.run()
    assert world.condition("Stalled") == ("False", "AsWanted")
    assert world.status["phase"] == "Available"


def test_a_pinned_version_is_compared_with_what_its_job_said_after_that_job_is_gone():
    world = two_versions()
    for version in range(3, 6):
        world.jobs = {"next": job_of("next", version)}
        world.run()
    world.jobs.clear()
    world.edit(version=2)
    world.answers[2] = ("Loading", "")
    world.run()
    pinned = world.status["candidate"]
    assert pinned["jobUid"] == f"uid-of-{SCHEDULE}-2"
    assert pinned["weightsSha256"] == digest_of(2)
    assert pinned["sha256"] == manifest_digest_of(2)


def test_the_last_ten_versions_are_known():
    world = Cluster()
    for version in range(1, 15):
        world.jobs = {"next": job_of("next", version)}
        world.run()
    known = world.status["knownVersions"]
    assert [each["version"] for each in known] == list(range(5, 15))
    assert {each["sha256"] for each in known} == {manifest_digest_of(n) for n in range(5, 15)}


def test_the_status_of_an_operator_that_knew_no_newest_version_changes_nothing():
    world = two_versions()
    world.jobs = {HAND: job_of(HAND, 1)}
    for section in ("newest", "knownVersions"):
        del world.endpoint["status"][section]
    world.run(5)
    assert world.versions() == (2, None, 1)
    assert world.status["newest"]["version"] == 2


TestJobsMachine = JobsMachine.TestCase
TestJobsMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("number", [MAX_VERSION + 1, 999_999_999])
def test_a_number_above_the_bound_is_no_version(number):
    world = two_versions()
    world.jobs["hostile"] = job_of("hostile", number)
    world.run()
    assert world.versions() == (2, None, 1)
    assert world.status["newest"]["version"] == 2
    world.jobs["third"] = job_of("third", 3)
    world.run()
    assert world.versions() == (3, None, 2)


def test_an_endpoint_whose_only_job_reports_such_a_number_names_it():
    world = Cluster()
    world.jobs["hostile"] = job_of("hostile", MAX_VERSION + 1)
    world.run()
    assert world.condition("Available") == ("False", "NoVersion")
    available = find_condition(world.status["conditions"], "Available")
    assert available is not None
    assert str(MAX_VERSION + 1) in available["message"]


def test_an_endpoint_that_an_earlier_release_let_remember_such_a_number_goes_on():
    world = two_versions()
    world.status["newest"] = {**world.status["newest"], "version": 999_999_999}
    world.run()
    assert world.versions() == (2, None, 1)
    world.jobs["third"] = job_of("third", 3)
    world.run()
    assert world.versions() == (3, None, 2)


def test_stored_decisions_bring_no_such_number_back():
    world = two_versions()
    candidate = {**world.status["active"], "weight": 0, "rolloutId": "v2"}
    stored = StoredDecisions.model_validate(
        {"active": 2, "newest": 999_999_999, "time": world.status["decisions"][-1]["time"]}
    )
    world.endpoint["status"] = {"candidate": candidate}
    record = RecordReport(name=NAME, state="Found", decisions=stored)
    world.facts["servers"] = tuple(
        replace(pod, report=pod.report.model_copy(update={"records": [record]}))
        for pod in world.observe().servers
        if pod.report is not None
    )
    world.look()
    assert world.status["newest"]["version"] == 2
