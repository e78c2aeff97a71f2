"""A status that the API server refuses is told, and stops nothing: real reconciler, fake server."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers import finetunejob as controller
from finetune_operator.controllers.finetunejob import FineTuneJobReconciler
from finetune_operator.controllers.guarding import MIN_RETRY_SECONDS
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.finetunejob.state.actions import RelabelJob
from finetune_operator.kube.api.errors import Forbidden, Invalid, ServerUnavailable
from finetune_operator.kube.queue.workers import Done, Retry
from finetune_operator.kube.queue.workqueue import WorkQueue
from finetune_operator.status.conditions import is_true
from finetune_operator.status.draft import Announce
from kit.builders.jobs import CONFIG, NOW, UID, complete, job, success_text, timestamp
from kit.cluster.fake_client import FakeClient
from kit.processes.clock import FakeClock

KEY = ("team-a", "headlines")
PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
CAUSES = {
    "causes": [{"field": "status.dataset.uri", "message": "Too long: may not be more than 1024"}]
}
REFUSAL = Invalid(
    "apply finetunejobs team-a/headlines", status=422, reason="Invalid",
    message="status.dataset.uri: Too long", details=CAUSES,
)  # fmt: skip


class Server(FakeClient):
    """Refuses statuses while told to; deletes objects."""

    def __init__(self):
        super().__init__()
        self.refusal = REFUSAL
        self.num_tries = 0
        self.refused_names = {}

    async def apply_status(self, resource, obj, *, field_manager, force=True):
        self.num_tries += 1
        if self.refusal is not None:
            raise self.refusal
        return await super().apply_status(resource, obj, field_manager=field_manager, force=force)

    async def merge_patch(self, resource, namespace, name, patch, **more):
        if name in self.refused_names:
            raise self.refused_names[name]
        return await super().merge_patch(resource, namespace, name, patch, **more)

    async def delete(self, resource, namespace, name, *, uid=None):
        self.writes.append(("delete", {"name": name}))
        del self.cluster.objects[resource.plural, namespace, name]


class Recorder:
    """Keeps what is recorded."""

    def __init__(self):
        self.events = []

    def record(self, resource, obj, kind, reason, message):
        self.events.append((kind, reason, message))


class World:
    """One FineTuneJob, its reconciler, and a server that takes no status."""

    def __init__(self, body, *, status_seconds=0.0):
        self.client, self.recorder, self.clock = Server(), Recorder(), FakeClock(NOW)
        rng = random.Random(1)
        self.caches = Caches(
            self.client,
            CONFIG,
            wake=lambda *_: None,
            forget=lambda _: None,
            has_kueue=False,
            rng=rng,
        )
        self.set(body)
        self.reconciler = FineTuneJobReconciler(
            self.client, self.caches, CONFIG, clock=self.clock, recorder=self.recorder,
            queue=WorkQueue("finetunejob", rng=rng), status_seconds=status_seconds,
        )  # fmt: skip

    def set(self, body):
        """Let the user change the object."""
        stored = self.client.cluster.store(("finetunejobs", *KEY), body)
        self.caches.observe("MODIFIED", stored)
        self.caches.finetunejobs.absorb(stored)

    @property
    def job(self):
        return self.client.cluster.objects["finetunejobs", *KEY]

    def edit(self, **spec):
        metadata = self.job["metadata"]
        metadata = {**metadata, "generation": metadata["generation"] + 1}
        self.set({"metadata": metadata, "spec": {**self.job["spec"], **spec}})

    def has(self, stage, status):
        """Let a stage have a Job."""
        body = {
            "metadata": {
                "name": f"headlines-{stage.value}",
                "namespace": "team-a",
                "uid": f"uid-{stage.value}",
                "creationTimestamp": timestamp(NOW),
                "labels": {"finetune.dev/job": "headlines", "finetune.dev/stage": stage.value},
                "ownerReferences": [
                    {"kind": "FineTuneJob", "name": "headlines", "uid": UID, "controller": True}
                ],
            },
            "spec": {"suspend": False, "completions": 1},
            "status": status,
        }
        key = ("jobs", "team-a", body["metadata"]["name"])
        self.caches.jobs.absorb(self.client.cluster.store(key, body))

    def resumed(self, stage):
        """Return the Job of a stage as somebody else resumes it."""
        body = self.stage_job(stage)
        return {**body, "spec": {**body["spec"], "suspend": False}}

    def has_stopped(self, stage):
        """Let the Job controller say that it has stopped the pods of a suspended Job."""
        told = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(NOW)}
        body = {**self.stage_job(stage), "status": {"conditions": [told]}}
        key = ("jobs", "team-a", body["metadata"]["name"])
        self.caches.jobs.absorb(self.client.cluster.store(key, body))

    def has_told(self, stage):
        """Let a pod of a stage succeed with its result."""
        ended = {"exitCode": 0, "message": success_text(stage), "finishedAt": timestamp(NOW)}
        body = {
            "metadata": {
                "name": f"headlines-{stage.value}-0-abcde",
                "namespace": "team-a",
                "uid": f"uid-pod-{stage.value}",
                "labels": {"finetune.dev/job": "headlines", "finetune.dev/stage": stage.value},
                "ownerReferences": [
                    {"kind": "Job", "name": "x", "uid": f"uid-{stage.value}", "controller": True}
                ],
            },
            "spec": {"nodeName": "node-1"},
            "status": {
                "phase": "Succeeded",
                "containerStatuses": [{"name": "trainer", "state": {"terminated": ended}}],
            },
        }
        self.caches.pods.absorb(
            self.client.cluster.store(("pods", "team-a", body["metadata"]["name"]), body)
        )

    def stage_job(self, stage):
        return self.client.cluster.objects["jobs", "team-a", f"headlines-{stage.value}"]

    async def look(self):
        return await self.reconciler.reconcile(KEY)

    def reasons(self):
        return [reason for _, reason, _ in self.recorder.events]

    def num_refused(self, section):
        counter = self.client.metrics.status_rejections
        return counter.labels("FineTuneJob", section)._value.get()


def in_training(*, status_seconds=0.0, **spec):
    world = World(job(**spec), status_seconds=status_seconds)
    world.has(PREPARE, complete())
    world.has_told(PREPARE)
    world.has(TRAIN, {"startTime": "2026-11-24T12:00:00Z", "active": 1, "ready": 1})
    return world


def test_the_fixture_names_the_job_that_the_children_belong_to():
    assert job()["metadata"]["uid"] == UID


async def test_a_refusal_is_told_on_the_object_and_counted_by_section():
    world = World(job())
    result = await world.look()
    assert isinstance(result, Retry)
    ((kind, _, message),) = [each for each in world.recorder.events if each[1] == "StatusRefused"]
    assert kind == "Warning"
    assert "status.dataset.uri" in message
    assert world.num_refused("dataset") == 1


async def test_suspension_stops_the_pods_although_no_status_is_taken():
    world = in_training()
    await world.look()
    world.edit(suspend=True)
    result = await world.look()
    assert world.stage_job(TRAIN)["spec"]["suspend"] is True
    assert isinstance(result, Retry)
    world.has_stopped(TRAIN)
    world.edit(suspend=False)
    await world.look()
    assert world.stage_job(TRAIN)["spec"]["suspend"] is False


async def test_the_deadline_ends_the_job_and_its_time_to_live_deletes_it():
    world = in_training(activeDeadlineSeconds=100, ttlSecondsAfterFinished=50)
    result = await world.look()
    assert result.after_seconds <= 2.0
    world.clock.advance(101)
    await world.look()
    assert world.stage_job(TRAIN)["spec"]["suspend"] is True, "its GPUs are free"
    assert world.reasons().count("Failed") == 1
    for _ in range(5):
        world.clock.advance(9)
        await world.look()
    assert ("finetunejobs", *KEY) in world.client.cluster.objects
    assert world.reasons().count("Failed") == 1, "what was planned is not planned anew"
    world.clock.advance(10)
    await world.look()
    assert ("finetunejobs", *KEY) not in world.client.cluster.objects


async def test_a_deleted_job_is_forgotten():
    world = in_training()
    await world.look()
    gone = world.caches.finetunejobs.get(*KEY)
    del world.client.cluster.objects["finetunejobs", *KEY]
    world.caches.finetunejobs.discard(gone)
    assert await world.look() == Done()
    world.reconciler.forget(gone)
    assert world.reconciler.guard.is_written(UID)


async def test_the_next_stage_starts_and_is_planned_from_what_was_not_written():
    world = World(job())
    world.has(PREPARE, complete())
    world.has_told(PREPARE)
    await world.look()
    assert world.stage_job(TRAIN)["metadata"]["name"] == "headlines-train"
    num_events = len(world.recorder.events)
    await world.look()
    assert len(world.recorder.events) == num_events


async def test_the_write_is_tried_again_after_growing_pauses_and_then_no_more():
    world = in_training()
    waits = []
    for _ in range(8):
        waits.append((await world.look()).after_seconds)
        await world.look()  # whatever else wakes it
        world.clock.advance(waits[-1])
    assert waits[:5] == [2.0, 4.0, 8.0, 16.0, 32.0]
    assert max(waits) <= 60.0
    assert world.client.num_tries == 8
    world.client.refusal = None
    result = await world.look()
    assert not isinstance(result, Retry)
    assert world.job["status"]["phase"] == "Training"
    assert is_true(world.job["status"]["conditions"], "Accepted")
    num_tries = world.client.num_tries
    await world.look()
    assert world.client.num_tries == num_tries


async def test_a_status_that_could_be_put_off_is_looked_at_no_more_often_than_it_is_written():
    world = in_training(status_seconds=2.0)
    await world.look()
    world.clock.advance(1.5)
    world.set({**world.job, "status": {"progress": {"stage": "prepare", "percent": 100}}})
    waits = []
    while sum(waits) < 10 and len(waits) < 100:
        waits.append((await world.look()).after_seconds)
        world.clock.advance(waits[-1])
    assert waits == [0.5, 4.0, 8.0]
    assert world.client.num_tries == 4


async def test_a_pause_that_is_over_does_not_bring_the_key_back_at_once():
    async def looked():
        return Done()

    world = in_training()
    await world.look()
    world.clock.advance(10)
    result = await world.reconciler.guard.run(world.job, looked())
    assert result.after_seconds == MIN_RETRY_SECONDS > 0


async def test_what_is_news_does_not_wait_for_the_pause():
    world = in_training()
    await world.look()
    assert world.client.num_tries == 1
    world.edit(suspend=True)
    await world.look()
    assert world.client.num_tries == 2


async def test_a_status_that_another_replica_wrote_wins_over_what_was_kept():
    world = in_training()
    await world.look()
    world.set({**world.job, "status": {"phase": "Failed", "reason": "Elsewhere", "conditions": [
        {"type": "Failed", "status": "True", "reason": "Elsewhere", "message": "",
         "lastTransitionTime": "2026-11-24T12:00:00Z"},
    ]}})  # fmt: skip
    await world.look()
    assert world.reconciler.guard.is_written(UID)
    assert world.stage_job(TRAIN)["spec"]["suspend"] is True, "what has ended is stopped"


async def test_a_result_that_another_replica_wrote_wins_over_what_was_kept():
    world = in_training()
    await world.look()
    world.set({**world.job, "status": {"artifact": {"uri": "s3://b/a"}}})
    assert world.reconciler.guard.as_planned(world.job)["status"] == world.job["status"]
    assert world.reconciler.guard.is_written(UID)


async def test_progress_goes_on_beside_a_status_that_is_not_written():
    world = in_training()
    await world.look()
    told = {"stage": "train", "step": 7, "lastHeartbeatTime": "2026-11-24T12:00:10Z"}
    world.set({**world.job, "status": {"progress": told}})
    planned = world.reconciler.guard.as_planned(world.job)
    assert planned["status"]["progress"] == told
    assert planned["status"]["phase"] == "Training"


REFUSALS = {
    "a schema": REFUSAL,
    "a right": Forbidden("apply", status=403, reason="Forbidden", message="no"),
    "a policy": Forbidden(
        "apply", status=403, message='admission webhook "a.b" denied the request: no'
    ),
    "a webhook that is down": ServerUnavailable(
        "apply", status=500, message='Internal error: failed calling webhook "a.b"'
    ),
}


@pytest.mark.parametrize("why", REFUSALS)
async def test_whatever_refuses_the_status_the_pods_are_stopped(why):
    world = in_training(suspend=True)
    world.client.refusal = REFUSALS[why]
    await world.look()
    assert world.stage_job(TRAIN)["spec"]["suspend"] is True
    assert "StatusRefused" in world.reasons()


async def test_a_server_that_is_ill_is_asked_again_and_nothing_is_said_of_the_status():
    world = in_training(suspend=True)
    world.client.refusal = ServerUnavailable("apply", status=503, message="etcd")
    assert isinstance(await world.look(), Retry)
    assert "StatusRefused" not in world.reasons()
    assert world.reconciler.guard.is_written(UID)


async def test_one_change_that_is_refused_does_not_stop_the_others(monkeypatch):
    """A label that a policy forbids must not keep GPUs held."""
    world = in_training(suspend=True)
    world.client.refusal = None
    relabel = RelabelJob(
        stage=TRAIN, name="headlines-other", labels={"a": "b"},
        event=Announce(kind="Normal", reason="R", message="m"),
    )  # fmt: skip
    world.client.refused_names["headlines-other"] = REFUSAL
    real = controller.plan

    def planned(*args):
        step = real(*args)
        return replace(step, then=(relabel, *step.then)) if step.then else step

    monkeypatch.setattr(controller, "plan", planned)
    assert isinstance(await world.look(), Retry)
    assert world.stage_job(TRAIN)["spec"]["suspend"] is True
    assert "ChangeRefused" in world.reasons()
    world.client.refused_names["headlines-train"] = REFUSAL
    world.caches.jobs.absorb(world.client.cluster.store(
        ("jobs", "team-a", "headlines-train"), world.resumed(TRAIN)
    ))  # fmt: skip
    for _ in range(3):
        await world.look()
    assert world.reasons().count("ChangeRefused") == 2, "each is told once, also beside the other"
