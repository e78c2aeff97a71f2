"""What is told of a change of a child that the API server refuses, or takes at last."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.changes import LASTING_SECONDS, RefusedChanges, change_of
from finetune_operator.finetunejob.state.actions import (
    ActivateWorkload,
    DeleteSelf,
    FailPod,
    PauseJob,
    ResumeJob,
)
from finetune_operator.kube.api.errors import Conflict, TransportError, error_from_status
from finetune_operator.kube.queue.workers import Retry
from kit.builders.jobs import NOW, condition, job, live, running, stages_done, timestamp
from kit.processes.clock import FakeClock
from unit.operator.controllers.test_reconcile import KEY, TRAIN_JOB, world_of

TRAIN = Stage.TRAIN
QUEUE = "kueue.x-k8s.io/queue-name"
PAUSE = change_of(PauseJob(stage=TRAIN, name="headlines-train", active_seconds=60))
RESUME = change_of(ResumeJob(stage=TRAIN, name="headlines-train"))


def answer(code, reason, message):
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return error_from_status("patch Job team-a/headlines-train", code, body)


AWAY = answer(
    500,
    "InternalError",
    'Internal error occurred: failed calling webhook "mjob.kb.io": failed to call webhook: Post'
    ' "https://kueue-webhook-service": dial tcp 10.96.0.7:443: connect: connection refused',
)
FORBIDDEN = answer(403, "Forbidden", 'jobs.batch "headlines-train" is forbidden: cannot patch')
DENIED = answer(400, "Bad", 'admission webhook "freeze.corp" denied the request: frozen till 9')
IMMUTABLE = answer(422, "Invalid", "metadata.labels: field is immutable")
ILL = answer(500, "InternalError", "etcdserver: leader changed")


def training_world(body, *, suspend=False, queue=None, status=None, **known):
    """Return a world whose job has a Job that trains, or waits in a queue."""
    _, body = live([stages_done(Stage.PREPARE)], body)
    world = world_of(body, **known)
    labels = {"finetune.dev/job": "headlines", "finetune.dev/stage": "train"}
    owner = {"kind": "FineTuneJob", "name": KEY[1], "uid": body["metadata"]["uid"]}
    stored = {
        "metadata": {
            "name": "headlines-train",
            "namespace": "team-a",
            "uid": "uid-train",
            "creationTimestamp": timestamp(NOW),
            "labels": {**labels, **({QUEUE: queue} if queue else {})},
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": {"suspend": suspend, "completions": 1},
        "status": running() if status is None else status,
    }
    world.caches.jobs.absorb(world.client.cluster.store(TRAIN_JOB, stored))
    return world


def refuse_patches(world, error):
    """Answer each patch with an error until the returned function is called."""
    patch = world.client.merge_patch

    async def refuse(*args, **options):
        raise error

    def accept():
        world.client.merge_patch = patch

    world.client.merge_patch = refuse
    return accept


def told(world, reason):
    return [message for _, _, each, message in world.events if each == reason]


def status_of(world):
    return world.client.cluster.objects["finetunejobs", *KEY]


async def test_a_job_that_cannot_be_suspended_says_so_once_and_why():
    world = training_world(job(suspend=True))
    accept = refuse_patches(world, AWAY)
    for _ in range(4):
        assert isinstance(await world.reconciler.reconcile(KEY), Retry)
        world.clock.advance(60)
    (message,) = told(world, "ChangeRefused")
    for words in ("headlines-train cannot be suspended, and its pods go on", "connection refused",
                  "is the controller that serves this webhook running?"):  # fmt: skip
        assert words in message
    assert message in condition(status_of(world), "Suspended")["message"]
    accept()
    await world.reconciler.reconcile(KEY)
    assert world.client.cluster.objects[TRAIN_JOB]["spec"]["suspend"] is True
    await world.reconciler.reconcile(KEY)
    assert "cannot" not in condition(status_of(world), "Suspended")["message"]
    assert len(told(world, "ChangeRefused")) == 1


async def test_a_job_that_is_over_its_deadline_and_runs_on_says_so():
    world = training_world(job(activeDeadlineSeconds=600))
    refuse_patches(world, FORBIDDEN)
    for _ in range(3):
        world.clock.advance(600)
        assert isinstance(await world.reconciler.reconcile(KEY), Retry)
    assert status_of(world)["status"]["phase"] == "Failed"
    (message,) = told(world, "ChangeRefused")
    assert "patch on jobs" in message


@pytest.mark.parametrize("num_refused", [0, 1, 4])
async def test_a_changed_queue_is_told_once_and_after_the_job_is_in_it(num_refused):
    body = job(queueName="new")
    world = training_world(
        body, suspend=True, queue="old", status={"conditions": []}, has_kueue=True
    )
    accept = refuse_patches(world, AWAY)
    for _ in range(num_refused):
        assert isinstance(await world.reconciler.reconcile(KEY), Retry)
        assert told(world, "QueueChanged") == []
        world.clock.advance(5)
    assert len(told(world, "ChangeRefused")) == min(1, num_refused)
    if num_refused > 1:
        waits = condition(status_of(world), "QuotaReserved")["message"]
        assert f"cannot be labelled {QUEUE}=new" in waits
    accept()
    await world.reconciler.reconcile(KEY)
    await world.reconciler.reconcile(KEY)
    (message,) = told(world, "QueueChanged")
    assert {"train:", "old", "new"} <= set(message.split())
    assert world.client.cluster.objects[TRAIN_JOB]["metadata"]["labels"][QUEUE] == "new"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AWAY, "is the controller that serves this webhook running?"),
        (FORBIDDEN, "its role (verb patch on jobs)"),
        (DENIED, "an admission policy"),
        (IMMUTABLE, "field is immutable"),
    ],
    ids=["webhook is away", "forbidden", "denied", "immutable"],
)
def test_a_refusal_that_somebody_has_to_mend_is_told_at_once_and_once(error, words):
    changes = RefusedChanges(FakeClock())
    (event,) = changes.note("uid", PAUSE, error)
    assert (event.kind, event.reason) == ("Warning", "ChangeRefused")
    assert words in event.message
    assert changes.note("uid", PAUSE, error) == ()
    assert changes.note("uid", PAUSE, ILL) == (), "it says no more than what is told"
    assert changes.told("uid") == event.message
    assert len(changes.note("uid", RESUME, error)) == 1, "another change"
    assert len(changes.note("other", PAUSE, error)) == 1, "another job"
    changes.forget("uid")
    assert changes.told("uid") == ""


def test_an_error_of_the_servers_own_is_told_only_if_it_lasts():
    clock = FakeClock()
    changes = RefusedChanges(clock)
    assert changes.note("uid", PAUSE, ILL) == ()
    clock.advance(LASTING_SECONDS - 1)
    assert changes.note("uid", PAUSE, ILL) == ()
    clock.advance(1)
    (event,) = changes.note("uid", PAUSE, ILL)
    assert "leader changed" in event.message
    assert "role" not in event.message
    assert "policy" not in event.message
    assert changes.note("uid", PAUSE, ILL) == ()


@pytest.mark.parametrize("error", [TransportError("patch"), Conflict("patch", status=409)])
def test_what_says_nothing_of_the_change_is_not_told(error):
    changes = RefusedChanges(FakeClock())
    assert changes.note("uid", PAUSE, error) == ()
    assert changes.told("uid") == ""


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (ActivateWorkload(stage=TRAIN, name="w", active=False), "Workload w cannot be given"),
        (FailPod(name="p-0", uid="u", message="", is_explained=True), "verb patch on pods/status"),
        (DeleteSelf(), "verb delete on finetunejobs"),
    ],
    ids=["workload", "pod", "itself"],
)
def test_each_change_names_its_object_and_its_right(action, words):
    (event,) = RefusedChanges(FakeClock()).note("uid", change_of(action), FORBIDDEN)
    assert words in event.message
