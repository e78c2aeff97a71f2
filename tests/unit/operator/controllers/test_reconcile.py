"""The reconciler around the plan: what it reads, and what it tells when it cannot go on."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers import finetunejob as controller
from finetune_operator.controllers import guarding
from finetune_operator.controllers.children import Children
from finetune_operator.controllers.finetunejob import FineTuneJobReconciler
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.finetunejob.state.actions import ActivateWorkload, ConfirmMissing, PauseJob
from finetune_operator.finetunejob.state.draft import tells_only_how_far
from finetune_operator.kube.api.errors import Conflict, Invalid, NotFound
from finetune_operator.kube.queue.workers import RequeueAfter, Retry
from finetune_operator.kube.queue.workqueue import WorkQueue
from kit.builders.jobs import (
    CONFIG,
    NOW,
    accepted,
    complete,
    condition,
    ended,
    failed,
    job,
    observe,
    pod,
    running,
    succeeded,
)  # fmt: skip
from kit.cluster.fake_client import FakeClient
from kit.processes.clock import FakeClock

KEY = ("team-a", "headlines")


class Recorder:
    """Keeps what is recorded."""

    def __init__(self):
        self.events = []

    def record(self, resource, obj, kind, reason, message):
        self.events.append((obj["metadata"]["name"], kind, reason, message))


def world_of(body, *, has_kueue=False, config=CONFIG, status_seconds=0.0):
    """Return a reconciler whose cache holds one FineTuneJob, its client and its Events."""
    client, recorder, rng = FakeClient(), Recorder(), random.Random(1)
    caches = Caches(
        client,
        config,
        wake=lambda key, priority: None,
        forget=lambda gone: None,
        has_kueue=has_kueue,
        rng=rng,
    )
    caches.observe("ADDED", body)
    clock = FakeClock(NOW)
    stored = client.cluster.store(("finetunejobs", *KEY), body)
    caches.finetunejobs.absorb(stored)
    reconciler = FineTuneJobReconciler(
        client,
        caches,
        config,
        clock=clock,
        recorder=recorder,
        queue=WorkQueue("finetunejob", rng=rng),
        status_seconds=status_seconds,
    )
    return SimpleNamespace(
        children=Children(client, caches, clock=clock),
        clock=clock,
        client=client,
        caches=caches,
        reconciler=reconciler,
        events=recorder.events,
    )


async def test_a_defect_of_the_operator_is_told_on_the_job(monkeypatch):
    def crash(*args):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(controller, "plan", crash)
    world = world_of(job())
    with pytest.raises(ZeroDivisionError):
        await world.reconciler.reconcile(KEY)
    ((name, kind, reason, message),) = world.events
    assert (name, kind, reason) == ("headlines", "Warning", "ReconcileError")
    assert "ZeroDivisionError: division by zero" in message


async def test_the_endpoint_of_a_source_is_that_of_the_jobs_own_namespace():
    world = world_of(job(dataset={"sources": [{"uri": "traffic://live"}]}))
    for namespace in ("team-b", "team-a"):
        endpoint = {
            "metadata": {
                "namespace": namespace,
                "name": "live",
                "uid": namespace,
                "resourceVersion": "1",
            },
            "spec": {"capture": {"include": "All"}},
            "status": {"capture": {"uri": f"s3://{namespace}"}},
        }
        world.caches.endpoints.store.observe("ADDED", endpoint)
    for _ in range(3):
        await world.reconciler.reconcile(KEY)
    stored = world.client.cluster.objects["configmaps", "team-a", "headlines-job"]
    resolved = json.loads(stored["data"]["job.json"])
    assert resolved["traffic"] == [{"endpoint": "live", "uri": "s3://team-a"}]


async def test_fields_of_a_newer_crd_are_ignored_in_stored_objects():
    body = job(newerDefault="x", resources={"nodes": 1, "newerDefault": True})
    body["metadata"]["newerField"] = 1
    world = world_of(body)
    await world.reconciler.reconcile(KEY)
    kinds = [sent["kind"] for verb, sent in world.client.writes if verb == "create"]
    assert kinds == ["ConfigMap", "Job"]
    stored = world.client.cluster.objects["configmaps", "team-a", "headlines-job"]
    assert "newer" not in stored["data"]["job.json"]
    status = world.client.cluster.objects["finetunejobs", *KEY]["status"]
    assert condition({"status": status}, "Accepted")["status"] == "True"


async def test_a_paused_workload_is_known_as_such_before_the_watch_tells():
    world = world_of(job(), has_kueue=True)
    workload = {
        "metadata": {
            "name": "w",
            "namespace": "team-a",
            "labels": {"kueue.x-k8s.io/job-uid": "uid-train"},
        },
        "spec": {"active": True},
    }
    world.caches.workloads_informer.store.absorb(
        world.client.cluster.store(("workloads", "team-a", "w"), workload)
    )
    action = ActivateWorkload(stage=Stage.TRAIN, name="w", active=False)
    await world.children.perform(observe(job()), action)
    assert world.caches.workload_of("uid-train")["spec"]["active"] is False


TRAIN_JOB = ("jobs", "team-a", "headlines-train")
PAUSE = PauseJob(stage=Stage.TRAIN, name="headlines-train", active_seconds=60)


def seen_by(world):
    """What the operator's cache says of the training Job now."""
    return observe(job(), jobs={Stage.TRAIN: world.caches.jobs.get("team-a", "headlines-train")})


def with_training_job():
    world = world_of(job())
    body = {"metadata": {"name": "headlines-train", "namespace": "team-a"}, "spec": {}}
    world.caches.jobs.absorb(world.client.cluster.store(TRAIN_JOB, body))
    return world


async def test_a_job_is_paused_only_as_it_was_seen():
    world = with_training_job()
    stale = seen_by(world)
    somebody = {**world.client.cluster.objects[TRAIN_JOB], "spec": {"parallelism": 2}}
    world.client.cluster.store(TRAIN_JOB, somebody)
    with pytest.raises(Conflict):
        await world.children.perform(stale, PAUSE)
    assert world.client.cluster.objects[TRAIN_JOB]["spec"] == {"parallelism": 2}
    await world.children.perform(seen_by(world), PAUSE)
    live = world.client.cluster.objects[TRAIN_JOB]
    assert live["spec"] == {"parallelism": 2, "suspend": True}
    assert live["metadata"]["annotations"]["finetune.dev/paused"] == "true"


async def test_a_namesake_made_meanwhile_is_not_paused():
    world = with_training_job()
    stale = seen_by(world)
    version = stale.jobs[Stage.TRAIN]["metadata"]["resourceVersion"]
    namesake = {**world.client.cluster.objects[TRAIN_JOB]}
    namesake["metadata"] = {**namesake["metadata"], "uid": "another", "resourceVersion": version}
    world.client.cluster.objects[TRAIN_JOB] = namesake
    with pytest.raises(Conflict):
        await world.children.perform(stale, PAUSE)
    assert world.client.cluster.objects[TRAIN_JOB]["spec"] == {}


async def test_a_job_that_is_gone_needs_no_pause():
    world = with_training_job()
    stale = seen_by(world)
    del world.client.cluster.objects[TRAIN_JOB]
    await world.children.perform(stale, PAUSE)


async def test_a_workload_is_deactivated_only_as_it_was_seen():
    world = world_of(job(), has_kueue=True)
    key = ("workloads", "team-a", "w")
    labels = {"kueue.x-k8s.io/job-uid": "uid-train"}
    body = {"metadata": {"name": "w", "namespace": "team-a", "labels": labels}, "spec": {}}
    stored = world.client.cluster.store(key, body)
    world.caches.workloads_informer.store.absorb(stored)
    world.client.cluster.store(key, {**stored, "spec": {"active": False}})
    action = ActivateWorkload(stage=Stage.TRAIN, name="w", active=True)
    with pytest.raises(Conflict):
        await world.children.perform(observe(job()), action)
    assert world.client.cluster.objects[key]["spec"] == {"active": False}
    assert world.caches.workload_of("uid-train")["spec"]["active"] is False


async def test_a_crd_that_is_older_than_the_operator_is_told_with_its_remedy():
    body = job(suspend=True)
    world = world_of(body)
    said = "failed to create typed patch object: .status.reason: field not declared in schema"
    world.client.faults.append(Invalid(said, status=500))
    result = await world.reconciler.reconcile(KEY)
    assert isinstance(result, Retry)
    assert result.after_seconds == guarding.CRD_RETRY_SECONDS
    ((reason, message),) = [(event[2], event[3]) for event in world.events if event[1] == "Warning"]
    assert reason == "OutdatedCRD"
    assert (
        "kubectl apply --server-side --force-conflicts -f charts/finetune-operator/crds/" in message
    )
    assert ".status.reason" in message


@pytest.mark.parametrize("queue", ["q", ""], ids=["queued", "not queued"])
async def test_only_a_job_in_a_queue_waits_while_workloads_cannot_be_read(queue):
    """Paused or resumed without its Workload it would run, or stand, where Kueue knows nothing."""
    body = accepted(job(suspend=True, **({"queueName": queue} if queue else {})))
    world = world_of(body, has_kueue=True)
    uid = world.caches.finetunejobs.get(*KEY)["metadata"]["uid"]
    labels = {"finetune.dev/job": "headlines", "finetune.dev/stage": "train"}
    if queue:
        labels["kueue.x-k8s.io/queue-name"] = queue
    owner = {"kind": "FineTuneJob", "name": "headlines", "uid": uid, "controller": True}
    metadata = {"name": "headlines-train", "namespace": "team-a", "labels": labels}
    training = {
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {"suspend": False},
        "status": {"active": 1},
    }
    world.caches.jobs.absorb(world.client.cluster.store(TRAIN_JOB, training))
    scopes = world.caches.workloads_informer.scopes
    scopes.note_failing("")
    result = await world.reconciler.reconcile(KEY)
    is_paused = world.client.cluster.objects[TRAIN_JOB]["spec"]["suspend"]
    if queue:
        assert result == RequeueAfter(controller.UNREAD_SECONDS)
        assert world.client.writes == []
        scopes.note_listed("")
        await world.reconciler.reconcile(KEY)
        assert world.client.writes, "it is looked at again"
    else:
        assert is_paused


NOT_SERVED = NotFound("request", status=404, message="404 page not found")


async def test_a_pause_that_is_answered_by_a_404_of_something_else_is_no_pause():
    world = with_training_job()
    world.client.faults.append(NOT_SERVED)
    with pytest.raises(NotFound):
        await world.children.perform(seen_by(world), PAUSE)
    assert world.client.cluster.objects[TRAIN_JOB]["spec"] == {}


async def test_a_404_of_something_else_takes_no_job_for_deleted():
    world = with_training_job()
    world.client.faults.append(NOT_SERVED)
    action = ConfirmMissing(stage=Stage.TRAIN, name="headlines-train")
    with pytest.raises(NotFound):
        await world.children.confirm_missing(observe(job()), action)


@pytest.mark.parametrize("answers", [[NOT_SERVED], [NOT_SERVED, NOT_SERVED]])
async def test_a_404_of_a_status_drops_no_finetunejob_that_is_there(answers):
    world = world_of(job(suspend=True))
    world.client.faults.extend(answers)
    assert isinstance(await world.reconciler.reconcile(KEY), Retry)
    assert world.caches.finetunejobs.get(*KEY) is not None
    assert [reason for _, _, reason, _ in world.events] == ["APIServerError"]
    await world.reconciler.reconcile(KEY)
    assert world.client.cluster.objects["finetunejobs", *KEY]["status"]["phase"] == "Suspended"


# ---- how often a status is written ---------------------------------------------------------------


async def preparing(status_seconds=2.0):
    """Return a world whose job was just told to be preparing, and the Job that does it."""
    world = world_of(job(), status_seconds=status_seconds)
    await world.reconciler.reconcile(KEY)
    assert statuses(world) == ["Preparing"]
    return world, world.client.cluster.objects["jobs", "team-a", "headlines-prepare"]


def statuses(world):
    return [sent["status"]["phase"] for verb, sent in world.client.writes if "status" in sent]


def go_on(world, child, pod, status):
    """Give a Job a pod and a status, as the cluster does."""
    name, uid = child["metadata"]["name"], child["metadata"]["uid"]
    owner = {"kind": "Job", "name": name, "uid": uid, "controller": True}
    container = {"name": "trainer", "state": pod["status"]["container"]}
    pod["metadata"]["ownerReferences"] = [owner]
    pod["status"]["containerStatuses"] = [container]
    world.caches.pods.absorb(pod)
    key = ("jobs", "team-a", name)
    world.caches.jobs.absorb(world.client.cluster.store(key, {**child, "status": status}))


def stored_status(world):
    return world.client.cluster.objects["finetunejobs", *KEY]["status"]


def has_progress_of(world, stage):
    """Let the status show another stage's progress: the operator has to begin anew with it."""
    body = world.client.cluster.objects["finetunejobs", *KEY]
    body = {**body, "status": {**body["status"], "progress": {"stage": stage, "percent": 100}}}
    world.caches.finetunejobs.absorb(world.client.cluster.store(("finetunejobs", *KEY), body))


async def test_what_follows_a_status_at_once_goes_into_one_write_with_what_follows_it():
    world, _ = await preparing()
    has_progress_of(world, "train")
    assert await world.reconciler.reconcile(KEY) == RequeueAfter(2.0)
    assert statuses(world) == ["Preparing"]
    world.clock.advance(1.5)
    assert await world.reconciler.reconcile(KEY) == RequeueAfter(0.5)
    world.clock.advance(0.5)
    await world.reconciler.reconcile(KEY)
    assert statuses(world) == ["Preparing", "Preparing"]
    assert stored_status(world)["progress"] == {"stage": "prepare", "percent": 0}


async def test_a_result_is_written_at_once():
    """Its pod may be gone in a moment, and no other place of the cluster holds it."""
    world, prepare = await preparing()
    go_on(world, prepare, succeeded(Stage.PREPARE), complete())
    await world.reconciler.reconcile(KEY)
    assert ("jobs", "team-a", "headlines-train") in world.client.cluster.objects
    assert statuses(world) == ["Preparing", "Training"]
    assert stored_status(world)["dataset"]["rows"]["train"] == 450


async def test_what_an_event_tells_is_written_at_once_with_what_was_put_off():
    world, prepare = await preparing()
    go_on(world, prepare, succeeded(Stage.PREPARE), complete())
    await world.reconciler.reconcile(KEY)
    has_progress_of(world, "prepare")
    assert await world.reconciler.reconcile(KEY) == RequeueAfter(2.0)
    train = world.client.cluster.objects["jobs", "team-a", "headlines-train"]
    go_on(world, train, pod(Stage.TRAIN, state={"running": {}}), running())
    await world.reconciler.reconcile(KEY)
    assert statuses(world) == ["Preparing", "Training", "Training"]
    assert stored_status(world)["progress"] == {"stage": "train", "percent": 0}
    assert [reason for _, _, reason, _ in world.events] == ["Accepted", "TrainingStarted"]


async def test_a_failure_is_written_at_once():
    world, prepare = await preparing()
    go_on(world, prepare, ended(Stage.PREPARE, 2), failed())
    await world.reconciler.reconcile(KEY)
    assert statuses(world) == ["Preparing", "Failed"]


REMEMBERED = [
    {"attempts": {"total": 2, "counted": 1}},
    {"stages": [{"name": "train", "job": "headlines-train", "outage": {"seconds": 3}}]},
    {"lastFailure": {"reason": "Killed"}},
    {"observedGeneration": 2},
    {"phase": "Suspended"},
    {"dataset": {"digest": "d"}},
    {"selection": {"step": 3}},
    {"artifact": {"uri": "s3://b/a"}},
    {"evaluation": {"numSamples": 3}},
]


@pytest.mark.parametrize("news", REMEMBERED, ids=lambda news: next(iter(news)))
def test_a_status_that_remembers_more_than_how_far_a_job_is_does_not_wait(news):
    stored = {"phase": "Training", "observedGeneration": 1, "attempts": {"total": 1, "counted": 0}}
    further = {**stored, "phase": "Evaluating", "attempts": {"total": 2, "counted": 0}}
    assert tells_only_how_far(stored, further)
    assert not tells_only_how_far(stored, {**further, **news})
