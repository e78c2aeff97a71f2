"""Failures told so well that `kubectl describe` is enough: status, condition, Event."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kit.processes.installation import DISK, SECRET, Body, Job, Tenant, apply, secret_manifest

pytestmark = pytest.mark.slow

WRONG_KEYS = "wrong-keys"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A change that must fail, and how the failure reads."""

    change: Body
    failure_class: str
    reason: str
    words: tuple[str, ...]
    stage: str = "prepare"
    exit_codes: tuple[int | None, ...] = (None,)
    tenant: str = "team-a"


CASES = {
    "bad-image": Case(
        change={"trainer": {"image": "127.0.0.1:5000/no-such-image:1"}},
        failure_class="ImageError",
        reason="ImagePullBackOff",
        words=("no-such-image", "spec.trainer.image"),
    ),
    "bad-credentials": Case(
        change={"output": {"credentialsRef": {"name": WRONG_KEYS}}},
        failure_class="UserError",
        reason="AccessDenied",
        words=(WRONG_KEYS,),
        exit_codes=(64,),
    ),
    "bad-data": Case(
        change={
            "dataset": {
                "sources": [{"uri": "s3://team-a/bad.jsonl", "credentialsRef": {"name": SECRET}}]
            }
        },
        failure_class="DataError",
        reason="",
        words=("dataset.sources[0]", "no known format"),
        exit_codes=(65,),
    ),
    "bad-row": Case(
        change={
            "dataset": {
                "sources": [{"uri": "s3://team-a/row.jsonl", "credentialsRef": {"name": SECRET}}]
            }
        },
        failure_class="DataError",
        reason="InvalidRows",
        words=("row.jsonl:17: ", "set dataset.maxInvalidRows to 1"),
        exit_codes=(65,),
    ),
    "anothers-data": Case(
        change={
            "dataset": {
                "sources": [{"uri": "s3://team-b/rows.jsonl", "credentialsRef": {"name": SECRET}}]
            }
        },
        failure_class="UserError",
        reason="AccessDenied",
        words=("s3://team-b/rows.jsonl", SECRET),
        exit_codes=(64,),
    ),
    "no-gpu": Case(
        change={"resources": {"gpusPerNode": 1}},
        failure_class="UserError",
        reason="",
        words=("GPU",),
        stage="train",
        exit_codes=(64,),
        tenant="strict",
    ),
    # The kernel ends the container's first process, before anything is planned.
    "no-memory": Case(
        change={"resources": {"memory": "64Mi"}, "backoffLimit": 0},
        failure_class="OutOfMemory",
        reason="OOMKilled",
        words=("memory limit of 64Mi", "Raise spec.resources.memory"),
        stage="train",
        exit_codes=(137,),
    ),
    "little-memory": Case(
        change={"resources": {"memory": "300Mi"}, "backoffLimit": 0},
        failure_class="UserError",
        reason="ModelDoesNotFit",
        words=("does not fit", "has 0.3 GiB"),
        stage="train",
        exit_codes=(64,),
    ),
    "no-disk": Case(
        change={
            "hyperparameters": {"maxSteps": 100_000},  # the kubelet looks every ten seconds
            "checkpoint": {"everySteps": 50_000},
            "backoffLimit": 0,
        },
        failure_class="Evicted",
        reason="Evicted",
        words=(
            f"usage exceeds the total limit of containers {DISK}. Have its disk space raised",
            "This counts against backoffLimit",
        ),
        stage="train",
        # The trainer stops when asked to; the kubelet may tell before the container has ended.
        exit_codes=(None, 79, 137),
        tenant="cramped",
    ),
}


@pytest.fixture(scope="module")
def jobs(
    installation: None,
    tenants: dict[str, Tenant],
    spec: Body,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Job]:
    """All of them at once: most end within seconds."""
    team_a = tenants["team-a"]
    path: Path = tmp_path_factory.mktemp("bad") / "bad.jsonl"
    path.write_text('{"prompt": "no answer"}\n' * 20)
    team_a.upload(path, "bad.jsonl")
    rows = [f'{{"prompt": "What is {n}?", "completion": "It is {n}."}}' for n in range(40)]
    rows[16] = '{"prompt": "no answer"}'
    path.write_text("\n".join(rows))
    team_a.upload(path, "row.jsonl")
    keys = {"AWS_ACCESS_KEY_ID": "NOBODY", "AWS_SECRET_ACCESS_KEY": "wrong"}
    apply(team_a.node, secret_manifest(team_a.namespace, WRONG_KEYS, keys))
    return {
        name: tenants[case.tenant].submit(name, spec, case.change) for name, case in CASES.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_failure_says_what_happened_where_and_what_to_do(name: str, jobs: dict[str, Job]) -> None:
    case, job = CASES[name], jobs[name]
    status = job.wait_failed()
    failure = status["lastFailure"]
    assert failure["class"] == case.failure_class, job.report()
    if case.reason:
        assert failure["reason"] == case.reason
    assert failure["stage"] == case.stage
    assert failure.get("exitCode") in case.exit_codes
    assert failure["pod"].startswith(f"{name}-{case.stage}-")
    assert failure["node"] == "devcluster"
    for word in case.words:
        assert word in failure["message"]
    failed = job.condition("Failed")
    assert failed["status"] == "True"
    assert failure["message"] in failed["message"]
    assert job.condition("Stalled")["status"] == "True"
    warnings = [e for e in job.events() if e["type"] == "Warning" and e["reason"] == "Failed"]
    assert any(failure["reason"] in e["message"] for e in warnings)
    counted = [child["status"].get("failed", 0) for child in job.list("jobs")]
    assert max(counted) <= 1  # what cannot pass is not tried again
    assert not status.get("attempts", {}).get("preemptions")
    assert "Retrying" not in [e["reason"] for e in job.events()]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.stage == "prepare"])
def test_what_fails_before_training_gets_no_training_and_kubectl_describe_says_why(
    name: str, jobs: dict[str, Job]
) -> None:
    job = jobs[name]
    job.wait_failed()
    assert [child["metadata"]["name"] for child in job.list("jobs")] == [f"{name}-prepare"]
    described = job.kubectl("describe", "finetunejob", name)
    assert [word for word in CASES[name].words if word not in described] == []


LARGE: Body = {"resources": {"gpusPerNode": 64}, "hyperparameters": {"globalBatchSize": 64}}


def test_a_job_that_no_node_can_take_says_so_and_waits(team_b: Tenant, spec: Body) -> None:
    job = team_b.submit("too-large", spec, LARGE)
    status = job.wait(lambda s: s.get("lastFailure", {}).get("stage") == "train")
    failure = status["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Unschedulable", "Unschedulable")
    assert "Insufficient nvidia.com/gpu" in failure["message"]
    assert job.condition("Training")["reason"] == "Unschedulable"
    assert not job.condition("Failed")
    assert any(e["reason"] == "Unschedulable" for e in job.events())
    job.delete()
