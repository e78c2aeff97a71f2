"""Ranks that hold GPUs while others find no node."""

from __future__ import annotations

import pytest

from finetune_api.trainer import Stage
from finetune_operator.finetunejob.actions import PauseJob, ResumeJob
from finetune_operator.finetunejob.plan import plan
from finetune_operator.status.conditions import is_terminal, timestamp
from unit.operator.builders import (
    CONFIG,
    after,
    at,
    child,
    condition,
    job,
    merged,
    observe,
    pod,
    running,
    stages_done,
)

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN


def placed(rank=0):
    return pod(TRAIN, index=rank, state={"running": {"startedAt": timestamp(at(80))}})


def unplaced(rank=1, since=80.0):
    lacking = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available", "lastTransitionTime": timestamp(at(since)),
    }  # fmt: skip
    return pod(TRAIN, index=rank, phase="Pending", node="", conditions=[lacking])


def in_training(**spec):
    body = job(resources={"nodes": 2, "gpusPerNode": 8}, **spec)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, body, status=running(70))}})
    return after(body, plan(observe(body, **known), at(70), CONFIG)), known


def paused(known):
    """Return the snapshot after the Job was stopped for want of nodes."""
    stopped = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(700))}
    train = child(
        TRAIN,
        suspend=True,
        annotations={"finetune.dev/paused": "placement"},
        status={"conditions": [stopped]},
    )
    return merged(known, {"jobs": {TRAIN: train}})


def planned(body, known, pods, seconds, config=CONFIG):
    return plan(observe(body, **merged(known, {"pods": {TRAIN: tuple(pods)}})), at(seconds), config)


def test_ranks_that_wait_for_others_give_their_gpus_back_and_try_again():
    body, known = in_training()
    early = planned(body, known, [placed(), unplaced()], 600)
    assert early.then == ()
    assert early.requeue_after <= 80
    made = planned(body, known, [placed(), unplaced()], 680)
    (pause,) = made.then
    assert isinstance(pause, PauseJob)
    assert (pause.why, pause.active_seconds) == ("placement", 610)
    assert condition(made, "Training")["reason"] == "NodesReleased"
    assert "1 of 2 pods found no node for 600 s" in condition(made, "Training")["message"]
    body = after(body, made)
    assert body["status"]["phase"] == "Training"
    assert not is_terminal(body["status"])

    waits = planned(body, paused(known), [], 900)
    assert waits.then == ()
    assert waits.requeue_after == pytest.approx(100)
    assert condition(after(body, waits), "Training")["reason"] == "NodesReleased"
    again = planned(body, paused(known), [], 1000)
    assert again.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)


def test_a_user_who_suspends_meanwhile_is_heard():
    body, known = in_training()
    body = {**body, "spec": {**body["spec"], "suspend": True}}
    made = planned(body, paused(known), [], 5000)
    assert made.then == ()
    assert made.status["phase"] == "Suspended"


@pytest.mark.parametrize(
    ("spec", "pods", "settings"),
    [
        ({}, [unplaced(0), unplaced(1)], {}),
        ({}, [placed(0), placed(1)], {}),
        ({"queueName": "team-a"}, [placed(), unplaced()], {}),
        ({}, [placed(), unplaced()], {"placement_deadline_seconds": 0}),
    ],
    ids=["none has a node", "all have one", "the business of Kueue", "switched off"],
)
def test_nothing_else_is_stopped_for_want_of_a_node(spec, pods, settings):
    body, known = in_training(**spec)
    config = CONFIG.model_copy(update=settings)
    made = planned(body, known, pods, 100_000, config)
    assert made.then == ()
