"""Ends that cost no retry do not go on for ever: evictions, preemptions, Jobs that are deleted."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ConfirmMissing, CreateStage
from finetune_operator.status.conditions import is_terminal, parse_timestamp, timestamp
from kit.builders.jobs import (
    CONDITIONS,
    CONFIG,
    accepted,
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
    reasons,
    replace,
    running,
    stages_done,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def disrupted(reason, when=0.0):
    told = {"type": "DisruptionTarget", "status": "True", "reason": reason,
            "lastTransitionTime": timestamp(at(when))}  # fmt: skip
    return [{**told, "message": "The node was low on resource: ephemeral-storage."}]


def end_of(number, reason, *, stage=TRAIN, start=None, seconds=60.0):
    start = 1000.0 * number if start is None else start
    return ended(
        stage, 79, name=f"{stage.value}-{number}", node=f"node-{number % 3}", start=start,
        end=start + seconds, created=start, conditions=disrupted(reason, start + seconds),
    )  # fmt: skip


def in_stage(stage, began=0.0, **spec):
    body = job(backoffLimit=0, resources={"nodes": 1, "gpusPerNode": 1}, **spec)
    known = merged(done_before(stage), {"jobs": {stage: child(stage, body, status=running(began))}})
    return after(body, plan(observe(body, **known), at(70), CONFIG)), known


def goes_through(body, known, count, reason, *, stage=TRAIN, steps=None, seconds=60.0):
    """Let a stage end so often; only the last pods are still there, as after a restart."""
    for number in range(count):
        if is_terminal(body["status"]):
            break
        if steps:
            told = {"stage": "train", "step": steps[number],
                    "lastHeartbeatTime": timestamp(at(1000.0 * number + 30))}  # fmt: skip
            body = {**body, "status": {**body["status"], "progress": told}}
        pods = (end_of(number, reason, stage=stage, seconds=seconds),)
        snapshot = merged(known, {"pods": {stage: pods}})
        made = plan(observe(body, **snapshot), at(1000.0 * number + seconds + 20), CONFIG)
        body = after(body, made)
    return body


# ---- evictions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_kubelet_that_evicts_a_stage_again_and_again_ends_the_job(stage):
    body, known = in_stage(stage)
    body = goes_through(body, known, 60, "TerminationByKubelet", stage=stage)
    failure = body["status"]["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Evicted", "TerminationByKubelet")
    assert condition(body, "Failed")["reason"] == "Evicted"
    assert "11 times in a row" in failure["message"]
    assert "node-0" in failure["message"]
    assert "node-2" in failure["message"]
    assert "config.scratchRequest" in failure["message"]
    assert body["status"]["attempts"]["counted"] == 0


def test_evictions_between_which_steps_are_made_never_end_a_job():
    body, known = in_stage(TRAIN)
    body = goes_through(body, known, 60, "TerminationByKubelet", steps=range(1, 61))
    assert not is_terminal(body["status"])


def test_steps_that_are_made_again_are_no_new_ones():
    body, known = in_stage(TRAIN)
    body = goes_through(body, known, 60, "TerminationByKubelet", steps=[40] * 60)
    assert condition(body, "Failed")["reason"] == "Evicted"
    assert "(step 40)" in body["status"]["lastFailure"]["message"]


def test_an_attempt_of_hours_is_no_fruitless_one():
    body, known = in_stage(EVALUATE)
    body = goes_through(body, known, 30, "TerminationByKubelet", stage=EVALUATE, seconds=7200)
    assert not is_terminal(body["status"])


@pytest.mark.parametrize(
    "reason", ["PreemptionByScheduler", "EvictionByEvictionAPI", "DeletionByTaintManager"]
)
def test_what_others_decide_may_come_ten_times_as_often(reason):
    body, known = in_stage(TRAIN)
    body = goes_through(body, known, 100, reason)
    assert not is_terminal(body["status"])
    body = goes_through(body, known, 100, reason)
    assert not is_terminal(body["status"]), "the record knows those that it has counted"


def test_more_than_a_hundred_preemptions_without_a_step_end_the_job():
    body, known = in_stage(TRAIN)
    body = goes_through(body, known, 101, "PreemptionByScheduler")
    assert condition(body, "Failed")["reason"] == "Evicted"
    assert "priority" in body["status"]["lastFailure"]["message"]


def test_a_job_lets_its_nodes_go_for_longer_after_each_eviction():
    body, known = in_stage(TRAIN)
    pauses = []
    for number in range(6):
        now = 1000.0 * number + 100
        pods = {"pods": {TRAIN: (end_of(number, "TerminationByKubelet"),)}}
        made = plan(observe(body, **merged(known, pods)), at(now), CONFIG)
        body = after(body, made)
        told = body["status"]["stages"][1].get("outage") or {}
        due = parse_timestamp(told.get("retryTime"))
        pauses.append(None if due is None else (due - at(now)).total_seconds())
    assert pauses == [None, None, 60, 120, 240, 480]
    assert [type(action).__name__ for action in made.then] == ["PauseJob"]


def test_the_administrator_says_how_many():
    config = CONFIG.model_copy(update={"max_fruitless_evictions": 1})
    body, known = in_stage(TRAIN)
    for number in range(2):
        pods = {"pods": {TRAIN: (end_of(number, "TerminationByKubelet"),)}}
        made = plan(observe(body, **merged(known, pods)), at(1000.0 * number + 100), config)
        body = after(body, made)
    assert condition(body, "Failed")["reason"] == "Evicted"


def queued(body, known, **state):
    kept = queue(reason="Preempted", message="for another", **state)
    return plan(observe(body, **known, queue={TRAIN: kept}, has_kueue=True), at(100), CONFIG)


@pytest.mark.parametrize(("has_pods", "is_ended"), [(True, True), (False, False)])
def test_kueues_evictions_count_where_pods_ran(has_pods, is_ended):
    """What waited for its pods only held quota; Kueue bounds that itself."""
    body, known = in_stage(TRAIN, queueName="team-a")
    if has_pods:
        state = {"running": {"startedAt": timestamp(at(10))}}
        known = merged(known, {"pods": {TRAIN: (pod(TRAIN, state=state),)}})
    for _ in range(101):
        body = after(body, queued(body, known, is_admitted=True, has_quota=True))
        body = after(body, queued(body, known, is_evicted=True))
        if is_terminal(body["status"]):
            break
    assert is_terminal(body["status"]) is is_ended


def comes_back(stage, seconds, *, is_missed):
    """Let Kueue take a stage's quota so often; return the job and how many ends were fruitless."""
    body, known = in_stage(stage, queueName="team-a")
    ran = {"running": {"startedAt": timestamp(at(10))}}
    known = merged(known, {"pods": {stage: (pod(stage, state=ran),)}})
    config = CONFIG.model_copy(update={"max_fruitless_evictions": 1})
    now, past = 100.0, 0
    for _ in range(11):
        since = {"admitted_at": timestamp(at(now)), "past_active_seconds": past}
        held = queue(is_admitted=True, has_quota=True, **since)
        evicted = queue(reason="Preempted", is_evicted=True, **since)
        past += seconds
        waits = replace(evicted, admitted_at="", past_active_seconds=past)
        told = [(held, now + 5), (evicted, now + seconds), (waits, now + seconds + 30)]
        for state, moment in told if not is_missed else (told[0], told[2]):
            snapshot = merged(known, {"queue": {stage: state}, "has_kueue": True})
            if state is waits:
                snapshot["jobs"] = {**known["jobs"], stage: child(stage, body, suspend=True)}
                snapshot["pods"] = {**known["pods"], stage: ()}
            body = after(body, plan(observe(body, **snapshot), at(moment), config))
        if is_terminal(body["status"]):
            break
        now += seconds + 60
    entry = next(each for each in body["status"]["stages"] if each["name"] == stage.value)
    return body, (entry.get("fruitless") or {}).get("others", 0)


@pytest.mark.parametrize("is_missed", [False, True], ids=["seen at once", "seen after its end"])
@pytest.mark.parametrize("stage", [TRAIN, EVALUATE])
def test_admissions_of_hours_are_no_fruitless_ones_although_no_step_is_known(stage, is_missed):
    body, num_fruitless = comes_back(stage, 7200, is_missed=is_missed)
    assert not is_terminal(body["status"])
    assert num_fruitless == 0


@pytest.mark.parametrize("is_missed", [False, True], ids=["seen at once", "seen after its end"])
@pytest.mark.parametrize("stage", [TRAIN, EVALUATE])
def test_admissions_of_minutes_end_a_job_however_long_they_are_together(stage, is_missed):
    body, _ = comes_back(stage, 7100, is_missed=is_missed)
    assert condition(body, "Failed")["reason"] == "Evicted"


# ---- a node whose clock is wrong -----------------------------------------------------------------


def test_a_node_whose_clock_is_ahead_hides_no_failure_after_its_own():
    body, known = in_stage(TRAIN)
    body = {**body, "spec": {**body["spec"], "backoffLimit": 5}}
    ahead = ended(TRAIN, 1, name="ahead", start=400, end=460, created=100)  # really 100 to 160
    later = ended(TRAIN, 1, name="later", node="node-2", start=200, end=260, created=200)
    for pods, now in [([ahead], 170), ([ahead], 180), ([ahead, later], 270), ([later], 280)]:
        made = plan(observe(body, **merged(known, {"pods": {TRAIN: tuple(pods)}})), at(now), CONFIG)
        body = after(body, made)
    assert body["status"]["attempts"]["counted"] == 2


# ---- deleted Jobs --------------------------------------------------------------------------------


def gone(body, stage, now, *, is_missing=True):
    known = merged(done_before(stage), {"missing": frozenset({stage} if is_missing else ())})
    made = plan(observe(body, **known), at(now), CONFIG)
    return made, after(body, made)


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_job_that_somebody_deletes_is_made_again(stage):
    body, _ = in_stage(stage)
    asked, _ = gone(body, stage, 100, is_missing=False)
    assert asked.first == (ConfirmMissing(stage=stage, name=f"headlines-{stage.value}"),)
    made, body = gone(body, stage, 100)
    assert (made.first, made.requeue_after) == ((), 120)
    assert condition(body, CONDITIONS[stage])["reason"] == "JobDeleted"
    assert "JobDeleted" in reasons(made)
    again, _ = gone(body, stage, 100)
    assert again.status is None, "it is counted once"
    made, body = gone(body, stage, 220)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert (action.stage, action.job["metadata"]["name"]) == (stage, f"headlines-{stage.value}")
    known = merged(done_before(stage), {"jobs": {stage: child(stage, status=running(230))}})
    body = after(body, plan(observe(body, **known), at(240), CONFIG))
    entry = next(each for each in body["status"]["stages"] if each["name"] == stage.value)
    assert "deletedTime" not in entry
    assert not is_terminal(body["status"])
    assert body["status"]["attempts"].get("counted", 0) == 0


def test_a_job_that_is_deleted_again_and_again_ends():
    body, known = in_stage(TRAIN)
    now = 100.0
    for _ in range(11):
        made, body = gone(body, TRAIN, now)
        now += 4000
        body = after(body, plan(observe(body, **known), at(now), CONFIG))
    assert condition(body, "Failed")["reason"] == "Internal"
    assert body["status"]["lastFailure"]["reason"] == "JobDeleted"
    assert "11 times in a row" in body["status"]["lastFailure"]["message"]


def test_a_deleted_job_gives_no_running_time_back():
    body, _ = in_stage(TRAIN, 50)
    _, body = gone(body, TRAIN, 3650)
    made, _ = gone(body, TRAIN, 3900)
    (action,) = made.first
    assert action.job["metadata"]["annotations"]["finetune.dev/active-seconds"] == "3600"


def test_a_suspended_job_is_not_made_again_before_it_is_resumed():
    body, _ = in_stage(TRAIN)
    body = {**body, "spec": {**body["spec"], "suspend": True}}
    _, body = gone(body, TRAIN, 100)
    made, body = gone(body, TRAIN, 1000)
    assert made.first == ()
    made, _ = gone({**body, "spec": {**body["spec"], "suspend": False}}, TRAIN, 1010)
    assert [type(action) for action in made.first] == [CreateStage]


def test_a_job_that_kueue_gave_up_and_deleted_is_not_made_again():
    body = trained(job(queueName="team-a"))
    held = queue(
        is_active=False, reason="DeactivatedDueToRequeuingLimitExceeded", message="too often"
    )
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, body, suspend=True)}, "queue": {TRAIN: held}},
    )
    body = after(body, plan(observe(body, **known, has_kueue=True), at(100), CONFIG))
    assert condition(body, "Stalled")["status"] == "True"
    _, body = gone(body, TRAIN, 200)
    assert body["status"]["lastFailure"]["reason"] == "JobDeleted"
    assert is_terminal(body["status"])


def test_a_job_of_several_nodes_is_made_again_with_its_service():
    body = accepted(job(resources={"nodes": 4, "gpusPerNode": 8}))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, body, status=running())}})
    body = after(body, plan(observe(body, **known), at(70), CONFIG))
    _, body = gone(body, TRAIN, 100)
    made, _ = gone(body, TRAIN, 400)
    (action,) = made.first
    assert [each["kind"] for each in action.needs] == ["Service"]
    assert action.job["spec"]["completions"] == 4
