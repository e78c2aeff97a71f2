"""Record Workloads of a real Kueue in every state that the operator tells of.

``PYTHONPATH=tools python tools/record_workloads.py`` starts a control plane with Kueue beside it
(the dev cluster's, compiled here), drives plain Jobs through quotas, preemption, stops, checks and
deactivations, and writes ``tests/kit/cluster/workloads.json``: what Kueue really says, for tests to
replay. Run it again after a new Kueue is pinned.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
OUTPUT = REPOSITORY / "tests/kit/cluster/workloads.json"
API = "kueue.x-k8s.io/v1beta2"
SPACE = "record-kueue"
CHECK = "record-check"
TIMEOUT_SECONDS = 180.0
IMPATIENT = {
    "waitForPodsReady": {
        "timeout": "3s",
        "requeuingStrategy": {"backoffLimitCount": 1, "backoffBaseSeconds": 4},
    }
}

Body = dict[str, Any]
Kubectl = Callable[..., str]


class Recorder:
    """Makes the states one after the other; each ``record`` keeps one Workload."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self.found: dict[str, Body] = {}

    def apply(self, *documents: Body) -> None:
        """Apply objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self._kubectl("apply", "-f", "-", stdin=json.dumps(items))

    def queue(self, name: str, *, cpu: str = "1", checks: bool = False, **spec: Any) -> None:
        """Make a LocalQueue with a ClusterQueue of its own."""
        quota = {"name": "cpu", "nominalQuota": cpu}
        group = {"coveredResources": ["cpu"], "flavors": [{"name": SPACE, "resources": [quota]}]}
        body: Body = {"namespaceSelector": {}, "resourceGroups": [group]}
        if checks:
            body["admissionChecksStrategy"] = {"admissionChecks": [{"name": CHECK}]}
        body |= spec
        self.apply(
            _object("ClusterQueue", f"{SPACE}-{name}", body),
            _object("LocalQueue", name, {"clusterQueue": f"{SPACE}-{name}"}, SPACE),
        )

    def job(self, name: str, queue: str, **labels: str) -> None:
        """Create a queued Job of one CPU."""
        container = {
            "name": "main",
            "image": "finetune-operator.invalid/none",
            "resources": {"requests": {"cpu": "1"}},
        }
        pod = {"restartPolicy": "Never", "containers": [container], "nodeSelector": {"zone": "a"}}
        marks = {f"kueue.x-k8s.io/{key.replace('_', '-')}": text for key, text in labels.items()}
        self.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {
                    "name": name,
                    "namespace": SPACE,
                    "labels": {"kueue.x-k8s.io/queue-name": queue, **marks},
                },
                "spec": {"suspend": True, "template": {"spec": pod}},
            }
        )

    def workload(self, job: str) -> Body | None:
        """Return the Workload of a Job."""
        listed = json.loads(
            self._kubectl("-n", SPACE, "get", "workloads", "-o", "json", "--show-managed-fields")
        )
        for item in listed["items"]:
            if item["metadata"]["ownerReferences"][0]["name"] == job:
                return dict(item)
        return None

    def record(self, name: str, job: str, until: Callable[[Body], bool]) -> None:
        """Wait for a state and keep the Workload."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            found = self.workload(job)
            if found is not None and until(found):
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"{name}: not reached:\n{json.dumps(found, indent=2)}")
            time.sleep(0.2)
        self.found[name] = _kept(found)
        OUTPUT.write_text(json.dumps(self.found, indent=1, sort_keys=True) + "\n")
        print(f"{name}: {[(c['type'], c['status'], c['reason']) for c in conditions(found)]}")

    def patch(self, kind: str, name: str, patch: Body, *options: str) -> None:
        """Merge-patch an object."""
        self._kubectl(
            *("-n", SPACE, "patch", kind, name, "--type=merge", "-p", json.dumps(patch)), *options
        )

    def patch_workload(self, job: str, patch: Body, *options: str) -> None:
        """Merge-patch the Workload of a Job."""
        found = self.workload(job)
        assert found is not None
        self.patch("workload", found["metadata"]["name"], patch, *options)

    def answer_check(self, job: str, state: str, **more: Any) -> None:
        """Answer a Workload's admission check as its controller would."""
        answer = {
            "name": CHECK,
            "state": state,
            "message": "no capacity in this zone" if state != "Ready" else "provisioned",
            # Kueue counts the time until the next try from here.
            "lastTransitionTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **more,
        }
        patch = {"status": {"admissionChecks": [answer]}}
        self.patch_workload(job, patch, "--subresource=status")

    def run(self) -> None:
        """Go through all states."""
        self.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
            _object("ResourceFlavor", SPACE, None),
            _object("AdmissionCheck", CHECK, {"controllerName": "example.com/record"}),
            {
                "apiVersion": API,
                "kind": "WorkloadPriorityClass",
                "metadata": {"name": f"{SPACE}-high"},
                "value": 1000,
            },
        )
        active = {
            "type": "Active",
            "status": "True",
            "reason": "Active",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.patch(
            "admissioncheck", CHECK, {"status": {"conditions": [active]}}, "--subresource=status"
        )
        self._waiting()
        self._preempted()
        self._stopped()
        self._deactivated()
        self._checked()

    def _waiting(self) -> None:
        self.queue("small", cpu="500m")
        self.job("waiting", "small")
        self.record("waiting", "waiting", lambda w: says(w, "QuotaReserved", "False"))
        self.job("no-queue", "nowhere")
        self.record("no local queue", "no-queue", lambda w: says(w, "QuotaReserved", "False"))

    def _preempted(self) -> None:
        self.queue("one", preemption={"withinClusterQueue": "LowerPriority"})
        self.job("low", "one")
        self.record("admitted", "low", lambda w: says(w, "Admitted", "True"))
        self.job("high", "one", priority_class=f"{SPACE}-high")
        self.record(
            "preempted",
            "low",
            lambda w: (
                says(w, "Evicted", "True")
                and "insufficient" in condition(w, "QuotaReserved").get("message", "")
            ),
        )
        self.record("with priority", "high", lambda w: says(w, "Admitted", "True"))
        self._kubectl("-n", SPACE, "delete", "job", "high")
        self.record("admitted again", "low", lambda w: says(w, "Admitted", "True"))

    def _stopped(self) -> None:
        for kind, queue in (("LocalQueue", "stop-local"), ("ClusterQueue", "stop-cluster")):
            self.queue(queue)
            self.job(queue, queue)
            self.record(f"{kind} runs", queue, lambda w: says(w, "Admitted", "True"))
            name = queue if kind == "LocalQueue" else f"{SPACE}-{queue}"
            self.patch(kind.lower(), name, {"spec": {"stopPolicy": "HoldAndDrain"}})
            self.record(
                f"{kind} stopped",
                queue,
                lambda w: says(w, "Evicted", "True") and says(w, "QuotaReserved", "False"),
            )

    def _deactivated(self) -> None:
        self.queue("idle", cpu="9")
        off = {"spec": {"active": False}}
        self.job("by-admin", "idle")
        self.record("before", "by-admin", lambda w: says(w, "Admitted", "True"))
        self.patch_workload("by-admin", off, "--field-manager=kubectl-patch")
        self.record("deactivated by an administrator", "by-admin", is_out)
        self.job("by-us", "idle")
        self.record("before", "by-us", lambda w: says(w, "Admitted", "True"))
        self.patch_workload("by-us", off, "--field-manager=finetune-operator")
        self.record("deactivated by the operator", "by-us", is_out)
        self.patch_workload("by-us", {"spec": {"active": True}}, "--field-manager=kubectl-patch")
        self.record("reactivated", "by-us", lambda w: says(w, "Admitted", "True"))
        self.job("too-long", "idle", max_exec_time_seconds="1")
        self.record("ran too long", "too-long", is_out)

    def _checked(self) -> None:
        self.queue("checked", cpu="9", checks=True)
        for job in ("pending", "rejected", "retried", "conflicting"):
            self.job(job, "checked")
        reserved = lambda w: says(w, "QuotaReserved", "True") and w["status"].get("admissionChecks")  # noqa: E731
        for job in ("pending", "rejected", "retried", "conflicting"):
            self.record(f"check {job}", job, reserved)
        self.answer_check("pending", "Pending")
        self.record("check pending", "pending", reserved)
        self.answer_check("rejected", "Rejected")
        self.record("check rejected", "rejected", is_out)
        self.answer_check("retried", "Retry", requeueAfterSeconds=600)
        self.record(
            "check retried",
            "retried",
            lambda w: bool((w["status"].get("requeueState") or {}).get("requeueAt")),
        )
        update = {"name": "main", "nodeSelector": {"zone": "b"}}
        self.answer_check("conflicting", "Ready", podSetUpdates=[update])
        self.record("failed to start", "conflicting", lambda w: says(w, "Finished", "True"))

    def run_impatient(self) -> None:
        """Go through what a Kueue says that waits for pods; there is nobody to run them."""
        self.queue("impatient", cpu="9")
        self.job("never-ready", "impatient")
        self.record(
            "pods not ready",
            "never-ready",
            lambda w: (
                condition(w, "Evicted").get("reason") == "PodsReadyTimeout"
                and not says(w, "QuotaReserved", "True")
                and bool((w["status"].get("requeueState") or {}).get("requeueAt"))
            ),
        )
        self.record("given up", "never-ready", is_out)


def _kept(workload: Body) -> Body:
    """Return a Workload without what no reader asks for: pods, and who wrote which status."""
    managed = workload["metadata"].get("managedFields", [])
    workload["metadata"]["managedFields"] = [
        entry | {"fieldsV1": {"f:spec": entry["fieldsV1"]["f:spec"]}}
        for entry in managed
        if "f:spec" in entry["fieldsV1"]
    ]
    for entry in workload["metadata"]["managedFields"]:
        entry["fieldsV1"]["f:spec"].pop("f:podSets", None)
    workload["spec"].pop("podSets", None)
    return workload


def _object(kind: str, name: str, spec: Body | None, namespace: str = "") -> Body:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    body: Body = {"apiVersion": API, "kind": kind, "metadata": metadata}
    return body if spec is None else {**body, "spec": spec}


def conditions(workload: Body) -> list[Body]:
    """Return the conditions of a Workload."""
    return list((workload.get("status") or {}).get("conditions") or ())


def condition(workload: Body, kind: str) -> Body:
    """Return one condition; empty if it is not there."""
    return next((c for c in conditions(workload) if c["type"] == kind), {})


def says(workload: Body, kind: str, status: str) -> bool:
    """Return whether a condition has this status."""
    return condition(workload, kind).get("status") == status


def is_out(workload: Body) -> bool:
    """Return whether a Workload is deactivated, and its quota given back."""
    return (
        workload["spec"].get("active") is False
        and condition(workload, "Evicted").get("reason", "").startswith("Deactivated")
        and not says(workload, "QuotaReserved", "True")
    )


def main(arguments: list[str] | None = None) -> int:
    """Record on a control plane of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    sys.path[:0] = [str(REPOSITORY / "tools")]
    from devcluster.kueue.beside import start_kueue
    from devcluster.starting import start_control_plane
    from devcluster.teardown import remove_cluster

    cluster = start_control_plane(owner_pid=os.getpid())
    try:
        recorder = Recorder(cluster.kubectl)
        start_kueue(cluster)
        recorder.run()
        cluster.stop_process("kueue")
        start_kueue(cluster, settings=IMPATIENT)
        recorder.run_impatient()
    finally:
        remove_cluster(cluster.name)
    print(f"wrote {OUTPUT}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
