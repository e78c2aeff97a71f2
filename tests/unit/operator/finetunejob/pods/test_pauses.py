"""Suspension, and the running time that deadlines count."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, PauseJob, ResumeJob
from finetune_operator.finetunejob.state.retry import active_seconds, past_active_seconds
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    DRAIN,
    NOW,
    accepted,
    after,
    at,
    child,
    condition,
    job,
    live,
    merged,
    observe,
    pod,
    queue,
    reasons,
    running,
    stages_done,
    suspended,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
JOB_SUSPENDED = {
    "type": "Suspended", "status": "True", "reason": "JobSuspended",
    "lastTransitionTime": timestamp(at(700)),
}  # fmt: skip


# ---- suspension ----------------------------------------------------------------------------------


def test_a_job_created_suspended_creates_nothing():
    made = plan(observe(job(suspend=True)), NOW, CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Suspended"
    assert condition(made, "Suspended")["reason"] == "SuspendedByUser"


def test_suspending_a_running_job_pauses_it_and_notes_its_running_time():
    body = suspended(trained())
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(60))}})
    made = plan(observe(body, **known), at(160), CONFIG)
    started = timestamp(at(60))
    pause = PauseJob(stage=TRAIN, name="headlines-train", active_seconds=100, started=started)
    assert made.then == (pause,)
    assert made.status["phase"] == "Suspended"
    assert reasons(made) == ["Suspended"]


def test_a_stage_that_ends_while_suspended_is_recorded_and_the_next_one_waits():
    body = suspended(trained())
    made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(200), CONFIG)
    assert made.first == ()
    assert made.status["artifact"]["sha256"] == "a" * 64
    assert made.status["phase"] == "Suspended"


def test_resuming_wakes_the_jobs_first_and_says_so_when_they_go_on():
    paused = child(
        TRAIN, suspend=True, status={"conditions": [JOB_SUSPENDED]},
        annotations={"finetune.dev/paused": "true", "finetune.dev/active-seconds": "100"},
    )  # fmt: skip
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: paused}})
    made, body = live([known], suspended(trained()), at(170))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known), at(200), CONFIG)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    known["jobs"][TRAIN] = child(TRAIN)
    made = plan(observe(body, **known), at(201), CONFIG)
    assert condition(made, "Suspended")["status"] == "False"
    assert "Resumed" in reasons(made)


@pytest.mark.parametrize("stage", [PREPARE, TRAIN])
def test_only_training_goes_on_at_a_checkpoint(stage):
    past = {"finetune.dev/active-seconds": "100"}
    body = trained() if stage is TRAIN else accepted()
    done = stages_done(PREPARE) if stage is TRAIN else {}
    paused = child(stage, suspend=True, annotations={"finetune.dev/paused": "true", **past})
    _, body = live([merged(done, {"jobs": {stage: paused}})], suspended(body), at(170))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known = merged(done, {"jobs": {stage: child(stage, annotations=past)}})
    made = plan(observe(body, **known), at(201), CONFIG)
    (event,) = [event for event in made.events if event.reason == "Resumed"]
    assert ("checkpoint" in event.message) is (stage is TRAIN)

    drained = pod(stage, phase="Failed", conditions=DRAIN)
    known = merged(known, {"pods": {stage: (drained,)}})
    made = plan(observe(after(body, made), **known), at(210), CONFIG)
    assert ("checkpoint" in made.status["lastFailure"]["message"]) is (stage is TRAIN)


JOB_RESUMED = {**JOB_SUSPENDED, "status": "False", "reason": "JobResumed"}


@pytest.mark.parametrize(
    ("before", "stopped"),
    [
        (running(60), {"startTime": timestamp(at(60)), "conditions": [JOB_SUSPENDED]}),
        ({**running(60), "conditions": [JOB_RESUMED]}, {"conditions": [JOB_SUSPENDED]}),
        ({}, {"conditions": [JOB_SUSPENDED]}),
    ],
    ids=["runs for the first time", "was resumed before", "has not begun"],
)
def test_a_job_is_resumed_once_it_was_stopped_and_its_running_time_goes_on(before, stopped):
    """Resumed before, its pods never stop, and nobody knows any more when they began."""
    body = trained(job(activeDeadlineSeconds=3600))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=before)}})
    made, held = live([known], suspended(body), at(90))
    (pause,) = made.then
    noted = {
        "finetune.dev/active-seconds": str(pause.active_seconds),
        "finetune.dev/active-start": pause.started,
    }
    paused = {"suspend": True, "annotations": {**noted, "finetune.dev/paused": "true"}}
    body = {**held, "spec": {**held["spec"], "suspend": False}}
    known["jobs"][TRAIN] = child(TRAIN, status=before, **paused)
    made = plan(observe(body, **known), at(92), CONFIG)
    assert made.then == ()
    told = condition(made, "Suspended")
    assert (told["status"], told["reason"]) == ("True", "SuspendedByUser")
    assert "Job headlines-train" in told["message"]
    body = after(body, made)
    assert plan(observe(body, **known), at(93), CONFIG).status is None

    known["jobs"][TRAIN] = child(TRAIN, status=stopped, **paused)
    made = plan(observe(body, **known), at(94), CONFIG)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    resumed = {**running(95), "conditions": [JOB_RESUMED]}
    known["jobs"][TRAIN] = child(TRAIN, status=resumed, annotations=noted)
    made, body = live([known], body, at(96))
    assert condition(body, "Suspended")["reason"] == "Resumed"
    made = plan(observe(body, **known), at(95 + 3600), CONFIG)
    assert condition(made, "Failed")["reason"] == "DeadlineExceeded"


def test_a_job_that_somebody_else_suspended_is_not_woken():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, suspend=True)}})
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.then == ()
    assert condition(made, "Training")["reason"] == "JobSuspended"


# ---- a pause whose record is lost, or over -------------------------------------------------------

OFF = queue(is_active=False, reason="Deactivated", deactivated_by="finetune-operator")


@pytest.mark.parametrize("why", ["true", "outage"])
def test_a_job_that_the_operator_paused_goes_on_once_nothing_holds_it(why):
    """The status that told of an outage was refused, and the operator was restarted."""
    body, paused = trained(), {"suspend": True, "annotations": {"finetune.dev/paused": why}}
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, **paused)}})
    made, body = live([known], body, at(100))
    assert (made.then, body["status"]["phase"]) == ((), "Training")
    paused["status"] = {"conditions": [JOB_SUSPENDED]}
    known["jobs"][TRAIN] = child(TRAIN, **paused)
    made, body = live([known], body, at(110))
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    assert condition(body, "Training")["reason"] == "WaitingForPods"
    assert plan(observe(body, **known), at(111), CONFIG).status is None
    made = plan(observe(suspended(body), **known), at(112), CONFIG)
    assert made.then == ()
    assert condition(made, "Training")["reason"] == "SuspendedByUser"


def test_a_workload_that_the_operator_deactivated_is_queued_again_once_nothing_holds_it():
    body = trained(job(queueName="team-a"))
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, body, suspend=True)}, "queue": {TRAIN: OFF}},
    )
    made = plan(observe(body, **known, has_kueue=True), at(110), CONFIG)
    assert made.then == (ActivateWorkload(stage=TRAIN, name=OFF.workload, active=True),)
    made = plan(observe(suspended(body), **known, has_kueue=True), at(110), CONFIG)
    assert made.then == ()


@pytest.mark.parametrize(
    ("limit", "raised"),
    [
        ({"activeDeadlineSeconds": 100}, {"activeDeadlineSeconds": 5000}),
        ({"budget": {"gpuHours": "0.01"}}, {"budget": {"gpuHours": "5"}}),
        ({"activeDeadlineSeconds": 100}, {}),
        ({"prune": True}, {}),
    ],
    ids=["deadline", "budget", "deadline taken away", "prune taken back"],
)
@pytest.mark.parametrize("has_kueue", [False, True])
def test_an_evaluation_goes_on_whose_limit_is_raised_while_it_is_stopped(limit, raised, has_kueue):
    spec = {"resources": {"nodes": 1, "gpusPerNode": 1}}
    body = trained(job(**spec, **({"queueName": "team-a"} if has_kueue else {})))
    before, status = body["spec"], {**running(125), "conditions": []}
    state = {"running": {"startedAt": timestamp(at(130))}}
    known = merged(
        stages_done(PREPARE, TRAIN),
        {"jobs": {EVALUATE: child(EVALUATE, body, status=status)},
         "pods": {EVALUATE: (pod(EVALUATE, state=state),)}},
    )  # fmt: skip
    if has_kueue:
        known |= {"queue": {EVALUATE: queue(is_admitted=True, has_quota=True)}, "has_kueue": True}
    _, body = live([known], body, at(140))
    made, body = live([known], {**body, "spec": {**before, **limit}}, at(1000))
    (stop,) = made.then
    assert isinstance(stop, ActivateWorkload if has_kueue else PauseJob)
    assert body["status"]["stages"][2]["cut"]["activeSeconds"] >= 870
    annotations = None if has_kueue else {"finetune.dev/paused": "true"}
    each = child(EVALUATE, body, suspend=True, annotations=annotations,
                 status={"conditions": [JOB_SUSPENDED]})  # fmt: skip
    known = merged(known, {"jobs": {EVALUATE: each}, "pods": {EVALUATE: ()}})
    if has_kueue:
        known["queue"] = {EVALUATE: OFF}
    made, body = live([known], {**body, "spec": {**before, **raised}}, at(1010))
    name = "headlines-evaluate"
    on = ActivateWorkload(stage=EVALUATE, name=OFF.workload, active=True)
    assert made.then == ((on,) if has_kueue else (ResumeJob(stage=EVALUATE, name=name),))
    assert "cut" not in body["status"]["stages"][2]
    assert condition(body, "Evaluated")["reason"] == "Evaluating"


# ---- deadline ------------------------------------------------------------------------------------


def test_the_deadline_counts_running_time_over_stages_and_attempts():
    body = trained(job(activeDeadlineSeconds=300))
    train = child(TRAIN, status=running(1000), annotations={"finetune.dev/active-seconds": "100"})
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    early = plan(observe(body, **known), at(1100), CONFIG)
    assert not is_terminal(early.status or body["status"])
    assert early.requeue_after == pytest.approx(40)  # 60 prepare + 100 before + 100 now
    late = plan(observe(body, **known), at(1141), CONFIG)
    assert condition(late, "Failed")["reason"] == "DeadlineExceeded"
    assert [type(action) for action in late.then] == [PauseJob]


@pytest.mark.parametrize("text", ["0", "\u00b2", "\u0663", "9" * 5000, "-1", ""])
def test_an_annotation_that_somebody_changed_gives_no_running_time_back(text):
    body = trained(job(activeDeadlineSeconds=300))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(100))}})
    _, held = live([known], suspended(body), at(200))
    noted = {"finetune.dev/active-seconds": "100", "finetune.dev/active-start": timestamp(at(100))}
    known["jobs"][TRAIN] = child(TRAIN, status=running(100), annotations=noted, suspend=True)
    _, held = live([known], held, at(210))
    body = {**held, "spec": {**held["spec"], "suspend": False}}
    forged = {"finetune.dev/active-seconds": text}
    known["jobs"][TRAIN] = child(TRAIN, status=running(1000), annotations=forged)
    early = plan(observe(body, **known), at(1100), CONFIG)
    assert not is_terminal(early.status or body["status"])
    late = plan(observe(body, **known), at(1141), CONFIG)
    assert condition(late, "Failed")["reason"] == "DeadlineExceeded"


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_a_job_that_says_it_began_at_the_edge_of_time_has_a_plan(year):
    body = trained(job(activeDeadlineSeconds=300, ttlSecondsAfterFinished=60))
    status = {**running(), "startTime": f"{year}-12-31T23:59:59Z"}
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=status)}})
    made = plan(observe(body, **known), at(1100), CONFIG)
    assert not is_terminal(made.status or body["status"])


def test_time_in_suspension_does_not_count():
    body = trained(job(activeDeadlineSeconds=300))
    train = child(TRAIN, suspend=True, annotations={"finetune.dev/active-seconds": "100"})
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    made = plan(observe(body, **known), at(100_000), CONFIG)
    assert not is_terminal(made.status or body["status"])


@pytest.mark.parametrize(
    ("suspend", "status", "used"),
    [
        (True, running(100), 600),
        (True, {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}, 600),
        (False, {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}, 600),
        (False, running(8000), 660),
    ],
    ids=["just paused", "pods are gone", "just resumed", "runs again"],
)
def test_a_pause_costs_no_running_time_whatever_the_job_controller_has_seen_of_it(
    suspend, status, used
):
    """Many versions keep ``startTime`` during a pause, and reset it some time after the resume."""
    body = trained(job(activeDeadlineSeconds=3600))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(100))}})
    made = plan(observe(suspended(body), **known), at(700), CONFIG)
    (pause,) = made.then
    assert pause == PauseJob(
        stage=TRAIN, name="headlines-train", active_seconds=600, started=timestamp(at(100))
    )
    noted = {
        "finetune.dev/active-seconds": str(pause.active_seconds),
        "finetune.dev/active-start": pause.started,
    }
    train = child(TRAIN, suspend=suspend, status=status, annotations=noted)
    assert active_seconds(train, at(8060), past=past_active_seconds(train)) == used
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    made = plan(observe(body, **known), at(8060), CONFIG)
    assert not is_terminal(made.status or body["status"])


def test_a_pause_by_somebody_else_ends_the_run_too():
    status = {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}
    assert active_seconds(child(TRAIN, suspend=True, status=status), at(9000), past=0) == 600
