"""Fixtures for tests on a real Kubernetes.

* `control_plane`: one API server with controller-manager for each folder of tests, which keep to
  namespaces of their own (`namespace`). USE_EXISTING_CLUSTER=1 takes the current context instead.
* `control_plane_factory`: private ones, for tests that restart the API server, read its audit log
  or start no controller-manager.
* `node_cluster`: a node that runs pods, one per host. A cluster that `up` started is used and left
  running; otherwise the session starts and removes its own.

Each skips with the reason where the host cannot do it.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devcluster import (
    ControlPlane,
    ControlPlaneOptions,
    DevclusterError,
    ExistingCluster,
    Node,
    NodeOptions,
    cluster_dir,
    create_control_plane_certificates,
    ensure_base_image,
    ensure_built,
    go_program,
    install_kueue,
    load_images,
    load_state,
    load_variant,
    program,
    pull_image,
    push_image,
    remove_cluster,
    run,
    runtime_of,
    start_control_plane,
    start_kueue,
    start_node,
    start_ticks,
    unfit_for_control_plane,
    unfit_for_node,
    use_existing_cluster,
    write_certificates,
)

__all__ = [
    "Cluster", "ControlPlane", "DevclusterError", "Node", "base_image", "control_plane",
    "control_plane_factory", "create_control_plane_certificates", "ensure_built", "go_program",
    "kueue", "load_variant", "namespace", "node_cluster", "private_control_plane", "program",
    "project_images", "remove_cluster", "run", "shared_control_planes",
    "skip_where_unfit_for_control_plane", "start_control_plane", "start_kueue",
    "start_ticks", "use_existing_cluster", "write_certificates",
]  # fmt: skip

Cluster = ControlPlane | ExistingCluster
NODE_NAME = "node"  # what `up` calls it
ControlPlaneFactory = Callable[..., ControlPlane]


@pytest.fixture(scope="session")
def control_plane_factory() -> Iterator[ControlPlaneFactory]:
    """Starts private control planes: ``control_plane_factory(audit_log=True, controllers=None)``.

    The arguments are those of `ControlPlaneOptions`. Whatever a test does not remove itself
    (`remove_cluster`) goes at the end of the session.
    """
    _skip_where_unfit(unfit_for_control_plane())
    started: list[str] = []

    def start(**options: object) -> ControlPlane:
        cluster = start_control_plane(options=ControlPlaneOptions(**options), owner_pid=os.getpid())  # type: ignore[arg-type]
        started.append(cluster.name)
        return cluster

    yield start
    for name in started:
        remove_cluster(name)


@pytest.fixture(scope="session")
def shared_control_planes() -> dict[Path, ControlPlane]:
    """The API server that tests share, by their folder; one that nobody asks still computes."""
    return {}


@pytest.fixture(scope="module")
def control_plane(
    request: pytest.FixtureRequest, shared_control_planes: dict[Path, ControlPlane]
) -> Cluster:
    """The folder's shared API server: ``.kubeconfig .url .kubectl(...)``."""
    if use_existing_cluster():
        return ExistingCluster()
    folder = request.path.parent
    if folder not in shared_control_planes:
        while shared_control_planes:
            remove_cluster(shared_control_planes.popitem()[1].name)
        factory: ControlPlaneFactory = request.getfixturevalue("control_plane_factory")
        shared_control_planes[folder] = factory()
    return shared_control_planes[folder]


@pytest.fixture
def private_control_plane(control_plane_factory: ControlPlaneFactory) -> Iterator[ControlPlane]:
    """A control plane of this test alone: stop, start, pause and resume its API server."""
    cluster = control_plane_factory(audit_log=True)
    yield cluster
    remove_cluster(cluster.name)


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A fresh namespace on `control_plane`, deleted afterwards without waiting."""
    name = f"test-{secrets.token_hex(4)}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    control_plane.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    yield name
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def node_cluster() -> Iterator[Node]:
    """This host's node cluster, as yet without Kueue (`kueue` brings it).

    ``.object_store`` has endpoint and keys, ``.registry`` the address for images, and
    ``.image("trainer")`` what ``load`` put there. One of the session's own has an audit log.
    """
    if use_existing_cluster():
        pytest.skip(
            "needs the dev cluster's own registry and object store, not an existing cluster"
        )
    _skip_where_unfit(unfit_for_node())
    state = load_state(cluster_dir(NODE_NAME))
    if state is not None and state.ready:
        node = Node(state, NodeOptions())
        if node.is_ready():
            yield node  # started by `up`: not ours to remove
            return
    node = start_node(options=NodeOptions(audit_log=True), owner_pid=os.getpid())
    yield node
    remove_cluster(node.name)


@pytest.fixture(scope="session")
def kueue(node_cluster: Node) -> Node:
    """The node cluster with Kueue on it; built the first time, which takes about two minutes."""
    install_kueue(node_cluster)
    return node_cluster


@pytest.fixture(scope="session")
def base_image(node_cluster: Node) -> str:
    """A plain Debian with Python, on the node: for pods that need no project image."""
    reference = f"{node_cluster.registry}/base:test"
    push_image(ensure_base_image(), reference)
    pull_image(runtime_of(node_cluster.name), reference)
    return reference


@pytest.fixture(scope="session")
def project_images(node_cluster: Node) -> dict[str, str]:
    """References of the project's images, built from this working tree and on the node."""
    return load_images(node_cluster.state)


def skip_where_unfit_for_control_plane() -> None:
    """Skip the test where no control plane can run."""
    _skip_where_unfit(unfit_for_control_plane())


def _skip_where_unfit(reason: str | None) -> None:
    if reason is not None:
        pytest.skip(reason)
