"""A node that is cut off: its Node object stays, and its pods never say that they have ended."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.rounds import fruitless_rounds
from finetune_operator.finetunejob.state.actions import FailPod
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    ended,
    job,
    merged,
    observe,
    pod,
    running,
    stages_done,
    words,
)

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
PEER_LOST = words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "rank 1 is gone")


def cut_off(*, rank=1, deleted_at=None, phase="Running", start=0.0):
    """Return the pod on the node that nobody reaches."""
    tainted = {
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "lastTransitionTime": timestamp(at((deleted_at or 0) - 60)),
    }  # fmt: skip
    found = pod(
        TRAIN, name=f"cut-off-{rank}", index=rank, created=start, node="node-2", phase=phase,
        state={"running": {"startedAt": timestamp(at(start))}},
        conditions=[] if deleted_at is None else [tainted],
    )  # fmt: skip
    if deleted_at is not None:
        found["metadata"]["deletionTimestamp"] = timestamp(at(deleted_at))
    return found


def peers(count, *, every=200.0, lasting=190.0):
    """Return the pods of rank 0, which comes again and again and meets nobody."""
    return [
        ended(
            TRAIN, 75, PEER_LOST, name=f"rank0-{n}", index=0, created=n * every, start=n * every,
            end=n * every + lasting,
        )
        for n in range(count)
    ]  # fmt: skip


def in_training(*, nodes=2, backoff=3):
    body = job(resources={"nodes": nodes, "gpusPerNode": 1}, backoffLimit=backoff)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, body, status=running())}})
    return after(body, plan(observe(body, **known), at(70), CONFIG)), known


def planned(body, known, pods, seconds):
    return plan(observe(body, **merged(known, {"pods": {TRAIN: tuple(pods)}})), at(seconds), CONFIG)


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_pod_that_never_ends_is_declared_failed_so_that_it_is_replaced(nodes):
    body, known = in_training(nodes=nodes)
    lost = cut_off(rank=nodes - 1, deleted_at=400)
    early = planned(body, known, [lost], 500)
    assert early.then == ()
    assert early.requeue_after <= 20
    late = planned(body, known, [lost], 520)
    (action,) = late.then
    assert isinstance(action, FailPod)
    assert (action.name, action.uid) == (lost["metadata"]["name"], lost["metadata"]["uid"])
    assert action.is_explained
    assert "node-2 does not answer" in action.message
    assert "NodeLost" in [event.reason for event in late.events]
    assert not is_terminal(late.status or body["status"])


@pytest.mark.parametrize(
    "other",
    [
        cut_off(),
        cut_off(deleted_at=400, phase="Failed"),
        ended(TRAIN, 0, "", deleted=True),
    ],
    ids=["not to be deleted", "failed already", "succeeded"],
)
def test_no_other_pod_is_declared_failed(other):
    body, known = in_training()
    assert planned(body, known, [other], 9000).then == ()


def test_a_pod_of_a_suspended_job_is_declared_failed_too():
    body, known = in_training()
    known["jobs"][TRAIN] = child(TRAIN, suspend=True)
    made = planned(body, known, [cut_off(deleted_at=400)], 9000)
    assert [type(action) for action in made.then] == [FailPod]


def test_the_others_are_not_given_up_while_a_rank_is_cut_off():
    """They restarted for as long as the node was away, and the job failed, blaming the network."""
    body, known = in_training()
    for count in range(1, 12):
        pods = [*peers(count), cut_off(deleted_at=460 if count > 2 else None)]
        made = planned(body, known, pods, 200 * count)
        body = after(body, made)
        assert not is_terminal(body["status"]), condition(made, "Failed")
    assert body["status"]["attempts"]["counted"] == 0


def test_a_node_that_was_lost_is_an_incident_that_costs_nothing():
    body, known = in_training(backoff=0)
    pods = [*peers(3), cut_off(deleted_at=460, phase="Failed")]
    body = after(body, planned(body, known, pods, 700))
    (incident,) = body["status"]["attempts"]["history"]
    assert (incident["class"], incident["rank"], incident["node"]) == (
        "Infrastructure",
        1,
        "node-2",
    )
    assert incident["counted"] is False
    assert not is_terminal(body["status"])


@pytest.mark.parametrize(
    ("pods", "rounds"),
    [
        ([*peers(6), cut_off()], 1),
        ([*peers(6), cut_off(start=300)], 2),
        ([*peers(16), cut_off()], 7),
        ([*peers(16), cut_off(deleted_at=400)], 1),
    ],
    ids=[
        "cut off from the first attempt on", "from the second attempt on",
        "runs for half an hour without the others", "is to be deleted",
    ],
)  # fmt: skip
def test_rounds_in_which_a_rank_of_an_attempt_before_was_there_do_not_count(pods, rounds):
    assert fruitless_rounds(pods, Ledger()).count == rounds
