"""What the API server says when it does not create a child: told, and asked again or not."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.refusals import NameTaken, Refusals
from finetune_operator.finetunejob.plan import plan
from finetune_operator.kube.api.errors import Conflict, TransportError, error_from_status
from finetune_operator.kube.queue.workers import RequeueAfter, Retry
from kit.builders.jobs import CONFIG, after, at, condition, job, observe
from kit.processes.clock import FakeClock
from unit.operator.controllers.test_reconcile import KEY, world_of
from unit.operator.finetunejob.publication.test_publishing import decision, missed


def status(code, reason, message, **details):
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return error_from_status("create Job team-a/headlines-prepare", code, {**body, **details})


POLICY = (
    "jobs.batch \"headlines-prepare\" is forbidden: ValidatingAdmissionPolicy 'images' with binding"
    " 'images' denied request: only images of registry.corp are allowed"
)
WEBHOOK = 'admission webhook "validate.kyverno.svc-fail" denied the request: no latest tags'
DOWN = (
    'Internal error occurred: failed calling webhook "mjob.kb.io": failed to call webhook: Post'
    ' "https://kueue-webhook-service.kueue-system.svc:443/mutate-batch-v1-job": dial tcp'
    " 10.96.3.7:443: connect: connection refused"
)
MALFORMED = (
    'Job.batch "headlines-prepare" is invalid: spec.template.spec.tolerations[0].operator:'
    ' Invalid value: "Exists": value must be empty when `operator` is "Exists"'
)


@pytest.mark.parametrize(
    ("error", "reason", "is_final"),
    [
        (status(422, "Invalid", POLICY), "AdmissionDenied", False),
        (status(403, "Forbidden", POLICY), "AdmissionDenied", False),
        (status(413, "RequestEntityTooLarge", POLICY), "AdmissionDenied", False),
        (status(400, "", WEBHOOK), "AdmissionDenied", False),
        (status(403, "", WEBHOOK), "AdmissionDenied", False),
        (status(422, "Invalid", WEBHOOK), "AdmissionDenied", False),
        (status(500, "", WEBHOOK), "AdmissionDenied", False),
        (status(403, "Forbidden", "exceeded quota: gpus, used: 8"), "Forbidden", False),
        (status(422, "Invalid", MALFORMED), "Invalid", True),
        (status(400, "BadRequest", "cannot unmarshal string into int"), "Invalid", True),
        (error_from_status("create Job", 413, "<html>too large</html>"), "APIServerError", False),
        (status(500, "InternalError", DOWN), "WebhookUnavailable", False),
        (status(503, "ServiceUnavailable", "etcd is down"), "APIServerError", False),
        (NameTaken("Job headlines-prepare exists"), "NameTaken", False),
    ],
    ids=[
        "policy", "policy, as forbidden", "policy, as too large", "webhook, 400", "webhook, 403",
        "webhook, 422", "webhook, 500", "quota", "malformed", "undecodable", "a proxy's",
        "webhook is down", "server is ill", "taken",
    ],
)  # fmt: skip
def test_only_what_the_server_cannot_read_is_final(error, reason, is_final):
    refusal = Refusals(FakeClock()).explain("uid", Stage.PREPARE, error)
    assert (refusal.reason, refusal.is_final) == (reason, is_final)
    assert str(error) in refusal.message


@pytest.mark.parametrize("error", [TransportError("create"), Conflict("create", status=409)])
def test_what_says_nothing_of_the_object_is_not_told_of_it(error):
    assert Refusals(FakeClock()).explain("uid", Stage.PREPARE, error) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (status(422, "Invalid", POLICY), [2, 4, 8, 16, 32, 60, 60]),
        (status(500, "InternalError", DOWN), [2, 4, 8, 16, 32, 60, 60]),
        (status(503, "ServiceUnavailable", "etcd is down"), [0.25, 0.5, 1, 2, 4, 8, 16, 32, 60]),
    ],
    ids=["policy", "webhook is down", "server is ill"],
)
def test_pauses_grow_to_a_minute_and_begin_anew_after_success(error, expected):
    clock = FakeClock()
    refusals = Refusals(clock)
    for seconds in expected:
        assert refusals.explain("uid", Stage.TRAIN, error).retry_seconds == seconds
        clock.advance(seconds)
    assert refusals.explain("uid", Stage.EVALUATE, error).retry_seconds == expected[0]
    refusals.forget("uid", Stage.TRAIN)
    assert refusals.explain("uid", Stage.TRAIN, error).retry_seconds == expected[0]


def test_what_is_tried_again_within_a_pause_does_not_lengthen_the_pauses():
    """A status that cannot be written is tried again at once, and the creation with it."""
    clock, error = FakeClock(), status(422, "Invalid", POLICY)
    refusals = Refusals(clock)
    assert refusals.explain("uid", Stage.PREPARE, error).retry_seconds == 2
    for _ in range(16):
        clock.advance(0.0625)
        refusals.explain("uid", Stage.PREPARE, error)
    assert refusals.explain("uid", Stage.PREPARE, error).retry_seconds == 1
    clock.advance(1)
    assert refusals.explain("uid", Stage.PREPARE, error).retry_seconds == 4


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (status(500, "InternalError", DOWN), "WebhookUnavailable", "connection refused"),
        (status(422, "Invalid", POLICY), "AdmissionDenied", "only images of registry.corp"),
    ],
)
async def test_a_job_that_cannot_have_its_child_says_why_and_goes_on_later(error, reason, words):
    world = world_of(job())
    pauses = []
    for _ in range(3):
        world.client.faults.append(error)
        result = await world.reconciler.reconcile(KEY)
        assert isinstance(result, RequeueAfter)
        pauses.append(result.seconds)
        world.clock.advance(result.seconds)
        told = world.client.cluster.objects["finetunejobs", *KEY]
        assert told["status"]["phase"] == "Pending"
        ready = condition(told, "DatasetReady")
        assert (ready["status"], ready["reason"]) == ("False", reason)
        assert words in ready["message"]
    assert pauses == [2, 4, 8]
    warnings = [event for event in world.events if event[1] == "Warning"]
    assert [reason for _, _, reason, _ in warnings] == [reason], "told once"
    await world.reconciler.reconcile(KEY)
    assert ("jobs", "team-a", "headlines-prepare") in world.client.cluster.objects


async def test_pauses_grow_also_where_what_the_pods_need_is_created_and_the_job_is_not():
    world = world_of(job())
    pauses = []
    for _ in range(3):
        world.client.faults.extend([None, status(422, "Invalid", POLICY)])  # ConfigMap, Job
        result = await world.reconciler.reconcile(KEY)
        assert isinstance(result, RequeueAfter)
        pauses.append(result.seconds)
        world.clock.advance(result.seconds)
    assert pauses == [2, 4, 8]


async def test_a_status_that_cannot_be_written_either_does_not_make_the_pause_longer():
    """It is what held up a job for minutes whose server failed every fourth request."""
    world = world_of(job())
    denied, ill = status(422, "Invalid", POLICY), status(500, "InternalError", "leader changed")
    for _ in range(4):
        world.client.faults.extend([None, denied, ill])  # ConfigMap, Job, status
        assert isinstance(await world.reconciler.reconcile(KEY), Retry)
        world.clock.advance(0.01)
    world.client.faults.extend([None, denied])
    result = await world.reconciler.reconcile(KEY)
    assert isinstance(result, RequeueAfter)
    assert result.seconds <= 2


async def test_pauses_grow_too_between_tries_to_publish_what_somebody_decided_on_after_the_end():
    body, known = missed()
    decided = plan(observe(body, **known, decisions=(decision(),)), at(300), CONFIG)
    world = world_of(after(body, decided))
    pauses = []
    for _ in range(7):
        # The job is read live first, beside the creation of what the pod needs.
        world.client.faults.extend([None, status(422, "Invalid", POLICY)])
        result = await world.reconciler.reconcile(KEY)
        assert isinstance(result, RequeueAfter)
        pauses.append(result.seconds)
        world.clock.advance(result.seconds)
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    warnings = [event for event in world.events if event[1] == "Warning"]
    assert [reason for _, _, reason, _ in warnings] == ["AdmissionDenied"], "told once"
    told = world.client.cluster.objects["finetunejobs", *KEY]
    assert "only images of registry.corp" in condition(told, "Published")["message"]
    await world.reconciler.reconcile(KEY)
    assert ("jobs", "team-a", "headlines-publish") in world.client.cluster.objects
