"""Pods that failed: what is told, and when a stage is given up."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import PauseJob
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.finetunejob.state.trimmed import completion_index
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
    ended,
    failed,
    initializing,
    job,
    merged,
    observe,
    pod,
    reasons,
    stages_done,
    trained,
    waiting,
    words,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


# ---- failures ------------------------------------------------------------------------------------


def test_bad_data_fails_at_once_with_the_trainers_own_words():
    body = accepted()
    text = words(
        PREPARE, ExitCode.DATA_ERROR, FailureClass.DATA_ERROR, "InvalidRows",
        "headlines.jsonl:17: not JSON; set dataset.maxInvalidRows to leave rows out",
    )  # fmt: skip
    known = {
        "jobs": {PREPARE: child(PREPARE, status=failed("PodFailurePolicy", count=1))},
        "pods": {PREPARE: (ended(PREPARE, 65, text),)},
    }
    made = plan(observe(body, **known), at(61), CONFIG)
    failure = made.status["lastFailure"]
    assert failure["class"] == "DataError"
    assert failure["reason"] == "InvalidRows"
    assert failure["exitCode"] == 65
    assert failure["node"] == "node-1"
    assert "headlines.jsonl:17" in condition(made, "Failed")["message"]
    assert condition(made, "Failed")["reason"] == "DataError"
    assert condition(made, "DatasetReady")["reason"] == "DataError"
    assert made.first == ()
    assert reasons(made) == ["Failed"]


def test_the_places_of_the_rows_that_data_is_refused_for_are_in_the_status():
    places = [{"file": "a.jsonl", "line": n, "reason": "NotJson"} for n in range(1, 21)]
    text = words(
        PREPARE, ExitCode.DATA_ERROR, FailureClass.DATA_ERROR, "InvalidRows", "a.jsonl:1: not JSON",
        invalid_rows=places,
    )  # fmt: skip
    known = {
        "jobs": {PREPARE: child(PREPARE, status=failed("PodFailurePolicy", count=1))},
        "pods": {PREPARE: (ended(PREPARE, 65, text),)},
    }
    made = plan(observe(accepted(), **known), at(61), CONFIG)
    assert made.status["lastFailure"]["invalidRows"] == places


def unseen(**status):
    """Return a pod whose kubelet finds no trace of its container: it knows no times either."""
    lost = {"reason": "ContainerStatusUnknown", "exitCode": 137, "startedAt": None,
            "finishedAt": None, "message": "The container could not be located"}  # fmt: skip
    return pod(TRAIN, phase="Failed", state={"terminated": lost}, **status)


FREE = {"PreemptionByScheduler", "ContainerLost"}
FAILURES = [
    ("host out of memory", ended(TRAIN, 137, reason="OOMKilled"), "OutOfMemory", "OOMKilled",
     "resources.memory"),
    ("gpu out of memory without words", ended(TRAIN, 77), "OutOfMemory", "OutOfMemory",
     "microBatchSize"),
    ("killed", ended(TRAIN, 137), "Retryable", "KilledSIGKILL", "terminationGracePeriodSeconds"),
    ("crash", ended(TRAIN, 1, "Traceback"), "Internal", "ExitCode1", "Traceback"),
    ("no command", ended(TRAIN, 128, "exec: no such file", reason="StartError"), "ImageError",
     "StartError", "image"),
    ("storage", ended(TRAIN, 73, words(TRAIN, ExitCode.STORAGE, FailureClass.STORAGE_ERROR,
     "Unreachable", "s3 did not answer")), "StorageError", "Unreachable", "did not answer"),
    ("host out of memory in one process", ended(TRAIN, 77, reason="OOMKilled"), "OutOfMemory",
     "OOMKilled", "resources.memory"),
    ("disk limit", pod(TRAIN, phase="Failed", reason="Evicted",
     message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
     "Evicted", "Evicted", "containers 1Gi. Have its disk space raised"),
    ("shared memory limit", pod(TRAIN, phase="Failed", reason="Evicted",
     message='Usage of EmptyDir volume "shm" exceeds the limit "64Mi". '), "Evicted", "Evicted",
     "sharedMemory. This counts"),
    ("preemption", pod(TRAIN, phase="Failed", conditions=[{"type": "DisruptionTarget",
     "status": "True", "reason": "PreemptionByScheduler", "message": "by another"}]), "Evicted",
     "PreemptionByScheduler", "resumes"),
    ("turned away", pod(TRAIN, phase="Failed", reason="OutOfnvidia.com/gpu", message="no gpu"),
     "Unschedulable", "OutOfnvidia.com/gpu", "no gpu"),
    ("turned away, by a kubelet that began anew", unseen(reason="OutOfcpu", message="no cpu"),
     "Unschedulable", "OutOfcpu", "no cpu"),
    ("an init container", initializing(TRAIN, ("mesh", {"terminated": {"exitCode": 0}}, False),
     ("vault-agent-init", {"terminated": {"exitCode": 1, "reason": "Error"}}), phase="Failed"),
     "Retryable", "InitContainerFailed", "logs headlines-train-0-abcde -c vault-agent-init"),
    ("an init container on a node that restarted", initializing(TRAIN,
     ("vault-agent-init", {"terminated": {"exitCode": 255, "reason": "Unknown"}}), phase="Failed"),
     "Retryable", "ContainerLost", "resumes"),
    ("node restarted", ended(TRAIN, 255, reason="Unknown"), "Retryable", "ContainerLost",
     "restarted"),
    ("container not found", unseen(), "Retryable", "ContainerLost", "resumes at the last"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dead", "failure_class", "reason", "hint"),
    [case[1:] for case in FAILURES],
    ids=[case[0] for case in FAILURES],
)
def test_a_failure_that_is_retried_is_told_with_class_cause_and_remedy(
    dead, failure_class, reason, hint
):
    body = trained()
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "failed": 1})}},
        {"pods": {TRAIN: (dead,)}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    failure = made.status["lastFailure"]
    assert failure["class"] == failure_class
    assert failure["reason"] == reason
    assert hint in failure["message"]
    assert failure["pod"]
    assert not is_terminal(made.status)
    assert condition(made, "Training")["reason"] == "Retrying"
    assert reasons(made) == ["Retrying"]
    assert made.status["attempts"]["counted"] == (0 if reason in FREE else 1)
    assert [item["reason"] for item in made.status["attempts"]["history"]] == [reason]
    again = plan(observe(after(body, made), **known), at(101), CONFIG)
    assert again.status is None
    assert again.events == ()


@pytest.mark.parametrize(
    ("limit", "codes", "will_go_on"),
    [(0, (1,), False), (1, (1,), True), (1, (1, 1), False), (3, (64,), False), (0, (79,), True)],
)
def test_a_retry_is_only_told_where_one_follows(limit, codes, will_go_on):
    body = trained(job(backoffLimit=limit))
    dead = tuple(ended(TRAIN, code, name=f"p{index}") for index, code in enumerate(codes))
    dead[-1]["status"]["phase"] = "Running"  # its container has ended, it has not yet
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW)})}},
        {"pods": {TRAIN: dead}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.status["lastFailure"]["exitCode"] == codes[0]
    assert reasons(made) == (["Retrying"] if will_go_on else ["Failed"])


def test_memory_of_prepare_is_the_administrators():
    dead = ended(PREPARE, 137, reason="OOMKilled")
    known = {"jobs": {PREPARE: child(PREPARE, status=failed())}, "pods": {PREPARE: (dead,)}}
    made = plan(observe(accepted(), **known), at(100), CONFIG)
    assert "operator's prepareMemory" in made.status["lastFailure"]["message"]


def test_used_up_retries_end_the_job():
    body = trained()
    dead = tuple(ended(TRAIN, 1, "boom", name=f"p{index}", end=60 + index) for index in range(4))
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=failed(count=4))}, "pods": {TRAIN: dead}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert condition(made, "Failed")["reason"] == "Internal"
    assert "backoffLimit" in condition(made, "Failed")["message"]
    assert made.status["lastFailure"]["pod"] == "p3"
    assert made.status["attempts"]["counted"] == 4
    assert made.status["attempts"]["preemptions"] == 0


def test_a_peer_that_only_noticed_does_not_hide_the_cause():
    body = trained()
    first = ended(TRAIN, 77, "", name="rank1", end=60)
    peer = ended(
        TRAIN, 75, words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "gone"),
        name="rank0", end=65,
    )  # fmt: skip
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=failed())}, "pods": {TRAIN: (peer, first)}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.status["lastFailure"]["pod"] == "rank1"


PEER_LOST = words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "rank 1 is gone")


NO_PEER = words(
    TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeersMissing", "node 1 of 2 did not come"
)


def lost(count, *, ranks=1, every=600.0, lasting=500.0, text=PEER_LOST):
    """Return pods of several rounds, each of which ended because a peer was lost."""
    return [
        ended(
            TRAIN, 75, text, name=f"rank{rank}-{n}", index=rank,
            created=100 + n * every, end=100 + n * every + lasting,
        )
        for n in range(count)
        for rank in range(ranks)
    ]  # fmt: skip


STEPS = {"stage": "train", "step": 7, "lastHeartbeatTime": timestamp(at(2000))}


def restarted(count, *, code=255, reason="Unknown", ranks=1, **more):
    """Return pods of several rounds, each of which rank 0's node ended; the others noticed."""
    peers = [each for each in lost(count, ranks=ranks) if completion_index(each) > 0]
    return peers + [
        ended(
            TRAIN, code, reason=reason, name=f"rank0-{n}", index=0, node=f"node-{n}",
            created=100 + n * 600, end=600 + n * 600, **more,
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pods", "progress", "gives_up"),
    [
        (restarted(5), None, True),
        (restarted(5, code=137, reason="ContainerStatusUnknown"), None, True),
        (restarted(4), None, False),
        (restarted(5, ranks=8), None, True),
        (restarted(4, ranks=8), None, False),
        (restarted(5), STEPS, False),
        (restarted(9, conditions=DRAIN), None, False),
        (restarted(9, deleted=True), None, False),
        ([*restarted(5), ended(TRAIN, 70, "boom", name="own", index=1)], None, False),
    ],
    ids=[
        "five times", "another runtime", "four times", "five times of one of eight ranks",
        "four times of one of eight ranks", "steps in between", "drained", "suspended",
        "one of them a crash",
    ],
)  # fmt: skip
def test_a_training_that_brings_its_node_down_each_time_ends(pods, progress, gives_up):
    body = trained()
    body = {**body, "status": {**body["status"], **({"progress": progress} if progress else {})}}
    started = child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: started}, "pods": {TRAIN: tuple(pods)}})
    made = plan(observe(body, **known), at(6000), CONFIG)
    assert is_terminal(after(body, made)["status"]) is gives_up
    if gives_up:
        failure = made.status["lastFailure"]
        assert (failure["class"], failure["reason"]) == ("Retryable", "ContainerLost")
        assert "5 times in a row" in failure["message"]
        assert "rank0-4 on node-4" in failure["message"]
        assert "NetworkPolicy" not in failure["message"]
        assert "does not count" not in failure["message"]


def running_peer(created, started):
    state = {"running": {"startedAt": timestamp(at(started))}}
    return pod(TRAIN, name="peer", index=1, created=created, state=state)


@pytest.mark.parametrize(
    ("pods", "progress", "gives_up"),
    [
        (lost(5), None, True),
        (lost(4), None, False),
        (lost(4, ranks=8), None, False),
        (lost(5, ranks=8), None, True),
        ([*lost(5), pod(TRAIN, name="evicted", phase="Failed", conditions=DRAIN)], None, False),
        ([*lost(5), ended(TRAIN, 70, "boom", name="own", index=1)], None, False),
        ([*lost(6), ended(TRAIN, 70, "boom", name="own", index=1)], None, True),
        (lost(5), STEPS, False),
        (lost(9), STEPS, True),
        (lost(9, every=90000, lasting=80000), None, False),
        ([*lost(5), pod(TRAIN, name="next", state={"running": {}})], None, False),
        ([*lost(9), waiting(TRAIN, "", name="peer", index=1, created=150, node="")], None, False),
        ([*lost(9), running_peer(150, 5100)], None, False),
        ([*lost(8), running_peer(150, 160)], None, True),
    ],
    ids=[
        "five rounds", "four rounds", "four rounds of eight ranks", "five rounds of eight ranks",
        "one of them a drained node", "one of them a crash", "one more than the crash explains",
        "steps in between", "five rounds after the last step", "each after a day",
        "another one runs", "a peer has no node", "a peer had no node for long",
        "a peer that ran on for longer than half an hour",
    ],
)  # fmt: skip
def test_ends_that_are_not_counted_end_the_job_when_it_gets_nowhere(pods, progress, gives_up):
    body = trained()
    if progress:
        body = {**body, "status": {**body["status"], "progress": progress}}
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})}},
        {"pods": {TRAIN: tuple(pods)}},
    )
    made = plan(observe(body, **known), at(6000), CONFIG)
    assert is_terminal(after(body, made)["status"]) is gives_up
    if gives_up:
        failure = made.status["lastFailure"]
        assert (failure["class"], failure["reason"]) == ("Retryable", "PeerLost")
        assert "5 times in a row" in failure["message"]
        assert "NetworkPolicy" in failure["message"]
        assert "rank 1 is gone" in failure["message"]
        assert made.then[0] == PauseJob(
            stage=TRAIN, name="headlines-train", active_seconds=6000, started=timestamp(NOW)
        )


@pytest.mark.parametrize("lasting", [3900.0, 80000.0])  # minutes, or most of a day, of downloads
def test_nodes_that_wait_in_vain_again_and_again_do_not_hold_gpus_for_ever(lasting):
    rounds = lost(5, every=90000, lasting=lasting, text=NO_PEER)
    started = child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})
    for pods, gives_up in ((rounds[:4], False), (rounds, True)):
        known = merged(stages_done(PREPARE), {"jobs": {TRAIN: started}, "pods": {TRAIN: (*pods,)}})
        body = trained()
        made = plan(observe(body, **known), at(450000), CONFIG)
        assert is_terminal(after(body, made)["status"]) is gives_up
    failure = made.status["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Retryable", "PeersMissing")
    assert "NetworkPolicy" in failure["message"]
    assert "node 1 of 2 did not come" in failure["message"]


def test_steps_that_are_made_again_are_no_progress():
    ledger = Ledger().reached(STEPS)
    again = {**STEPS, "step": 5, "lastHeartbeatTime": timestamp(at(5000))}
    assert ledger.reached(again) is ledger
    assert ledger.reached({**again, "step": 8}).stepped_at == at(5000)
    assert Ledger().reached({"stage": "train", "percent": 0}) == Ledger()


def test_a_failed_job_whose_pods_are_gone_still_says_what_is_known():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=failed(end=60))}})
    early = plan(observe(body, **known), at(62), CONFIG)
    assert not is_terminal(early.status)
    made = plan(observe(body, **known), at(90), CONFIG)
    assert made.status["lastFailure"]["reason"] == "BackoffLimitExceeded"
    assert "pods are gone" in made.status["lastFailure"]["message"]


# ---- attempts ------------------------------------------------------------------------------------


def test_evicted_pods_are_counted_over_an_operators_restart():
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    first = pod(TRAIN, name="one", phase="Failed", conditions=disrupted)
    ledger = Ledger().seen([first])
    ledger = ledger.seen([pod(TRAIN, name="two")])
    assert (ledger.num_started, ledger.num_evicted) == (2, 1)
    # The evicted pod is gone by the time the next operator starts.
    again = Ledger.resume({"total": 2, "preemptions": 1}, [pod(TRAIN, name="two")])
    again = again.seen([pod(TRAIN, name="three", phase="Failed", conditions=disrupted)])
    assert (again.num_started, again.num_evicted) == (3, 2)


def test_a_pod_over_its_own_limits_is_no_preemption():
    ledger = Ledger().seen([pod(TRAIN, phase="Failed", reason="Evicted", message="disk")])
    assert (ledger.num_started, ledger.num_evicted) == (1, 0)
