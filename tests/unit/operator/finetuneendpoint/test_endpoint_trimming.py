"""What is kept of serving pods and Deployments."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.finetuneendpoint.trimming import (
    trim_deployment,
    trim_serving_pod,
    workload_of,
)

SERVER = "fts-0123456789ab"


def pod(**changes: Any) -> dict[str, Any]:
    controller = {"kind": "ReplicaSet", "name": f"{SERVER}-5d8f", "controller": True}
    found: dict[str, Any] = {
        "metadata": {
            "name": f"{SERVER}-5d8f-x",
            "namespace": "team-a",
            "uid": "uid-1",
            "resourceVersion": "7",
            "labels": {"finetune.dev/serving": "server", "finetune.dev/server": SERVER},
            "ownerReferences": [controller],
        },
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    for section, values in changes.items():
        found[section] = {**found.get(section, {}), **values}
    return found


def test_a_running_pod_of_a_deployment_is_asked_at_its_address() -> None:
    trimmed = trim_serving_pod(pod())
    assert (trimmed["deployment"], trimmed["address"]) == (SERVER, "10.0.0.7")
    assert trimmed["isReady"]


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": {"ownerReferences": []}},
        {"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": f"{SERVER}-5d8f"}]}},
        {
            "metadata": {
                "ownerReferences": [{"kind": "Job", "name": f"{SERVER}-x", "controller": True}]
            }
        },
        {
            "metadata": {
                "ownerReferences": [
                    {"kind": "ReplicaSet", "name": "fts-other-5d8f", "controller": True}
                ]
            }
        },
        {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
        {"status": {"phase": "Pending"}},
        {"status": {"podIP": None}},
        {"spec": {"hostNetwork": True}},
    ],
    ids=["nobody's", "not its controller", "a Job's", "another Deployment's", "ending", "pending",
         "without address", "in its node's network"],
)  # fmt: skip
def test_any_other_pod_is_not_asked(changes: dict[str, Any]) -> None:
    assert trim_serving_pod(pod(**changes))["address"] == ""


CRASHED: dict[str, Any] = {"restartCount": 3, "lastState": {"terminated": {"exitCode": 1}}}


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        (
            {
                "initContainerStatuses": [
                    {
                        "name": "engine",
                        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such"}},
                    }
                ]
            },
            "Container engine: ImagePullBackOff: no such",
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: no GPU"}
                ]
            },
            "0/3 nodes: no GPU",
        ),
        (
            {"containerStatuses": [{"name": "agent", "state": {"running": {}}, **CRASHED}]},
            "Container agent has ended 3 times, with exit code 1",
        ),
        ({"containerStatuses": [{"name": "agent", **CRASHED, "ready": True}]}, ""),
        ({"containerStatuses": [{"name": "agent", **CRASHED, "restartCount": 2}]}, ""),
        (
            {
                "containerStatuses": [
                    {"name": "agent", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ]
            },
            "",
        ),
    ],
)
def test_a_workload_tells_why_its_pods_do_not_come_up(status: dict[str, Any], problem: str) -> None:
    deployment = trim_deployment(
        {
            "metadata": {"name": SERVER, "namespace": "team-a", "uid": "u"},
            "spec": {"replicas": 2},
            "status": {"readyReplicas": 1},
        }
    )
    found = workload_of(deployment, [trim_serving_pod(pod(status=status))])
    assert (found.num_ready, found.num_wanted, found.problem) == (1, 2, problem)


def test_a_deployment_that_may_have_no_pods_tells_it() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    trimmed = trim_deployment(
        {"metadata": {"name": SERVER, "namespace": "a"}, "status": {"conditions": [condition]}}
    )
    assert workload_of(trimmed, ()).problem == "exceeded quota"


def test_a_ready_pod_counts_before_its_deployment_tells_it() -> None:
    trimmed = trim_deployment({"metadata": {"name": SERVER, "namespace": "team-a"}})
    assert workload_of(trimmed, [trim_serving_pod(pod())]).is_up
    assert not workload_of(trimmed, ()).is_up


def test_only_endpoints_own_a_deployment_and_no_more_than_can_be_served() -> None:
    owners = [{"kind": "ConfigMap", "name": "x" * 200, "uid": str(n)} for n in range(3)]
    owners += [{"kind": "FineTuneEndpoint", "name": "a", "uid": f"e-{n}"} for n in range(1001)]
    metadata = {"name": SERVER, "namespace": "team-a", "ownerReferences": owners}
    kept = trim_deployment({"metadata": metadata})["metadata"]["ownerReferences"]
    assert [each["uid"] for each in kept] == [f"e-{n}" for n in range(1000)]
