"""Stages that wait for Kueue."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload
from finetune_operator.integrations.kueue.state import FIELD_MANAGER
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import (
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    condition,
    done_before,
    job,
    live,
    merged,
    observe,
    queue,
    reasons,
    replace,
    running,
    stages_done,
    suspended,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def admitted_queue(**state):
    return queue(is_admitted=True, has_quota=True, **{"reason": "QuotaReserved", **state})


def queued_body():
    return accepted(job(queueName="team-a"))


def test_a_queued_stage_is_created_suspended_with_the_queue_label():
    made = plan(observe(queued_body(), **stages_done(PREPARE), has_kueue=True), at(60), CONFIG)
    (action,) = made.first
    assert action.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert action.job["spec"]["suspend"] is True


def test_without_kueue_a_queued_stage_waits_and_says_why():
    made = plan(observe(queued_body(), **stages_done(PREPARE)), at(60), CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Queued"
    assert condition(made, "QuotaReserved")["reason"] == "KueueNotInstalled"


def test_kueues_reason_is_mirrored():
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: queue()}},
    )
    made = plan(observe(queued_body(), **known, has_kueue=True), at(61), CONFIG)
    assert made.status["phase"] == "Queued"
    assert condition(made, "QuotaReserved")["reason"] == "Pending"
    assert "insufficient quota" in condition(made, "QuotaReserved")["message"]
    assert made.then == ()


@pytest.mark.parametrize(
    ("stage", "kind", "reason"),
    [(TRAIN, "Training", "WaitingForPods"), (EVALUATE, "Evaluated", "Evaluating")],
)
def test_a_stage_that_kueue_has_admitted_no_longer_waits_in_the_queue(stage, kind, reason):
    """Kueue starts its Job a moment later; that changes nothing of what is said."""
    waits = {"jobs": {stage: child(stage, suspend=True)}}
    starts = {"jobs": {stage: child(stage, status={"startTime": timestamp(at(300)), "active": 1})}}
    behind = done_before(stage)
    _, body = live(
        [behind, merged(behind, waits, {"queue": {stage: queue()}, "has_kueue": True})],
        queued_body(),
        at(60),
    )
    assert condition(body, kind)["message"] == "Waiting in the queue."
    at_once = admitted_queue(admitted_at=timestamp(at(300)))
    admitted = {"queue": {stage: at_once}, "has_kueue": True}
    made = plan(observe(body, **merged(behind, waits, admitted)), at(300), CONFIG)
    told = condition(made, kind)
    assert (told["status"], told["reason"]) == ("False", reason)
    assert made.status["reason"] == reason
    body = after(body, made)
    begun = plan(observe(body, **merged(behind, starts, admitted)), at(300), CONFIG)
    assert begun.status is None
    late = plan(observe(body, **merged(behind, waits, admitted)), at(361), CONFIG)
    assert condition(late, kind)["reason"] == "Queued"
    assert "has not started its Job" in condition(late, kind)["message"]


def test_a_job_whose_checks_passed_after_an_hour_is_not_late_at_once():
    """Its quota was reserved all the time: a node had to be bought."""
    waits = {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "has_kueue": True}
    checks = queue(has_quota=True, reason="AdmissionChecksPending")
    passed = admitted_queue(admitted_at=timestamp(at(3600)))
    body = queued_body()
    told = []
    for moment, state in ((60, checks), (3600, passed), (3661, passed)):
        known = merged(done_before(TRAIN), waits, {"queue": {TRAIN: state}})
        made = plan(observe(body, **known), at(moment), CONFIG)
        body = after(body, made)
        told.append(condition(body, "Training")["reason"])
    assert told == ["Queued", "WaitingForPods", "Queued"]


def test_a_queued_job_without_a_workload_is_told_after_a_minute_and_warned_of_once_it_lasts():
    """Kueue may be behind: of 10,000 jobs at once it took a tenth after more than a minute."""
    body, known = (
        queued_body(),
        merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, suspend=True)}}),
    )
    told = []
    for seconds in (30, 61, 200, 301, 400, 3600):
        made = plan(observe(body, **known, has_kueue=True), at(seconds), CONFIG)
        body = after(body, made)
        reason = condition(body, "QuotaReserved")["reason"]
        told.append((reason, "NotManagedByKueue" in reasons(made)))
    assert told == [
        ("WaitingForQuota", False),
        ("NotManagedByKueue", False),
        ("NotManagedByKueue", False),
        ("NotManagedByKueue", True),
        ("NotManagedByKueue", False),
        ("NotManagedByKueue", False),
    ]


@pytest.mark.parametrize(
    ("suspend", "reason", "told", "of_stage"),
    [
        (False, "Preempted", ["Preempted"], "Preempted"),
        (True, "Deactivated", ["Suspended"], "SuspendedByUser"),
    ],
)
def test_only_others_preempt_a_job(suspend, reason, told, of_stage):
    admitted = {
        "jobs": {TRAIN: child(TRAIN, status=running())},
        "queue": {TRAIN: admitted_queue()},
    }
    made, body = live(
        [{**merged(stages_done(PREPARE), admitted), "has_kueue": True}],
        trained(job(queueName="team-a")),
        at(80),
    )
    assert condition(body, "QuotaReserved")["status"] == "True"
    evicted = {
        "jobs": {TRAIN: child(TRAIN, suspend=True)},
        "queue": {
            TRAIN: queue(
                is_evicted=True, is_active=not suspend, reason=reason, deactivated_by=FIELD_MANAGER
            )
        },
    }
    body = suspended(body) if suspend else body
    known = {**merged(stages_done(PREPARE), evicted), "has_kueue": True}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert reasons(made) == told
    assert condition(made, "Training")["reason"] == of_stage
    # Active again, Kueue shows why it was evicted until it is admitted.
    body = after(body, made)
    history = (body["status"].get("attempts") or {}).get("history") or []
    recorded = [(item["class"], item["reason"], item["counted"]) for item in history]
    assert recorded == ([] if suspend else [("Preemption", "Preempted", False)])
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known["queue"] = {TRAIN: queue(is_evicted=True, reason=reason)}
    made = plan(observe(body, **known), at(100), CONFIG)
    assert "Preempted" not in reasons(made)
    shown = condition(after(body, made), "Training")["reason"]
    assert shown == ("Queued" if suspend else "Preempted")


def test_pausing_a_queued_job_goes_through_the_workload():
    known = merged(
        stages_done(PREPARE),
        {
            "jobs": {TRAIN: child(TRAIN, status=running())},
            "queue": {TRAIN: admitted_queue()},
        },
    )
    body = suspended(trained(job(queueName="team-a")))
    made = plan(observe(body, **known, has_kueue=True), at(100), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=False),
    )


def test_a_job_that_is_resumed_before_kueue_has_suspended_it_is_reactivated():
    known = merged(
        stages_done(PREPARE),
        {
            "jobs": {TRAIN: child(TRAIN, status=running())},
            "queue": {TRAIN: admitted_queue(is_active=False, deactivated_by=FIELD_MANAGER)},
        },
    )
    made, body = live(
        [{**known, "has_kueue": True}], suspended(trained(job(queueName="team-a"))), at(100)
    )
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known, has_kueue=True), at(101), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=True),
    )


def test_a_paused_queued_job_is_reactivated_and_one_that_others_deactivated_is_not():
    off = queue(is_active=False, reason="Deactivated", deactivated_by=FIELD_MANAGER)
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: off}},
    )
    made, body = live(
        [{**known, "has_kueue": True}], suspended(trained(job(queueName="team-a"))), at(100)
    )
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known, has_kueue=True), at(110), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=True),
    )
    known["queue"] = {TRAIN: replace(off, deactivated_by="kubectl")}
    made = plan(observe(trained(job(queueName="team-a")), **known, has_kueue=True), at(110), CONFIG)
    assert made.then == ()


# ---- disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("has_kueue", "settings", "requested"),
    [
        (False, {}, "2Gi"),
        (False, {"scratch_request": "40Gi"}, "40Gi"),
        (False, {"scratch_request": None}, None),
        (True, {}, None),
        (True, {"scratch_request_with_kueue": True}, "2Gi"),
    ],
    ids=["alone", "as much as said", "nothing", "with Kueue", "with queues that cover it"],
)
@pytest.mark.parametrize("queue_name", [{}, {"queueName": "team-a"}])
def test_disk_is_requested_where_no_queue_refuses_it(queue_name, has_kueue, settings, requested):
    """A LocalQueue ``default`` takes Jobs that name no queue, too."""
    config = CONFIG.model_copy(update=settings)
    made = plan(observe(job(**queue_name), has_kueue=has_kueue), NOW, config)
    (action,) = made.first
    (container,) = action.job["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"].get("ephemeral-storage") == requested
    assert "ephemeral-storage" not in container["resources"]["limits"]
