"""Metrics of FineTuneJobs: few series whatever the number of jobs, and counted once."""

from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.reasons import OPERATOR_REASONS
from finetune_operator.finetunejob.state.trimming import trim_pod
from finetune_operator.finetunejob.state.waiting import find_wait
from finetune_operator.kube.cache.store import Store
from finetune_operator.metrics.census import MAX_WAITING, take_census
from finetune_operator.metrics.gpu_time import lost_seconds
from finetune_operator.metrics.jobs import JobMetrics
from finetune_operator.status.conditions import ConditionType, Reason, timestamp
from kit.builders.jobs import NOW, at

KINDS = {"DatasetReady": "prepare", "Training": "train", "Evaluated": "evaluate"}


def condition(kind: str, status: str, reason: str, since: float = 0.0) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "lastTransitionTime": timestamp(at(since)),
    }


def job(name: str = "headlines", version: int = 1, **status: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {
            "name": name,
            "namespace": "team-a",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": timestamp(NOW),
        },
        "spec": {
            "resources": {"nodes": 2, "gpusPerNode": 4},
            "evaluation": {"gpus": "auto"},
            "checkpoint": {"everySteps": 10},
        },
    }
    return body if not status else {**body, "status": status}


def waits(seconds: float, **status: Any) -> tuple[str, float] | None:
    found = find_wait(job(**status), at(seconds), expects_progress=True)
    return None if found is None else (found.state, found.seconds)


TRAINING = condition("Training", "True", "Running", 100)
WAITS = {
    "an operator that never looks": ({}, ("NotStarting", 1000)),
    "a queue": (
        {"phase": "Queued", "conditions": [condition("QuotaReserved", "False", "Pending", 400)]},
        ("Queued", 600),
    ),
    "a pod that does not start": (
        {"phase": "Training", "conditions": [condition("Training", "False", "Unschedulable", 100)]},
        ("NotStarting", 900),
    ),
    "the next report": (
        {
            "phase": "Training",
            "conditions": [TRAINING],
            "progress": {"stage": "train", "lastHeartbeatTime": timestamp(at(700))},
        },
        ("Silent", 300),
    ),
    "the first report after a resume": (
        {
            "phase": "Training",
            "conditions": [condition("Training", "True", "Running", 900)],
            "progress": {"stage": "train", "lastHeartbeatTime": timestamp(at(200))},
        },
        ("Silent", 100),
    ),
    "reports that never come": (
        {"phase": "Training", "conditions": [TRAINING]},
        ("NoProgress", 900),
    ),
    "nothing: another stage's report is no sign of hanging": (
        {
            "phase": "Evaluating",
            "conditions": [condition("Evaluated", "False", "Evaluating", 0)],
            "progress": {"stage": "train", "lastHeartbeatTime": timestamp(at(0))},
        },
        None,
    ),
    "being chosen": (
        {
            "phase": "AwaitingSelection",
            "conditions": [condition("Evaluated", "False", "HeldAfterTraining", 400)],
        },
        ("AwaitingSelection", 600),
    ),
    "nothing: its user holds it": ({"phase": "Suspended"}, None),
    "nothing: it has ended": ({"phase": "Failed"}, None),
    "nothing: it was pruned": ({"phase": "Pruned"}, None),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_job_waits_for(name):
    status, expected = WAITS[name]
    assert waits(1000, **status) == expected


def test_a_queued_job_waits_for_the_reason_that_kueue_gives():
    told = [condition("QuotaReserved", "False", "Pending", 400)]
    found = find_wait(
        job(phase="Queued", reason="Queued", conditions=told), at(1000), expects_progress=True
    )
    assert found is not None
    assert found.reason == "Pending"


def test_words_of_others_do_not_make_series():
    jobs = [job(f"j{n}", phase="Queued", reason=f"KueueSays{n}") for n in range(50)]
    jobs += [job(f"f{n}", phase="Failed", reason=f"E{n}", lastFailure={"class": "DataError"})
             for n in range(50)]  # fmt: skip
    census = take_census(jobs, NOW, expects_progress=True)
    assert dict(census.jobs) == {
        ("team-a", "Queued", "Other"): 50,
        ("team-a", "Failed", "DataError"): 50,
    }


def test_only_the_longest_waits_have_series():
    jobs = [job(f"j{n:03}") for n in range(300)]
    for number, body in enumerate(jobs):
        body["metadata"]["creationTimestamp"] = timestamp(at(-number * 10))
    found = take_census(jobs, at(0), expects_progress=True).waits
    assert len(found) == MAX_WAITING
    assert [found[0].name, found[-1].name] == ["j299", "j200"]
    young = take_census([job()], at(200), expects_progress=True)
    assert young.waits == []


SILENT = {
    "phase": "Training",
    "conditions": [TRAINING],
    "progress": {"stage": "train", "lastHeartbeatTime": timestamp(at(0))},
}
STUCK = {"phase": "Training", "conditions": [condition("Training", "False", "Unschedulable", 100)]}
DEAF = {"phase": "Training", "conditions": [TRAINING]}


@pytest.mark.parametrize(
    ("status", "state"),
    [(SILENT, "Silent"), (STUCK, "NotStarting"), (DEAF, "NoProgress")],
    ids=["hung", "not starting", "never reported"],
)
def test_a_job_in_trouble_has_a_series_however_many_wait_for_longer(status, state):
    """Jobs in a queue and trials that are held wait for days, and alerts read these series."""
    queued = {
        "phase": "Queued",
        "conditions": [condition("QuotaReserved", "False", "Pending", -9000)],
    }
    held = {
        "phase": "AwaitingSelection",
        "conditions": [condition("Evaluated", "False", "HeldAfterTraining", -9000)],
    }
    jobs = [job(f"q{n}", **queued) for n in range(2 * MAX_WAITING)]
    jobs += [job(f"h{n}", **held) for n in range(2 * MAX_WAITING)]
    jobs.append(job("in-trouble", **status))
    found = take_census(jobs, at(3600), expects_progress=True).waits
    assert [wait.state for wait in found if wait.name == "in-trouble"] == [state]
    num_by_state = Counter(wait.state for wait in found)
    assert num_by_state == {"Queued": MAX_WAITING, "AwaitingSelection": MAX_WAITING, state: 1}


def test_gpus_are_held_by_all_nodes_of_training_and_one_of_evaluation():
    jobs = [
        job("a", phase="Training"),
        job("b", phase="Evaluating"),
        job("c", phase="Preparing"),
        job("d", phase="Queued", stages=[{"name": "prepare", "completionTime": "x"}]),
    ]
    census = take_census(jobs, NOW, expects_progress=False)
    assert dict(census.gpus) == {("team-a", "held"): 8 + 4, ("team-a", "queued"): 8}


@pytest.mark.slow
def test_time_of_counting_jobs_grows_with_their_number_alone():
    status = {
        "phase": "Training",
        "reason": "Running",
        "conditions": [condition(kind.value, "True", "Running") for kind in ConditionType],
        "progress": {"stage": "train", "lastHeartbeatTime": timestamp(NOW)},
    }

    def measure(number: int) -> float:
        jobs = [job(f"j{n}", **status) for n in range(number)]
        begun = time.process_time()
        take_census(jobs, at(10_000), expects_progress=True)
        return time.process_time() - begun

    # Ten times as many take nothing like a hundred times as long.
    assert min(measure(10_000) / measure(1_000) for _ in range(3)) < 30


def test_every_reason_and_class_of_the_operator_is_a_label():
    missing = {str(word) for word in (*Reason, *FailureClass)} - set(OPERATOR_REASONS)
    assert missing == set()


# ---- counters --------------------------------------------------------------------------------


@pytest.fixture
def world():
    caches = SimpleNamespace(finetunejobs=Store(), pods=Store(transform=trim_pod))
    registry = CollectorRegistry()
    replica = SimpleNamespace(is_leader=True)
    JobMetrics(
        caches,  # type: ignore[arg-type]
        registry,
        clock=SimpleNamespace(now=lambda: at(1000), monotonic=lambda: 0.0),
        is_leader=lambda: replica.is_leader,
        expects_progress=True,
    )

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return SimpleNamespace(caches=caches, value=value, replica=replica, registry=registry)


def end(world: Any, before: dict[str, Any], after: dict[str, Any]) -> None:
    world.caches.finetunejobs.observe("ADDED", job(version=1, **before))
    world.caches.finetunejobs.observe("MODIFIED", job(version=2, **after))


FAILED = {
    "phase": "Failed",
    "startTime": timestamp(at(0)),
    "completionTime": timestamp(at(4000)),
    "lastFailure": {"class": "StorageError", "time": timestamp(at(4000))},
    "stages": [
        {"name": "prepare", "completionTime": timestamp(at(100)), "activeSeconds": 90},
        {"name": "train", "completionTime": timestamp(at(4000)), "activeSeconds": 3000},
    ],
}


def test_an_end_is_counted_with_its_class_and_its_durations(world):
    running = {"phase": "Training", "stages": FAILED["stages"][:1]}
    end(world, running, FAILED)
    assert world.value("finetune_job_failures_total", **{"class": "StorageError"}) == 1
    assert world.value("finetune_job_failures_total", **{"class": "Internal"}) == 0
    assert world.value("finetune_attempt_failures_total", **{"class": "StorageError"}) == 1
    assert world.value("finetune_job_duration_seconds_sum", phase="Failed") == 4000
    assert world.value("finetune_stage_active_seconds_sum", stage="train") == 3000
    assert world.value("finetune_stage_active_seconds_count", stage="prepare") is None


def test_a_standby_counts_no_changes(world):
    world.replica.is_leader = False
    end(world, {"phase": "Training"}, FAILED)
    assert world.value("finetune_job_failures_total", **{"class": "StorageError"}) == 0
    assert world.value("finetune_jobs", namespace="team-a", phase="Failed", reason="StorageError")


def test_an_end_that_was_there_at_the_start_is_not_counted_again(world):
    world.caches.finetunejobs.observe(None, job(**FAILED))
    assert world.value("finetune_job_failures_total", **{"class": "StorageError"}) == 0


def test_the_wait_in_the_queue_is_counted_in_gpu_seconds_once_it_is_over(world):
    prepared = [{"name": "prepare", "completionTime": "x"}]
    end(
        world,
        {
            "phase": "Queued",
            "stages": prepared,
            "conditions": [condition("QuotaReserved", "False", "Pending", 100)],
        },
        {
            "phase": "Training",
            "stages": prepared,
            "conditions": [condition("QuotaReserved", "True", "QuotaReserved", 350)],
        },
    )
    queued = world.value("finetune_gpu_seconds_total", namespace="team-a", state="queued")
    assert queued == 250 * 8


def pod(state: dict[str, Any], version: int, stage: Stage = Stage.TRAIN) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "namespace": "team-a",
            "uid": "uid-p",
            "resourceVersion": str(version),
            "labels": {"finetune.dev/job": "headlines", "finetune.dev/stage": stage.value},
        },
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "trainer", "state": state}],
        },
    }


IN_TRAINING = {"name": "train", "runTime": timestamp(at(100))}


def test_a_pods_gpu_seconds_are_counted_at_its_end(world):
    end(world, {"phase": "Training"}, {"phase": "Training", "stages": [IN_TRAINING]})
    started = {"startedAt": timestamp(at(100))}
    world.caches.pods.observe("ADDED", pod({"running": started}, 1))
    done = {"exitCode": 79, **started, "finishedAt": timestamp(at(700))}
    world.caches.pods.observe("MODIFIED", pod({"terminated": done}, 2))
    world.caches.pods.observe("DELETED", pod({"terminated": done}, 3))
    assert world.value("finetune_gpu_seconds_total", namespace="team-a", state="productive") == 7200
    assert world.value("finetune_gpu_seconds_total", namespace="team-a", state="lost") == 0
    assert b"finetune_gpu_seconds_total" in generate_latest(world.registry)


def train_pod_ends(world: Any, seconds: float, exit_code: int = 79, version: int = 1) -> None:
    started = {"startedAt": timestamp(at(100))}
    done = {"exitCode": exit_code, **started, "finishedAt": timestamp(at(seconds))}
    world.caches.pods.observe("ADDED", pod({"running": started}, version))
    world.caches.pods.observe("MODIFIED", pod({"terminated": done}, version + 1))


def gpu_seconds(world: Any) -> float:
    name = "finetune_gpu_seconds_total"
    values = [world.value(name, namespace="team-a", state=s) for s in ("productive", "lost")]
    return sum(value or 0.0 for value in values)


@pytest.mark.parametrize("change", ["a restart", "a failover"])
def test_a_new_leader_counts_a_run_that_began_before_it_led(world, change):
    status = {"phase": "Training", "stages": [{**IN_TRAINING, "pastSeconds": 50}]}
    world.replica.is_leader = change == "a restart"
    world.caches.finetunejobs.observe("ADDED", job(version=1, **status))
    if change == "a failover":
        world.caches.finetunejobs.observe("MODIFIED", job(version=2, **status, reason="Running"))
    world.replica.is_leader = True
    train_pod_ends(world, 1000)
    assert gpu_seconds(world) == 8 * 900, "the 50 s were over"


def test_a_new_leader_counts_no_pod_whose_end_is_on_record(world):
    history = [{"stage": "train", "time": timestamp(at(700)), "counted": True}]
    status = {"phase": "Training", "stages": [IN_TRAINING], "attempts": {"history": history}}
    world.caches.finetunejobs.observe("ADDED", job(version=1, **status))
    train_pod_ends(world, 1000)
    assert gpu_seconds(world) == 8 * 300


def test_a_record_that_falls_has_nothing_counted_twice(world):
    long, short = ({"name": "train", "pastSeconds": seconds} for seconds in (900, 100))
    end(world, {"phase": "Training"}, {"phase": "Training", "stages": [long]})
    for number, stage in enumerate((long, short, long)):
        status = {"phase": "Training", "stages": [stage]}
        world.caches.finetunejobs.observe("MODIFIED", job(version=number + 3, **status))
        train_pod_ends(world, 1000, version=2 * number + 1)
    assert gpu_seconds(world) == 8 * 900


PROGRESS = {
    "stage": "train",
    "step": 57,
    "totalSteps": 107,
    "lastHeartbeatTime": timestamp(at(600)),
    "estimatedCompletionTime": timestamp(at(1100)),  # 10 s per step
}
ENDS = {
    "done": (0, PROGRESS, Stage.TRAIN, 0.0),
    "saved and stopped": (79, PROGRESS, Stage.TRAIN, 0.0),
    # 7 steps after the checkpoint at step 50, and what ran since the last report
    "failed after a checkpoint": (70, PROGRESS, Stage.TRAIN, 170.0),
    "failed before it reported": (70, {}, Stage.TRAIN, 600.0),
    "failed with a report of an attempt before": (
        70,
        {**PROGRESS, "lastHeartbeatTime": timestamp(at(50))},
        Stage.TRAIN,
        600.0,
    ),
    "failed while evaluating": (70, PROGRESS, Stage.EVALUATE, 600.0),
    "vanished": (None, PROGRESS, Stage.TRAIN, 170.0),
}


@pytest.mark.parametrize("name", ENDS)
def test_running_time_is_lost_since_the_last_checkpoint(name):
    code, progress, stage, expected = ENDS[name]
    started = {"startedAt": timestamp(at(100))}
    state = (
        {"running": started}
        if code is None
        else {"terminated": {"exitCode": code, **started, "finishedAt": timestamp(at(700))}}
    )
    body = job(phase="Training", progress=progress)
    assert lost_seconds(trim_pod(pod(state, 1, stage)), body, stage, at(700)) == expected
