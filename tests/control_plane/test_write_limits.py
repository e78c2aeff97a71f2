"""The chart's API priority and fairness on a real API server: what it holds, and whom not."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from control_plane.test_approvals import User, bind
from kit.cluster.chart import chart_objects, install_crd
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually

KINDS = ("ClusterRole", "FlowSchema", "PriorityLevelConfiguration")
TENANT = "tenant@example.org"
_HEADER = re.compile(r"^.*X-Kubernetes-Pf-(Flowschema|Prioritylevel)-Uid: (\S+)", re.MULTILINE)


@pytest.fixture
def tenant(control_plane, namespace):
    """A user with `edit` in one namespace, on a cluster with the chart's limits."""
    install_crd(control_plane)
    with chart_objects(control_plane, namespace, lambda each: each["kind"] in KINDS):
        bind(control_plane, namespace, TENANT, "edit")
        yield User(control_plane, namespace, TENANT)


def uids_of(control_plane, kind: str) -> dict[str, str]:
    listed = json.loads(control_plane.kubectl("get", kind, "-o", "json"))
    return {each["metadata"]["uid"]: each["metadata"]["name"] for each in listed["items"]}


def level_of(control_plane, user: User, *arguments: str, body: dict | None = None) -> str:
    """Return the name of the FlowSchema that the API server put a request under."""
    from kit.cluster.devcluster import program

    command = [str(program("kubectl")), "--kubeconfig", str(user.kubeconfig), "-v=8", *arguments]
    done = subprocess.run(
        command, input=json.dumps(body), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(_HEADER.findall(done.stderr))
    return uids_of(control_plane, "flowschemas").get(found["Flowschema"], "")


def test_a_tenants_writes_of_our_kinds_wait_in_queues_of_their_own(
    control_plane, namespace, tenant
):
    body = finetunejob("one", namespace)
    create = ("-n", namespace, "create", "--dry-run=server", "--validate=false", "-f", "-")
    limited = f"{namespace}-finetune-operator-tenants"
    eventually(
        lambda: level_of(control_plane, tenant, *create, body=body) == limited,
        timeout=30,
        interval=0.3,
    )
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}}
    assert level_of(control_plane, tenant, *create, body=config) != limited
    reading = ("-n", namespace, "get", "finetunejobs")
    assert level_of(control_plane, tenant, *reading) != limited


def test_a_namespace_has_its_own_queue_and_few_seats(control_plane, namespace, tenant):
    name = f"{namespace}-finetune-operator-tenants"
    schema = json.loads(control_plane.kubectl("get", "flowschema", name, "-o", "json"))
    assert schema["spec"]["distinguisherMethod"] == {"type": "ByNamespace"}
    assert schema["spec"]["priorityLevelConfiguration"]["name"] == name

    def seats() -> float:
        metrics = control_plane.kubectl("get", "--raw", "/metrics")
        pattern = (
            r'apiserver_flowcontrol_nominal_limit_seats\{priority_level="'
            + re.escape(name)
            + r'"\} (\S+)'
        )
        return float((re.search(pattern, metrics) or [0, 0])[1])

    eventually(lambda: 1 <= seats() <= 4, timeout=30, interval=0.3)
