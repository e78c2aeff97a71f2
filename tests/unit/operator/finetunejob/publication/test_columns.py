"""What the columns say, and trainings that do not report."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    condition,
    ended,
    failed,
    job,
    merged,
    observe,
    pod,
    queue,
    running,
    stages_done,
    trained,
    unscheduled,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


# ---- columns -------------------------------------------------------------------------------------


def with_progress(body, **progress):
    return {**body, "status": {**body["status"], "progress": progress}}


def test_a_new_stage_starts_at_0_percent_and_stays_there_until_its_first_push():
    heartbeat = timestamp(at(50))
    body = with_progress(accepted(), stage="prepare", percent=100, lastHeartbeatTime=heartbeat)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN)}})
    made = plan(observe(body, **known), at(60), CONFIG)
    assert made.status["progress"] == {"stage": "train", "percent": 0}
    # Until then every write has to repeat it, but it is no reason for a write.
    body = after(body, made)
    body = with_progress(body, **made.status["progress"], lastHeartbeatTime=heartbeat)
    assert plan(observe(body, **known), at(61), CONFIG).status is None
    known["jobs"][TRAIN] = child(TRAIN, status=running(62))
    made = plan(observe(body, **known), at(62), CONFIG)
    assert made.status["progress"] == {"stage": "train", "percent": 0}
    body = with_progress(after(body, made), stage="train", percent=3, step=5)
    known["pods"][TRAIN] = (ended(TRAIN, 1, "boom"),)
    made = plan(observe(body, **known), at(90), CONFIG)
    assert made.status["lastFailure"]
    assert "progress" not in made.status


def test_progress_that_nobody_pushed_is_not_made_up():
    made = plan(observe(accepted(), **stages_done(PREPARE)), at(60), CONFIG)
    assert "progress" not in (made.status or {})


def in_queue(**state):
    return {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: queue(**state)}}


COLUMNS = [
    ("prepares", {}, {"jobs": {PREPARE: child(PREPARE)}}, "Preparing", "Preparing"),
    ("waits for pods", {}, {"jobs": {TRAIN: child(TRAIN)}}, "Training", "WaitingForPods"),
    ("trains", {}, {"jobs": {TRAIN: child(TRAIN, status=running())}}, "Training", "Running"),
    ("finds no node", {}, {"jobs": {TRAIN: child(TRAIN)}, "pods": {TRAIN: (unscheduled(),)}},
     "Training", "Unschedulable"),
    ("evaluates", {}, merged(stages_done(TRAIN), {"jobs": {EVALUATE: child(EVALUATE)}}),
     "Evaluating", "Evaluating"),
    ("held by its user", {"suspend": True}, {"jobs": {TRAIN: child(TRAIN)}},
     "Suspended", "SuspendedByUser"),
    ("no Kueue", {"queueName": "q"}, {}, "Queued", "KueueNotInstalled"),
    ("in the queue", {"queueName": "q"}, in_queue(), "Queued", "Queued"),
    ("preempted", {"queueName": "q"}, in_queue(is_evicted=True, reason="Preempted"),
     "Queued", "Preempted"),
    ("published", {}, stages_done(TRAIN, EVALUATE), "Succeeded", "Published"),
    ("failed", {}, {"jobs": {TRAIN: child(TRAIN, status=failed())},
     "pods": {TRAIN: (ended(TRAIN, 137, reason="OOMKilled"),)}}, "Failed", "OOMKilled"),
    ("refused", {"model": {"uri": "file:///etc/passwd"}}, {}, "Failed", "URINotAllowed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "known", "phase", "reason"),
    [case[1:] for case in COLUMNS],
    ids=[case[0] for case in COLUMNS],
)
def test_the_columns_say_where_the_job_is_and_why(spec, known, phase, reason):
    if "jobs" not in known or PREPARE not in known["jobs"]:
        known = merged(stages_done(PREPARE), known)
    made = plan(observe(job(**spec), **known, has_kueue="queue" in known), at(100), CONFIG)
    assert (made.status["phase"], made.status["reason"]) == (phase, reason)


# ---- silence -------------------------------------------------------------------------------------


def test_a_training_that_pushes_nothing_is_told_to_be_silent_once():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    early = plan(observe(body, **known), at(100), CONFIG)
    assert early.requeue_after == pytest.approx(20)
    made = plan(observe(body, **known), at(130), CONFIG)
    assert "No progress was received" in condition(made, "Training")["message"]
    assert condition(made, "Training")["status"] == "True"
    again = plan(observe(after(body, made), **known), at(140), CONFIG)
    assert again.status is None
    assert again.requeue_after is None


def reporting(heartbeat: float, pod_since: float, now: float):
    """Plan a training whose last report and whose pod are so old; returns plan and body."""
    progress = {"stage": "train", "percent": 20, "step": 40, "totalSteps": 200}
    body = with_progress(trained(), **progress, lastHeartbeatTime=timestamp(at(heartbeat)))
    state = {"running": {"startedAt": timestamp(at(pod_since))}}
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    known["pods"] = {TRAIN: (pod(TRAIN, state=state),)}
    return plan(observe(body, **known), at(now), CONFIG), body, known


def test_a_report_that_ages_is_told_once_and_ends_nothing():
    early, _, _ = reporting(heartbeat=100, pod_since=0, now=900)
    assert early.requeue_after == pytest.approx(100)
    made, body, known = reporting(heartbeat=100, pod_since=0, now=1000)
    training = condition(made, "Training")
    assert (training["status"], training["reason"]) == ("True", "NoRecentProgress")
    assert f"came at {timestamp(at(100))}, at step 40 of 200" in training["message"]
    assert [e.reason for e in made.events if e.kind == "Warning"] == ["NoRecentProgress"]
    body = with_progress(after(body, made), **body["status"]["progress"])
    again = plan(observe(body, **known), at(1500), CONFIG)
    assert (again.status, again.events) == (None, ())


def test_a_pod_that_was_just_started_is_not_blamed_for_the_silence_before_it():
    made, _, _ = reporting(heartbeat=100, pod_since=900, now=1000)
    assert (made.status, made.events) == (None, ())
    assert made.requeue_after == pytest.approx(800)
