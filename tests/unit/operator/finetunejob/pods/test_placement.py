"""Ranks that hold GPUs while others find no node."""

from __future__ import annotations

import pytest

from finetune_api.names import QUEUE_LABEL
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, PauseJob, ResumeJob
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    job,
    merged,
    observe,
    pod,
    queue,
    reasons,
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
    assert "1 of 2 pods" in condition(made, "Training")["message"]
    assert "600 s" in condition(made, "Training")["message"]
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


# ---- Jobs that Kueue owns though their FineTuneJob names no queue --------------------------------

PREEMPTED = {"is_evicted": True, "reason": "Preempted", "message": "for another"}
OWNED = {
    "LocalQueue default": ({QUEUE_LABEL: "default"}, True),
    "LocalQueue default, and Workloads cannot be read": ({QUEUE_LABEL: "default"}, False),
    "Kueue takes Jobs without a queue too": ({}, True),
}


def owned(known, by, **state):
    """Return the snapshot with the training's Job in Kueue's hands."""
    labels, has_kueue = OWNED[by]
    train = known["jobs"][TRAIN]
    metadata = {**train["metadata"], "labels": {**train["metadata"]["labels"], **labels}}
    owned = {"jobs": {TRAIN: {**train, "metadata": metadata}}, "has_kueue": has_kueue}
    if has_kueue:
        owned["queue"] = {TRAIN: queue(**state)}
    return merged(known, owned)


@pytest.mark.parametrize("by", OWNED)
def test_a_job_that_kueue_has_admitted_is_not_stopped_for_want_of_a_node(by):
    body, known = in_training()
    known = owned(known, by, is_admitted=True, has_quota=True)
    made = planned(body, known, [placed(), unplaced()], 100_000)
    assert made.then == ()
    assert "NodesReleased" not in reasons(made)


@pytest.mark.parametrize("by", OWNED)
def test_a_job_that_kueue_has_preempted_is_not_started_whatever_was_noted_on_it(by):
    body, known = in_training()
    known = owned(paused(known), by, **PREEMPTED)
    made = planned(body, known, [], 100_000)
    assert made.then == ()
    assert condition(made, "Training")["reason"] in ("Preempted", "Queued")


def test_a_users_resume_wakes_a_job_of_kueues_through_its_workload_alone():
    body, known = in_training()
    known = owned(paused(known), "LocalQueue default", is_active=False,
                  deactivated_by="finetune-operator")  # fmt: skip
    body = {**body, "spec": {**body["spec"], "suspend": True}}
    body = after(body, planned(body, known, [], 1000))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known |= {"restored": {"headlines-train": False}}
    made = planned(body, known, [], 1100)
    assert [type(action) for action in made.then] == [ActivateWorkload]
