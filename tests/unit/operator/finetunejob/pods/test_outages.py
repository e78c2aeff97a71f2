"""An outage after the run has begun: GPUs are let go, nothing is counted, and it tries again."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, PauseJob, ResumeJob
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONDITIONS,
    CONFIG,
    after,
    at,
    child,
    condition,
    done_before,
    ended,
    job,
    merged,
    observe,
    pod,
    queue,
    running,
    stages_done,
    waiting,
    words,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
AWAY = ("ErrImagePull", "503 Service Unavailable")


def begun(step=1000, **spec):
    """Return a job that has made steps, and the snapshot of its training."""
    body = job(backoffLimit=0, **spec)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, body, status=running())}})
    state = {"running": {"startedAt": timestamp(at(60))}}
    alive = merged(known, {"pods": {TRAIN: (pod(TRAIN, name="first", state=state),)}})
    body = after(body, plan(observe(body, **alive), at(70), CONFIG))
    if step:
        told = {
            "stage": "train",
            "step": step,
            "percent": 1,
            "lastHeartbeatTime": timestamp(at(90)),
        }
        body = {**body, "status": {**body["status"], "progress": told}}
    return body, known


def paused(body, known, since):
    """Return the snapshot once the Job controller has stopped the pods."""
    stopped = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(since))}
    train = child(
        TRAIN, body, suspend=True, annotations={"finetune.dev/paused": "true"},
        status={"conditions": [stopped]},
    )  # fmt: skip
    return merged(known, {"jobs": {TRAIN: train}})


def planned(body, known, now, *pods, config=CONFIG, **more):
    snapshot = merged(known, {"pods": {TRAIN: pods}}) if pods else known
    made = plan(observe(body, **snapshot, **more), at(now), config)
    return made, after(body, made)


def until(body, known, end, config=CONFIG):
    """Let the registry be away until then; return the object, and when each try began."""
    now, tries = 100.0, []
    while not is_terminal(body["status"]):
        tries.append(now)
        if now >= end:
            break
        name = f"try-{len(tries)}"
        made, body = planned(body, known, now, waiting(TRAIN, *AWAY, name=name), config=config)
        now += 600
        made, body = planned(body, known, now, waiting(TRAIN, *AWAY, name=name), config=config)
        if is_terminal(body["status"]):
            break
        assert [type(action) for action in made.then] == [PauseJob], "it holds its GPUs"
        rests = paused(body, known, now)
        made, body = planned(body, rests, now + 1)
        assert made.then == ()
        now += 1 + made.requeue_after
        made, body = planned(body, rests, now)
        assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    return body, tries


@pytest.mark.parametrize("step", [0, 1000], ids=["it has run", "it has made steps"])
def test_a_registry_that_is_away_for_half_an_hour_costs_nothing(step):
    body, tries = until(*begun(step), 1900)
    assert not is_terminal(body["status"])
    assert len(tries) == 4
    known, back = begun(step)[1], tries[-1] + 10
    state = {"running": {"startedAt": timestamp(at(back))}}
    made, body = planned(body, known, back, pod(TRAIN, name="back", state=state))
    assert condition(body, "Training")["status"] == "True"
    assert body["status"]["attempts"].get("counted", 0) == 0
    _, body = planned(body, stages_done(PREPARE, TRAIN), back + 600)
    assert condition(body, "Training")["reason"] == "Succeeded"


def test_what_is_waited_for_is_told_with_its_end():
    body, known = begun()
    _, body = planned(body, known, 100, waiting(TRAIN, *AWAY))
    made, body = planned(body, known, 700, waiting(TRAIN, *AWAY))
    told = condition(body, "Training")
    assert (told["status"], told["reason"]) == ("False", "Outage")
    assert "503 Service Unavailable" in told["message"]
    assert timestamp(at(760)) in told["message"]
    assert "outageDeadlineSeconds" in told["message"]
    assert body["status"]["lastFailure"]["reason"] == "ErrImagePull"
    assert body["status"]["stages"][1]["outage"] == {
        "since": timestamp(at(100)), "step": 1000, "releases": 1, "retryTime": timestamp(at(760)),
    }  # fmt: skip
    again, _ = planned(body, known, 700, waiting(TRAIN, *AWAY))
    assert again.status is None
    assert [type(action) for action in again.then] == [PauseJob], "a crash before it loses nothing"


def test_an_outage_ends_the_job_after_its_deadline():
    config = CONFIG.model_copy(update={"outage_deadline_seconds": 7200})
    body, _ = until(*begun(), 10**6, config)
    assert condition(body, "Failed")["reason"] == "ImageError"
    assert "outageDeadlineSeconds (7200)" in body["status"]["lastFailure"]["message"]


def test_a_wrong_image_name_is_no_outage():
    body, known = begun()
    _, body = planned(body, known, 100, waiting(TRAIN, "InvalidImageName"))
    assert condition(body, "Failed")["reason"] == "ImageError"


@pytest.mark.parametrize("stage", [TRAIN, EVALUATE])
def test_a_secret_that_is_gone_for_a_while_is_an_outage_for_a_run_with_steps(stage):
    body, known = begun()
    if stage is EVALUATE:
        _, body = planned(body, stages_done(PREPARE, TRAIN), 95)
    known = merged(
        done_before(stage),
        {"jobs": {stage: child(stage, status=running(60))},
         "pods": {stage: (waiting(stage, "ContainerCreating", name="p"),)},
         "warnings": {"p": WarningEvent("FailedMount", 'secret "s3" not found')}},
    )  # fmt: skip
    for now in (100, 701):
        body = after(body, plan(observe(body, **known), at(now), CONFIG))
    assert condition(body, CONDITIONS[stage])["reason"] == "Outage"
    assert not is_terminal(body["status"])


# ---- storage -------------------------------------------------------------------------------------


def failing(number, reason="Unreachable", code=73, **more):
    text = words(TRAIN, ExitCode(code), FailureClass.STORAGE_ERROR, reason, "the store is away")
    start = 1000.0 * number + 100
    return ended(
        TRAIN, code, text, name=f"p{number}", start=start, end=start + 60, created=start, **more
    )


def test_a_store_that_is_away_uses_up_no_retry_once_steps_are_made():
    body, known = begun()
    for number in range(6):
        made, body = planned(body, known, 1000.0 * number + 170, failing(number))
        assert [type(action) for action in made.then] == [PauseJob]
    assert not is_terminal(body["status"])
    assert body["status"]["attempts"]["counted"] == 0
    assert body["status"]["stages"][1]["outage"]["releases"] == 6


@pytest.mark.parametrize(
    ("step", "spec", "reason"),
    [
        (0, {}, "Unreachable"),
        (1000, {"retryPolicy": {"storage": 0}}, "Unreachable"),
        (1000, {}, "DiskFull"),
    ],
    ids=["before any step", "its user has set a budget", "the pod's own disk"],
)
def test_other_failures_of_storage_count_as_before(step, spec, reason):
    body, known = begun(step, **spec)
    _, body = planned(body, known, 170, failing(0, reason))
    assert condition(body, "Failed")["reason"] == "StorageError"


def test_a_node_that_refuses_pods_uses_up_no_retry_once_steps_are_made():
    body, known = begun()
    refused = pod(TRAIN, name="refused", phase="Failed", reason="UnexpectedAdmissionError")
    made, body = planned(body, known, 170, refused)
    assert condition(body, "Training")["reason"] == "Outage"
    assert body["status"]["attempts"]["counted"] == 0


def test_a_new_step_ends_the_outage():
    body, known = begun()
    _, body = planned(body, known, 170, failing(0))
    told = {**body["status"]["progress"], "step": 1001, "lastHeartbeatTime": timestamp(at(400))}
    body = {**body, "status": {**body["status"], "progress": told}}
    state = {"running": {"startedAt": timestamp(at(300))}}
    _, body = planned(body, known, 410, pod(TRAIN, name="back", state=state))
    assert "outage" not in body["status"]["stages"][1]


# ---- with Kueue, and with people -----------------------------------------------------------------


def test_a_queued_stage_gives_its_quota_back_and_queues_again():
    body, known = begun(queueName="team-a")
    admitted = queue(is_admitted=True, has_quota=True, reason="QuotaReserved", message="")
    mine = {"queue": {TRAIN: admitted}, "has_kueue": True}
    _, body = planned(body, known, 100, waiting(TRAIN, *AWAY), **mine)
    made, body = planned(body, known, 700, waiting(TRAIN, *AWAY), **mine)
    name = admitted.workload
    assert made.then == (ActivateWorkload(stage=TRAIN, name=name, active=False),)
    rests = queue(is_active=False, deactivated_by="finetune-operator", reason="Deactivated")
    held = merged(known, {"jobs": {TRAIN: child(TRAIN, body, suspend=True)}})
    made, body = planned(body, held, 710, queue={TRAIN: rests}, has_kueue=True)
    assert made.then == ()
    made, body = planned(body, held, 761, queue={TRAIN: rests}, has_kueue=True)
    assert made.then == (ActivateWorkload(stage=TRAIN, name=name, active=True),)
    assert not is_terminal(body["status"])


def test_whoever_suspends_and_resumes_meanwhile_is_heard():
    body, known = begun()
    _, body = planned(body, known, 100, waiting(TRAIN, *AWAY))
    _, body = planned(body, known, 700, waiting(TRAIN, *AWAY))
    body = {**body, "spec": {**body["spec"], "suspend": True}}
    made, body = planned(body, paused(body, known, 701), 5000)
    assert (made.then, body["status"]["phase"]) == ((), "Suspended")
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made, body = planned(body, paused(body, known, 701), 5010)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    made, body = planned(body, known, 5020)
    assert made.then == ()


def test_a_job_that_rests_uses_up_no_deadline():
    body, known = begun(activeDeadlineSeconds=765)
    _, body = planned(body, known, 100, waiting(TRAIN, *AWAY))
    _, body = planned(body, known, 700, waiting(TRAIN, *AWAY))
    rests = paused(body, known, 700)
    rests["jobs"][TRAIN]["metadata"]["annotations"]["finetune.dev/active-seconds"] = "700"
    early, _ = planned(body, rests, 750)
    assert early.requeue_after == 10, "the next try, and not its deadline"
    _, body = planned(body, rests, 5000)
    assert not is_terminal(body["status"])


# ---- time in which nothing was tried -------------------------------------------------------------

DAY = 86400.0


def away(body, known, now, name, **more):
    """Let one try fail for eleven minutes; return the last plan, and the object."""
    pods = waiting(TRAIN, *AWAY, name=name, created=now)
    _, body = planned(body, known, now, pods, **more)
    return planned(body, known, now + 690, pods, **more)


def outage(body):
    return body["status"]["stages"][1].get("outage")


def test_a_suspension_amid_an_outage_is_no_part_of_it():
    body, known = begun()
    _, body = away(body, known, 100, "t1")
    rests = paused(body, known, 801)
    spec = body["spec"]
    _, body = planned({**body, "spec": {**spec, "suspend": True}}, rests, 820)
    _, body = planned({**body, "spec": spec}, rests, 820 + 2 * DAY)
    made, body = away(body, known, 825 + 2 * DAY, "t2")
    assert [type(action) for action in made.then] == [PauseJob]
    assert (outage(body)["since"], outage(body)["heldSeconds"]) == (timestamp(at(100)), 2 * DAY + 5)


def test_the_wait_for_quota_amid_an_outage_is_no_part_of_it():
    body, known = begun(queueName="team-a")
    admitted = {"queue": {TRAIN: queue(is_admitted=True, has_quota=True)}, "has_kueue": True}
    _, body = away(body, known, 100, "t1", **admitted)
    off = queue(is_active=False, deactivated_by="finetune-operator", reason="Deactivated")
    rests = merged(known, {"jobs": {TRAIN: child(TRAIN, body, suspend=True)}, "has_kueue": True})
    for now, state in ((810, off), (900, off), (910, queue()), (910 + 2 * DAY, queue())):
        _, body = planned(body, rests, now, queue={TRAIN: state})
    made, body = away(body, known, 915 + 2 * DAY, "t2", **admitted)
    assert [type(action) for action in made.then] == [ActivateWorkload]
    assert not is_terminal(body["status"])


def test_an_operator_that_was_away_during_the_pause_does_not_count_that_time():
    body, known = begun()
    _, body = away(body, known, 100, "t1")
    rests = paused(body, known, 801)
    made, body = planned(body, rests, 2 * DAY)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    made, body = away(body, known, 2 * DAY + 5, "t2")
    assert not is_terminal(body["status"])


@pytest.mark.parametrize(("heartbeat", "is_over"), [(90, True), (1200, False)])
def test_a_run_whose_reports_are_blocked_ends_the_outage_by_lasting(heartbeat, is_over):
    body, known = begun()
    _, body = away(body, known, 100, "t1")
    told = {**body["status"]["progress"], "lastHeartbeatTime": timestamp(at(heartbeat))}
    body = {**body, "status": {**body["status"], "progress": told}}
    state = {"running": {"startedAt": timestamp(at(900))}}
    back = pod(TRAIN, name="back", state=state)
    _, body = planned(body, known, 1400, back)
    assert outage(body)
    _, body = planned(body, known, 1501, back)
    assert (outage(body) is None) is is_over


def test_nodes_that_are_let_go_to_others_stay_so_whatever_an_outage_before_has_left():
    body, known = begun()
    _, body = away(body, known, 100, "t1")
    rests = paused(body, known, 2000)
    rests["jobs"][TRAIN]["metadata"]["annotations"]["finetune.dev/paused"] = "placement"
    made, body = planned(body, rests, 2001)
    assert (made.then, made.requeue_after) == ((), pytest.approx(299))
    made, body = planned(body, rests, 2300)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
