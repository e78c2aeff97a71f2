"""Budget, sweep and metrics read one number for the GPU time of a job."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.holds.cost import gpu_seconds
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.publication.endings import fail
from finetune_operator.finetunejob.state.gpu_time import (
    gpu_time_of_job,
    running_time_of,
    seconds_with_unplaced,
)
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.finetunesweep.trials.trial import read_trial
from finetune_operator.kube.cache.store import Store
from finetune_operator.metrics.jobs import JobMetrics
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    job,
    merged,
    observe,
    running,
    stages_done,
)

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN
NOW_SECONDS = 50_000
GPUS = {"resources": {"nodes": 2, "gpusPerNode": 4}, "evaluation": {"gpus": 1}}
SWEEP = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneSweep", "name": "rates",
         "uid": "uid-rates", "controller": True}  # fmt: skip

seconds = st.integers(min_value=0, max_value=NOW_SECONDS)
moments = seconds.map(lambda each: timestamp(at(each)))


@st.composite
def entries(draw: Any, stage: str) -> dict[str, Any]:
    """Draw an entry of ``status.stages`` as an operator may have left it."""
    fields = {"pastSeconds": seconds, "unplacedSeconds": seconds, "activeSeconds": seconds,
              "runTime": moments, "unplacedSince": moments, "deletedTime": moments,
              "cut": st.fixed_dictionaries({"activeSeconds": seconds})}  # fmt: skip
    chosen = draw(st.sets(st.sampled_from(sorted(fields))))
    entry = {name: draw(fields[name]) for name in sorted(chosen)}
    return {"name": stage, "job": f"rates-t1-{stage}", **entry}


@st.composite
def statuses(draw: Any) -> dict[str, Any]:
    """Draw the status of a job in any of its stages."""
    names = ("prepare", "train", "evaluate", "publish")[: draw(st.integers(0, 4))]
    status: dict[str, Any] = {"stages": [draw(entries(name)) for name in names]}
    if draw(st.booleans()):
        told = draw(st.integers(min_value=0, max_value=500_000))
        status["cost"] = {"gpuHours": f"{Decimal(told) / 1000:.3f}"}
    return status


def trial_of(status: dict[str, Any]) -> dict[str, Any]:
    body = job(**GPUS)
    metadata = {**body["metadata"], "name": "rates-t1", "ownerReferences": [SWEEP]}
    return {**body, "metadata": metadata, "status": status}


def failed_at(body: dict[str, Any], moment: float) -> dict[str, Any]:
    """Return a job as the operator stores it when it fails."""
    step = Step(observe(body), at(moment), CONFIG)
    fail(step, "Internal", "It failed")
    step.draft.put("phase", "Failed")
    return {**body, "status": step.draft.to_wire()}


def counted_by_metrics(body: dict[str, Any], moment: float = NOW_SECONDS) -> float:
    """Return the GPU seconds that the metrics count when they are told of the job's end."""
    caches = SimpleNamespace(finetunejobs=Store(), pods=Store())
    registry = CollectorRegistry()
    clock = SimpleNamespace(now=lambda: at(moment), monotonic=lambda: 0.0)
    JobMetrics(
        caches,  # type: ignore[arg-type]
        registry,
        clock=clock,
        is_leader=lambda: True,
        expects_progress=False,
    )
    versions: tuple[dict[str, Any], ...] = ({}, body["status"])
    for number, (kind, status) in enumerate(zip(("ADDED", "MODIFIED"), versions, strict=True)):
        metadata = {**body["metadata"], "resourceVersion": str(number + 1)}
        caches.finetunejobs.observe(kind, {**body, "metadata": metadata, "status": status})
    labels = {"namespace": body["metadata"]["namespace"]}
    name = "finetune_gpu_seconds_total"
    return sum(
        registry.get_sample_value(name, {**labels, "state": state}) or 0.0
        for state in ("productive", "lost")
    )


@given(statuses())
def test_budget_sweep_and_metrics_read_the_same_gpu_time(status: dict[str, Any]) -> None:
    body = trial_of(status)
    observed = observe(body)
    assert observed.parsed is not None
    budgeted = gpu_seconds(Step(observed, at(NOW_SECONDS), CONFIG), observed.parsed.spec)
    trial = read_trial(body, ())
    assert trial is not None
    in_hours = (Decimal(budgeted) / 3600).quantize(Decimal("0.0001"))
    assert trial.gpu_hours_until(at(NOW_SECONDS)) == in_hours
    for moment in (NOW_SECONDS, NOW_SECONDS + 3600):
        ended = failed_at(body, NOW_SECONDS)
        assert counted_by_metrics(ended, moment) == budgeted
        trial = read_trial(ended, ())
        assert trial is not None
        assert trial.gpu_hours_until(at(moment)) == in_hours


LIMITS: dict[str, dict[str, Any]] = {
    "Pruned": {"prune": True},
    "DeadlineExceeded": {"activeDeadlineSeconds": 1000},
    "BudgetExceeded": {"budget": {"gpuHours": "2"}},
}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_trial_that_was_ended_in_training_uses_nothing_more(kind: str) -> None:
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=running(1000))}, "pods": {TRAIN: ()}},
    )
    body = accepted(trial_of({}))
    body = after(body, plan(observe(body, **known), at(1001), CONFIG))
    body = {**body, "spec": {**body["spec"], **LIMITS[kind]}}
    body = after(body, plan(observe(body, **known), at(2000), CONFIG))
    assert any(each["type"] in ("Pruned", "Failed") for each in body["status"]["conditions"])
    (entry,) = (each for each in body["status"]["stages"] if each["name"] == "train")
    assert (entry["activeSeconds"], entry.get("runTime")) == (1000, None)
    for moment in (2000, 2000 + 3600):
        trial = read_trial(body, ())
        assert trial is not None
        assert trial.gpu_hours_until(at(moment)) == Decimal("2.2222")


def test_a_record_that_an_end_left_open_counts_no_further() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "Internal"}
    body = trial_of(
        {
            "conditions": [failed],
            "cost": {"gpuHours": "2.000"},
            "stages": [{"name": "train", "pastSeconds": 100, "runTime": timestamp(at(0))}],
        }
    )
    assert gpu_time_of_job(body).until(at(NOW_SECONDS)) == 7200


@pytest.mark.parametrize("past", [0, 900])
@pytest.mark.parametrize("moment", [1001, 2000, 9000])
def test_the_record_of_a_running_stage_gives_what_its_job_gives(past: int, moment: int) -> None:
    noted = {"finetune.dev/active-seconds": str(past)} if past else None
    status = running(1000)
    train = child(TRAIN, status=status, annotations=noted)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}, "pods": {TRAIN: ()}})
    body = accepted(job(**GPUS))
    body = after(body, plan(observe(body, **known), at(1001), CONFIG))
    observed = observe(body, **known)
    assert observed.parsed is not None
    live = gpu_seconds(Step(observed, at(moment), CONFIG), observed.parsed.spec)
    assert live == gpu_time_of_job(body).until(at(moment))
    assert live == pytest.approx(8 * (past + moment - 1000), abs=8)


@pytest.mark.parametrize(("deleted", "expected"), [(700, 1100), (None, 1400)])
def test_a_job_that_is_made_again_keeps_the_time_of_the_run_before(
    deleted: int | None, expected: int
) -> None:
    entry = {"pastSeconds": 500, "runTime": timestamp(at(100))}
    if deleted is not None:
        entry["deletedTime"] = timestamp(at(deleted))
    unplaced = {"unplacedSeconds": 40, "unplacedSince": timestamp(at(600))}
    assert seconds_with_unplaced({**entry, **unplaced}, at(1000)) == expected
    assert running_time_of(entry).until(at(1000)) == expected


def test_the_account_does_not_fall_below_what_was_told() -> None:
    body = trial_of({"cost": {"gpuHours": "2.000"}, "stages": [{"name": "train"}]})
    assert gpu_time_of_job(body).until(at(0)) == 7200
