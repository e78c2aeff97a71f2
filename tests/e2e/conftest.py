"""One cluster, one installation and two tenants for all end-to-end tests."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.cluster.chart import NAMESPACE, RELEASE
from kit.cluster.devcluster import Node
from kit.models.tiny_models import make_model
from kit.processes.audit_log import AuditLog
from kit.processes.installation import Body, Tenant, helm, install_operator, limit_disk
from kit.processes.stages import Workbench, write_rows

BUCKETS = {"team-a": "team-a", "team-b": "team-b", "strict": "team-a", "cramped": "team-a"}
SERVING = {"frontCpu": "150m", "frontMemory": "256Mi", "agentCpu": "150m", "agentMemory": "512Mi"}
"""Fronts and servers, two of each, leave room for a job on the smallest host."""
STRICT_RELEASE = "finetune-strict"  # its own names and Lease: two installations side by side


@pytest.fixture(scope="session")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """The tiny model, its rows and the job that all tests vary."""
    folder = tmp_path_factory.mktemp("materials")
    return Workbench(
        folder=folder,
        model=make_model(folder / "model"),
        data=write_rows(folder / "rows.jsonl"),
    )


@pytest.fixture(scope="session")
def spec(materials: Workbench) -> Body:
    """The spec of those jobs; tenants put in their own storage."""
    return materials.spec()


@pytest.fixture(scope="session")
def tenants(
    node_cluster: Node,
    materials: Workbench,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Tenant]]:
    """Namespaces by name: `strict` has an operator that allows no CPU, `cramped` little disk."""
    suffix = secrets.token_hex(2)
    found = {}
    for name, bucket in BUCKETS.items():
        folder: Path = tmp_path_factory.mktemp(f"credentials-{name}")
        tenant = Tenant.create(node_cluster, f"e2e-{name}-{suffix}", bucket, folder)
        tenant.upload(materials.model, "model")
        tenant.upload(materials.data, "rows.jsonl")
        found[name] = tenant
    limit_disk(found["cramped"])
    yield found
    for tenant in found.values():
        node_cluster.kubectl("delete", "namespace", tenant.namespace, "--wait=false")


@pytest.fixture(scope="session")
def audit(node_cluster: Node) -> AuditLog | None:
    """What the API server is asked from now on; None if it keeps no log."""
    if not node_cluster.audit_log.exists():
        return None
    log = AuditLog(node_cluster.audit_log)
    log.mark()
    return log


@pytest.fixture(scope="session")
def installation(
    kueue: Node,
    project_images: dict[str, str],
    tenants: dict[str, Tenant],
    audit: AuditLog | None,  # from before the first operator started
) -> Iterator[None]:
    """The operator from its own image, twice: once with and once without leave to use the CPU."""
    plans = ((RELEASE, ("team-a", "team-b", "cramped"), True), (STRICT_RELEASE, ("strict",), False))
    for release, names, allow_cpu in plans:
        install_operator(
            kueue,
            project_images,
            release=release,
            namespaces=[tenants[name].namespace for name in names],
            allow_cpu=allow_cpu,
            config=SERVING,
        )
    yield
    for release, _, _ in plans:
        helm(kueue, "uninstall", release, "--namespace", NAMESPACE)


@pytest.fixture(scope="session")
def team_a(installation: None, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["team-a"]


@pytest.fixture(scope="session")
def team_b(installation: None, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["team-b"]


@pytest.fixture(scope="session")
def strict(installation: None, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["strict"]
