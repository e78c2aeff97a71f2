"""Jobs that are accepted and whose pods the API server refuses."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.actions import LookUpWarnings
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.finetunejob.state.waiting import find_wait
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONDITIONS,
    accepted,
    at,
    child,
    condition,
    done_before,
    ended,
    job,
    merged,
    plans,
    pod,
    reasons,
    stages_done,
    trained,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def answer(stage, pods='pods "headlines-{}-x7k2d"'):
    """What the Job controller tells, of another pod each time."""
    name = pods.format(stage.value)
    return WarningEvent(
        "FailedCreate",
        f"Error creating: {name} is forbidden: exceeded quota: gpus, requested: "
        "requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=8, limited: "
        "requests.nvidia.com/gpu=8",
    )


def without_pods(stage, *, start=60.0, pods=(), **status):
    """A job whose stage has a Job that began, and no pods but these."""
    body = trained() if stage is EVALUATE else accepted()
    under_way = child(stage, status={"startTime": timestamp(at(start)), **status})
    known = merged(done_before(stage), {"jobs": {stage: under_way}, "pods": {stage: pods}})
    return body, known


def plans_told(body, known, *moments, warning):
    """Plan as ``plans`` does, with what Events of the Job say."""
    return plans(body, {**known, "warnings": warning}, *moments)


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_stage_whose_pods_are_refused_says_so_once_and_is_counted_as_a_wait(stage):
    body, known = without_pods(stage)
    warning = {f"headlines-{stage.value}": answer(stage)}
    made, body = plans_told(body, known, 91, 121, 100_000, warning=warning)
    told = condition(body, CONDITIONS[stage])
    assert (told["status"], told["reason"]) == ("False", "PodsNotCreated")
    assert "exceeded quota: gpus, requested:" in told["message"]
    assert [reasons(each).count("PodsNotCreated") for each in made] == [1, 0, 0]
    assert [each.requeue_after for each in made] == [30.0] * 3
    assert not is_terminal(body["status"])
    assert body["status"]["reason"] == "PodsNotCreated"
    wait = find_wait(body, at(100_000), expects_progress=True)
    assert (wait.state, wait.reason) == ("NotStarting", "PodsNotCreated")


def test_another_drawn_name_is_no_news():
    body, known = without_pods(PREPARE)
    told = {"headlines-prepare": answer(PREPARE)}
    _, body = plans_told(body, known, 91, warning=told)
    told = {"headlines-prepare": answer(PREPARE, 'pods "headlines-{}-0-bq9wz"')}
    made, body = plans_told(body, known, 121, warning=told)
    assert made[0].status is None, "nothing to write"


def test_events_of_a_job_are_asked_for_after_half_a_minute_without_pods():
    body, known = without_pods(PREPARE)
    (young, old), _ = plans(body, known, 80, 91)
    assert young.first == ()
    assert young.requeue_after == pytest.approx(10)
    assert old.first == (LookUpWarnings(kind="Job", names=("headlines-prepare",), since=at(60)),)
    (later,), _ = plans(body, known, 5000)
    assert later.first[0].since == at(4340)


def test_a_job_that_has_no_pods_and_tells_nothing_is_not_said_to_be_at_work():
    body, known = without_pods(PREPARE)
    made, body = plans_told(body, known, 91, 4000, warning={"headlines-prepare": None})
    assert condition(body, "DatasetReady")["reason"] == "WaitingForPods"
    assert [reasons(each) for each in made] == [[], []]
    assert find_wait(body, at(4000), expects_progress=True).state == "NotStarting"


def test_once_the_pods_come_the_stage_is_at_work():
    body, known = without_pods(PREPARE)
    _, body = plans_told(body, known, 91, warning={"headlines-prepare": answer(PREPARE)})
    known["pods"] = {PREPARE: (pod(PREPARE, state={"running": {}}),)}
    _, body = plans(body, known, 200)
    assert condition(body, "DatasetReady")["reason"] == "Preparing"
    assert find_wait(body, at(9000), expects_progress=True) is None


def test_some_pods_that_are_refused_while_others_hold_their_gpus_are_told():
    body = accepted(job(resources={"nodes": 4, "gpusPerNode": 8}))
    status = {"startTime": timestamp(at(60)), "active": 2, "ready": 2}
    under_way = child(TRAIN, body, status=status)
    two = tuple(pod(TRAIN, index=index, state={"running": {}}) for index in (0, 1))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: under_way}, "pods": {TRAIN: two}})
    made, body = plans_told(body, known, 91, warning={"headlines-train": answer(TRAIN)})
    assert condition(body, "Training")["reason"] == "PodsNotCreated"
    assert "2 of 4 pods of Job headlines-train" in condition(body, "Training")["message"]


@pytest.mark.parametrize(
    ("status", "pods"),
    [
        ({"active": 1}, ()),
        ({}, (pod(TRAIN, phase="Pending", node=""),)),
        ({}, (ended(TRAIN, 0),)),
        ({"succeeded": 1}, ()),
    ],
    ids=["pods are not read yet", "it waits", "it has ended", "it has ended and is gone"],
)
def test_a_job_that_has_its_pods_is_not_looked_into(status, pods):
    body, known = without_pods(TRAIN, pods=pods, **status)
    (made,), _ = plans(body, known, 4000)
    assert made.first == ()


def test_a_failed_pod_is_followed_within_the_job_controllers_pause():
    body, known = without_pods(TRAIN, pods=(ended(TRAIN, 75, end=100.0),))
    (made, later), _ = plans(body, known, 120, 131)
    assert made.first == ()
    assert later.first[0].kind == "Job"


def test_a_stage_whose_pods_another_cluster_makes_is_not_looked_into():
    body, known = without_pods(TRAIN)
    known["jobs"][TRAIN]["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    (made,), _ = plans(body, known, 4000)
    assert made.first == ()
