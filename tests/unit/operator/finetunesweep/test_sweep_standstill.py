"""A sweep in which nothing comes further is told, with what it waits for; one at work is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_operator.finetunesweep.trials.standstill import find_standstill
from finetune_operator.kube.queue.workers import RequeueAfter
from finetune_operator.metrics.sweeps import SweepMetrics
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import NOW, at
from kit.builders.sweeps import NAME, NAMESPACE, UID, SweepWorld
from kit.processes.clock import FakeClock
from unit.operator.progress.test_job_metrics import condition

Object = dict[str, Any]
HOUR = 3600.0


def sweep(**change: Any) -> Object:
    metadata = {
        "name": NAME,
        "namespace": NAMESPACE,
        "uid": UID,
        "creationTimestamp": timestamp(NOW),
    }
    status = {"phase": "Searching", "reason": "Searching"}
    return {"metadata": metadata, "spec": {}, "status": status, **change}


def trial(phase: str, *conditions: Object, owner: str = UID, **status: Any) -> Object:
    metadata = {
        "name": f"{NAME}-t1", "namespace": NAMESPACE, "creationTimestamp": timestamp(NOW),
        "ownerReferences": [{"controller": True, "uid": owner}],
    }  # fmt: skip
    told = {"phase": phase, "conditions": list(conditions), **status}
    return {"metadata": metadata, "spec": {"holdAfter": "Train"}, "status": told}


def training(heartbeat: float | None) -> Object:
    told = {} if heartbeat is None else {
        "progress": {"stage": "train", "lastHeartbeatTime": timestamp(at(heartbeat))}
    }  # fmt: skip
    return trial("Training", condition("Training", "True", "Running", 60), **told)


def held(since: float) -> Object:
    return trial("Suspended", condition("Suspended", "True", "SuspendedByUser", since))


QUEUED = trial("Queued", condition("QuotaReserved", "False", "Pending", 60))
UNPLACED = trial("Training", condition("Training", "False", "Unschedulable", 60))
APPROVAL = trial("AwaitingApproval", condition("DataApproved", "False", "ApprovalRequired", 600))
TRAINED = trial("AwaitingSelection", condition("Evaluated", "False", "HeldAfterTraining", 1800))
FAILED = trial("Failed", condition("Failed", "True", "UserError", 3000))


@pytest.mark.parametrize(
    ("trials", "reason", "seconds"),
    [
        ([QUEUED, QUEUED], "Queued", HOUR - 60),
        ([APPROVAL], "AwaitingApproval", HOUR - 600),
        ([UNPLACED, QUEUED], "NotStarting", HOUR - 60),
        ([training(900), TRAINED], "Silent", HOUR - 1800),  # the last to end moved last
        ([training(900), FAILED], "Silent", HOUR - 3000),
        ([training(2000), UNPLACED], "Silent", HOUR - 2000),
        ([held(700), TRAINED], "Suspended", HOUR - 1800),
        ([held(2900), training(900)], "Silent", HOUR - 2900),  # one that waits at a rung for it
        ([TRAINED, FAILED], "Searching", HOUR - 3000),
        ([], "Searching", HOUR),
    ],
)
def test_what_moved_last_says_since_when_and_why(
    trials: list[Object], reason: str, seconds: float
) -> None:
    found = find_standstill(sweep(), trials, at(HOUR))
    assert found is not None
    assert (found.reason, found.seconds) == (reason, seconds)


@pytest.mark.parametrize(
    ("change", "trials"),
    [
        ({}, [QUEUED, training(None)]),  # trains, and its reports do not arrive
        ({}, [QUEUED, trial("Evaluating", condition("Evaluated", "False", "Evaluating", 60))]),
        ({"spec": {"suspend": True}}, [held(60)]),
        ({"status": {"conditions": [condition("Complete", "True", "Published")]}}, [FAILED]),
    ],
)
def test_what_works_is_suspended_or_has_ended_does_not_stand_still(
    change: Object, trials: list[Object]
) -> None:
    assert find_standstill(sweep(**change), trials, at(99 * HOUR)) is None


def test_jobs_that_only_bear_the_label_are_none_of_its_trials() -> None:
    found = find_standstill(sweep(), [trial("Training", owner="another")], at(HOUR))
    assert found is not None
    assert found.reason == "Searching"


def test_a_reason_that_nobody_listed_makes_no_series_of_its_own() -> None:
    refused = sweep(status={"reason": "QuotaOf-7f3a"})
    assert find_standstill(refused, [], at(HOUR)).reason == "Other"  # type: ignore[union-attr]
    assert find_standstill(sweep(status={}), [], at(HOUR)).reason == ""  # type: ignore[union-attr]


def test_few_series_are_told_the_longest_standstills() -> None:
    many = []
    for number in range(150):
        created = timestamp(at(number))
        metadata = {**sweep()["metadata"], "name": f"s{number}", "creationTimestamp": created}
        many.append(sweep(metadata=metadata))
    store = SimpleNamespace(objects=lambda: many)
    sweeps = SimpleNamespace(informer=SimpleNamespace(store=store), trials_of=lambda key: [])

    def told(seconds: float) -> list[str]:
        clock = FakeClock(at(seconds))
        metrics = SweepMetrics(sweeps, CollectorRegistry(), clock=clock)  # type: ignore[arg-type]
        *_, waiting = metrics.collect()
        return [sample.labels["finetunesweep"] for sample in waiting.samples]

    assert len(told(449)) == 100
    assert told(449)[0] == "s0"
    assert told(299) == []


async def test_a_sweep_whose_trials_never_start_is_told_to_prometheus() -> None:
    registry = CollectorRegistry()
    world = SweepWorld()
    SweepMetrics(world.caches.sweeps, registry, clock=world.clock)
    await world.reconcile()

    def value() -> float | None:
        labels = {"namespace": NAMESPACE, "finetunesweep": NAME, "reason": "NotStarting"}
        return registry.get_sample_value("finetune_sweep_waiting_seconds", labels)

    assert value() is None
    world.clock.advance(HOUR)
    assert value() == HOUR


async def test_a_sweep_that_stands_still_says_since_when_and_goes_on_by_itself() -> None:
    world = SweepWorld()
    result = await world.reconcile()
    assert isinstance(result, RequeueAfter)
    assert result.seconds == 2 * HOUR
    world.clock.advance(2 * HOUR)
    for _ in range(2):
        await world.reconcile()
    progressing = world.condition("Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "NoHeadway")
    since = f"No trial has begun, reported or ended since {timestamp(NOW)}"
    assert f"{since}: {NAME}-t1 waits (NotStarting)." in progressing["message"]
    assert world.status["reason"] == "NoHeadway"
    assert [reason for reason, _ in world.recorder.events].count("NoHeadway") == 1
    await world.live()
    assert world.status["phase"] == "Succeeded"
