"""A FineTuneEndpoint of a tenant on a node, as its user sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from kit.cluster.chart import NAMESPACE
from kit.cluster.devcluster import DevclusterError
from kit.processes.eventually import eventually
from kit.processes.installation import OPERATOR_LABEL, POLL_SECONDS, Bodies, Body, Tenant, apply

SERVING = "finetune.dev/serving"
"""Label of serving pods: ``front`` or ``server``."""
SETTLE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One FineTuneEndpoint."""

    tenant: Tenant
    name: str

    @classmethod
    def create(cls, tenant: Tenant, name: str, spec: Body) -> Endpoint:
        """Apply an endpoint that follows the job of its own name."""
        document = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "metadata": {"name": name, "namespace": tenant.namespace},
            "spec": {"jobRef": {"name": name}, **spec},
        }
        apply(tenant.node, document)
        return cls(tenant=tenant, name=name)

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the endpoint's namespace."""
        return self.tenant.node.kubectl("-n", self.tenant.namespace, *arguments)

    def get(self) -> Body:
        """Return the object."""
        found: Body = json.loads(self.kubectl("get", "fte", self.name, "-o", "json"))
        return found

    def edit(self, **spec: object) -> None:
        """Change fields of the spec; None removes one."""
        self.kubectl(
            *("patch", "fte", self.name, "--type=merge", "-p", json.dumps({"spec": spec})),
        )

    def pods(self, role: str) -> Bodies:
        """Return the serving pods of a role."""
        selector = f"{SERVING}={role}"
        found: Bodies = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))[
            "items"
        ]
        return found

    def wait(self, is_so: Callable[[Body], object], timeout: float = SETTLE_SECONDS) -> Body:
        """Wait until the status is as asked for; a failure tells all there is to know."""

        def look() -> Body | None:
            status: Body = self.get().get("status") or {}
            return status if is_so(status) else None

        try:
            return eventually(look, timeout, interval=POLL_SECONDS) or {}
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def delete(self) -> None:
        """Delete it, and wait until no serving pod holds anything."""
        self.kubectl("delete", "fte", self.name, "--wait=false")

        def is_gone() -> bool:
            pods = self.pods("front") + self.pods("server")
            if pods and all("deletionTimestamp" in pod["metadata"] for pod in pods):
                names = [pod["metadata"]["name"] for pod in pods]
                self.kubectl("delete", "pod", *names, "--force", "--ignore-not-found")
            return not pods

        eventually(is_gone, timeout=60, interval=1)

    def report(self) -> str:
        """Describe the endpoint, its pods and what they and the operator have said."""
        parts = []
        for arguments in (
            ("get", "fte", self.name, "-o", "yaml"),
            ("get", "pods,deployments", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("logs", "-l", SERVING, "--all-containers", "--tail=40", "--prefix"),
            ("-n", NAMESPACE, "logs", "-l", OPERATOR_LABEL, "--tail=40", "--prefix"),
        ):
            try:
                output = self.kubectl(*arguments)
            except DevclusterError as error:
                output = str(error)
            parts.append(f"--- kubectl {' '.join(arguments)}\n{output[-12_000:]}")
        return "\n".join(parts)


def condition(status: Body, kind: str) -> Body:
    """Return a condition; empty if it is not there."""
    found = [each for each in status.get("conditions", ()) if each["type"] == kind]
    return found[0] if found else {}


def serves(version: int) -> Callable[[Body], bool]:
    """Return whether a version has all requests."""

    def is_so(status: Body) -> bool:
        is_active = (status.get("active") or {}).get("version") == version
        is_available = condition(status, "Available").get("status") == "True"
        return is_active and not status.get("candidate") and is_available

    return is_so


def rejects(version: int) -> Callable[[Body], bool]:
    """Return whether a version was rejected."""
    return lambda status: any(each["version"] == version for each in status.get("rejected", ()))
