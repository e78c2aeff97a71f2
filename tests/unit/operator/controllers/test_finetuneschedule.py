"""``reconcile`` of FineTuneSchedules: what it reads, writes, creates and remembers."""

from __future__ import annotations

import copy
import random
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.finetuneschedule import FineTuneScheduleReconciler
from finetune_operator.controllers.memory.schedules import (
    BY_NAMESPACE_OF_SCHEDULE,
    Schedules,
    index_by_schedule,
)
from finetune_operator.kube.api.errors import Forbidden
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.queue.workers import RequeueAfter
from finetune_operator.status.conditions import find_condition
from kit.builders.schedules import ENDPOINT, NAME, NAMESPACE, ended, endpoint, published, schedule
from kit.cluster.fake_client import FakeClient
from kit.processes.clock import FakeClock

KEY = (NAMESPACE, NAME)
NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
Object = dict[str, Any]


class Recorder:
    """Keeps Events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(self, resource: Any, obj: Object, kind: str, reason: str, message: str) -> None:
        self.events.append((reason, message))


class Process:
    """One operator: caches of its own, and a view of the cluster."""

    def __init__(self, cluster: Any, clock: FakeClock) -> None:
        self.client = FakeClient(cluster)
        self.recorder = Recorder()
        self.woken: list[tuple[str, str]] = []
        self.jobs = Store(indexers={BY_NAMESPACE_OF_SCHEDULE: index_by_schedule})
        self.endpoints = Store()
        self.schedules = Schedules(
            self.client,  # type: ignore[arg-type]
            SimpleNamespace(store=self.jobs),  # type: ignore[arg-type]
            self.endpoints,
            wake=lambda key, priority: self.woken.append(key),
            forget=lambda found: self.reconciler.forget(found),
            namespaces=(),
            rng=random.Random(1),
        )
        self.reconciler = FineTuneScheduleReconciler(
            self.client,  # type: ignore[arg-type]
            self.schedules,
            self.jobs,
            OperatorConfig(),
            clock=clock,
            recorder=self.recorder,  # type: ignore[arg-type]
        )

    def see(self) -> None:
        """Let the caches follow the cluster."""
        stores = {"finetuneschedules": self.schedules.store, "finetuneendpoints": self.endpoints,
                  "finetunejobs": self.jobs}  # fmt: skip
        for (plural, _, _), obj in self.client.cluster.objects.items():
            stores[plural].observe(None, copy.deepcopy(obj))

    def follow(self) -> None:
        """Let the caches follow the cluster, deletions included."""
        for job in self.jobs.objects():
            if (
                "finetunejobs",
                NAMESPACE,
                job["metadata"]["name"],
            ) not in self.client.cluster.objects:
                self.jobs.discard(job)
        self.see()

    def uncache(self, job: str) -> None:
        """Take a job out of the cache."""
        cached = self.jobs.get(NAMESPACE, job)
        assert cached is not None
        self.jobs.discard(cached)


class World:
    """A cluster with one schedule, at the time of its cron table."""

    def __init__(self, **spec: Any) -> None:
        self.clock = FakeClock(NIGHT)
        self.first = Process(None, self.clock)
        self.cluster = self.first.client.cluster
        self.put("finetuneschedules", schedule(**spec))

    def put(self, plural: str, obj: Object) -> Object:
        metadata = obj["metadata"]
        stored = self.cluster.store((plural, metadata["namespace"], metadata["name"]), obj)
        self.first.see()
        return stored

    @property
    def status(self) -> Object:
        return self.cluster.objects["finetuneschedules", *KEY].get("status") or {}

    @property
    def jobs(self) -> dict[str, Object]:
        return {
            key[2]: job for key, job in self.cluster.objects.items() if key[0] == "finetunejobs"
        }

    def ready(self) -> tuple[str, str]:
        found = find_condition(self.status["conditions"], "Ready")
        assert found is not None
        return found["status"], found["reason"]

    async def look(self, process: Process | None = None) -> Any:
        return await (process or self.first).reconciler.reconcile(KEY)


async def test_the_status_names_the_job_before_it_is_created_and_its_uid_after() -> None:
    world = World()
    await world.look()
    verbs = [(verb, body["kind"]) for verb, body in world.first.client.writes]
    assert verbs == [
        ("apply", "FineTuneSchedule"),
        ("create", "FineTuneJob"),
        ("apply", "FineTuneSchedule"),
    ]
    (job,) = world.jobs.values()
    assert world.status["active"]["jobUid"] == job["metadata"]["uid"]
    world.first.client.writes.clear()
    await world.look()
    assert world.first.client.writes == []


async def test_a_second_leader_that_has_seen_nothing_creates_no_second_job() -> None:
    world = World()
    second = Process(world.cluster, world.clock)
    second.see()
    await world.look()
    await world.look(second)  # a conflict: its status is old
    second.see()
    await world.look(second)
    assert len(world.jobs) == 1
    assert world.status["active"]["jobUid"]


async def test_a_job_whose_creation_was_not_answered_is_found_again() -> None:
    world = World()
    client = world.first.client
    client.faults.extend([None, Forbidden("exceeded quota: jobs", status=403)])
    result = await world.look()
    assert world.ready() == ("False", "Forbidden")
    assert isinstance(result, RequeueAfter)
    assert world.jobs == {}
    # Meanwhile another process has created it.
    second = Process(world.cluster, world.clock)
    second.see()
    await world.look(second)
    world.clock.advance(120.0)
    await world.look()
    assert len(world.jobs) == 1
    world.first.see()
    await world.look()
    assert world.ready() == ("True", "CycleRunning")


async def test_no_job_is_created_where_the_crd_would_drop_what_it_is_published_as() -> None:
    world = World()
    world.cluster.lacks = ("spec", "output", "publishAs")
    await world.look()
    assert world.jobs == {}
    (cycle,) = world.status["history"]
    assert cycle["outcome"] == "Failed"
    assert "publishAs" in cycle["message"]


async def test_a_refused_job_is_tried_again_after_its_pause_and_not_before() -> None:
    world = World()
    client = world.first.client
    client.faults.extend([None, Forbidden("exceeded quota: jobs", status=403)])
    await world.look()
    client.writes.clear()
    await world.look()
    assert [verb for verb, _ in client.writes] == []
    world.clock.advance(60.0)
    await world.look()
    assert len(world.jobs) == 1
    assert world.ready() == ("True", "CycleRunning")


async def test_a_status_that_cannot_be_read_is_told_and_nothing_else_of_it_changes() -> None:
    world = World()
    await world.look()
    broken = copy.deepcopy(world.cluster.objects["finetuneschedules", *KEY])
    broken["status"]["active"]["trigger"] = "Whim"
    world.put("finetuneschedules", broken)
    await world.look()
    stalled = find_condition(world.status["conditions"], "Stalled")
    assert stalled is not None
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidStatus")
    assert "status.active.trigger" in stalled["message"]
    kept = {name: value for name, value in world.status.items() if name != "conditions"}
    assert kept == {k: v for k, v in broken["status"].items() if k != "conditions"}
    assert "InvalidStatus" in [reason for reason, _ in world.first.recorder.events]
    world.first.client.writes.clear()
    await world.look()
    assert world.first.client.writes == []
    assert len(world.jobs) == 1


async def test_a_job_that_was_made_again_under_its_name_is_not_the_schedules() -> None:
    world = World()
    await world.look()
    (name,) = world.jobs
    again = copy.deepcopy(world.jobs[name])
    again["metadata"]["uid"] = "uid-of-the-second"
    again["status"] = published(7)
    world.put("finetunejobs", again)
    await world.look()
    (entry,) = world.status["history"]
    assert (entry["outcome"], entry.get("version")) == ("Deleted", None)


async def test_a_job_of_somebody_else_is_waited_for() -> None:
    world = World()
    name = f"{NAME}-{int(NIGHT.timestamp()) // 60}"
    world.put("finetunejobs", {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {}})
    await world.look()
    assert world.ready() == ("False", "NameTaken")
    del world.cluster.objects["finetunejobs", NAMESPACE, name]
    world.first.uncache(name)
    world.clock.advance(60.0)
    await world.look()
    assert world.jobs[name]["spec"]["output"]["publishAs"] == NAME


async def test_a_job_that_the_cache_lacks_is_gone_only_if_the_server_says_so() -> None:
    world = World()
    await world.look()
    (name,) = world.jobs
    world.first.uncache(name)
    await world.look()
    assert world.status["active"]["job"] == name
    del world.cluster.objects["finetunejobs", NAMESPACE, name]
    await world.look()
    assert world.status["history"][0]["outcome"] == "Deleted"


@pytest.mark.parametrize("change", ["endpoint", "other"])
async def test_a_schedule_is_woken_by_its_endpoint_alone(change: str) -> None:
    world = World(endpointRef={"name": ENDPOINT}, triggers={"newRows": 10})
    world.put("finetuneendpoints", endpoint())
    world.first.woken.clear()
    changed = endpoint(capture={"since": "2026-11-24T12:00:00Z", "rows": 10})
    if change == "other":
        changed["metadata"]["name"] = "other"
    world.put("finetuneendpoints", changed)
    assert (KEY in world.first.woken) is (change == "endpoint")
    await world.look()
    assert bool(world.jobs) is (change == "endpoint")


async def test_a_schedule_is_woken_by_what_a_person_asks_for_and_by_no_other_annotation() -> None:
    world = World(triggers={"cron": "0 3 1 1 *"})
    found = world.cluster.objects["finetuneschedules", *KEY]
    world.first.woken.clear()
    found["metadata"]["annotations"] = {"other": "now"}
    world.put("finetuneschedules", found)
    assert world.first.woken == []
    found["metadata"]["annotations"] = {"finetune.dev/trigger": "now"}
    world.put("finetuneschedules", found)
    assert world.first.woken == [KEY]
    await world.look()
    (job,) = world.jobs
    assert job.startswith(f"{NAME}-m")


async def test_the_end_of_a_job_ends_its_cycle_and_wakes_the_schedule() -> None:
    world = World()
    await world.look()
    (job,) = world.jobs.values()
    owned = world.first.schedules.owned
    ended = world.put("finetunejobs", {**job, "status": published(2)})
    assert owned.owner_of(ended) == KEY
    assert owned.is_news(job, ended)
    assert not owned.is_news(ended, {**ended, "status": {**ended["status"], "progress": {}}})
    await world.look()
    assert world.status["history"][0]["version"] == 2
    assert "CyclePublished" in [reason for reason, _ in world.first.recorder.events]


async def test_a_day_of_a_failing_schedule_with_restarts_makes_few_jobs_and_keeps_fewer() -> None:
    world = World(triggers={"cron": "* * * * *"})
    made: set[str] = set()
    process, most = world.first, 0
    for minute in range(1440):
        if minute % 100 == 99:  # another operator takes over, with empty memories
            process = Process(world.cluster, world.clock)
        process.follow()
        await world.look(process)
        made |= world.jobs.keys()
        most = max(most, len(world.jobs))
        for name, job in world.jobs.items():
            if "status" not in job:
                failed = ended("Failed", "Internal", "no luck")
                world.cluster.store(("finetunejobs", NAMESPACE, name), {**job, "status": failed})
        world.clock.advance(60.0)
    assert 5 <= len(made) <= 10
    assert most <= 4
    assert world.ready() == ("False", "Backoff")


async def test_jobs_beyond_the_limits_are_deleted_by_their_uid_and_others_stay() -> None:
    world = World(successfulJobsHistoryLimit=1)
    uid = world.cluster.objects["finetuneschedules", *KEY]["metadata"]["uid"]
    owner = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSchedule", "controller": True,
             "name": NAME}  # fmt: skip
    for number, owners in (
        (2, [{**owner, "uid": uid}]), (3, [{**owner, "uid": uid}]), (4, []),
        (5, [{**owner, "uid": "of another schedule of that name"}]),
    ):  # fmt: skip
        metadata = {"name": f"job-{number}", "namespace": NAMESPACE, "ownerReferences": owners}
        world.put("finetunejobs", {"metadata": metadata, "status": published(number), "spec": {}})
    await world.look()
    assert sorted(name for name in world.jobs if name.startswith("job-")) == [
        "job-3", "job-4", "job-5"
    ]  # fmt: skip


async def test_schedules_and_jobs_of_a_namespace_are_counted_for_it() -> None:
    world = World()
    for number in range(20):
        older = schedule(f"older-{number:02}")
        older["metadata"]["creationTimestamp"] = "2026-11-01T00:00:00Z"
        older["spec"]["suspend"] = number == 0
        world.put("finetuneschedules", older)
    await world.look()
    assert len(world.jobs) == 1  # one of the older is suspended, and 20 may train
    world = World()
    world.first.reconciler._config = OperatorConfig(
        policies=[{"namespaces": [NAMESPACE], "maxSchedules": 0}]  # type: ignore[list-item]
    )
    await world.look()
    assert world.ready() == ("False", "TooManySchedules")
    assert world.jobs == {}
