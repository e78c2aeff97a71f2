"""Start a cluster: nothing of a start that fails is left behind, except its logs."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from devcluster import host
from devcluster.control_plane.controlplane import ControlPlane, ControlPlaneOptions
from devcluster.errors import DevclusterError, StartError, StateError
from devcluster.node.node import Node, NodeOptions
from devcluster.paths import cache_root, cluster_dir, kubelet_root, socket_root
from devcluster.process import start_ticks
from devcluster.programs.binaries import NODE, ensure_built
from devcluster.progress import say
from devcluster.state import ClusterState, load_state
from devcluster.teardown import remove_cluster, remove_orphans


def start_control_plane(
    name: str | None = None,
    options: ControlPlaneOptions | None = None,
    *,
    owner_pid: int | None = None,
) -> ControlPlane:
    """Start a control plane of its own name, folder and ports.

    Args:
        name: Cluster name; None makes a unique one.
        options: Differences from the default.
        owner_pid: Process the cluster belongs to: once it is gone, the next start or
            ``down --all`` removes the cluster. None for a cluster that stays.

    Raises:
        HostUnfitError: this host cannot.
        StartError: a component did not start.
    """
    host.require(host.unfit_for_control_plane())
    remove_orphans()
    options = _without_missing_programs(options or ControlPlaneOptions())
    state = _new_state(name or f"cp-{secrets.token_hex(4)}", "control-plane", owner_pid)
    control_plane = ControlPlane(state, options)
    _start(control_plane)
    return control_plane


def start_node(
    name: str | None = None, options: NodeOptions | None = None, *, owner_pid: int | None = None
) -> Node:
    """Start the node cluster of this host.

    Args:
        name: Cluster name; None makes a unique one.
        options: Differences from the default.
        owner_pid: As in `start_control_plane`.

    Raises:
        HostUnfitError: this host cannot, or runs one already.
        StartError: a part did not start.
    """
    host.require(host.unfit_for_node())
    remove_orphans()
    host.install_packages(host.NODE_PROGRAMS)
    for build in NODE:
        ensure_built(build)
    state = _new_state(name or f"node-{secrets.token_hex(2)}", "node", owner_pid)
    for folder in (socket_root(state.name), kubelet_root(state.name)):
        shutil.rmtree(folder, ignore_errors=True)
    node = Node(state, options or NodeOptions())
    _start(node)
    return node


def _new_state(name: str, profile: str, owner_pid: int | None) -> ClusterState:
    if load_state(cluster_dir(name)) is not None:
        raise StateError(f"a cluster called {name} exists already; stop it first")
    return ClusterState(
        name=name,
        profile=profile,
        owner_pid=owner_pid,
        owner_start_ticks=start_ticks(owner_pid) if owner_pid is not None else None,
    )


def _start(cluster: ControlPlane) -> None:
    cluster.save()
    try:
        cluster.start()
        cluster.state.ready = True
        cluster.save()
    except BaseException as error:
        if isinstance(error, DevclusterError):
            error.add_note(_keep_logs(cluster.folder))
        remove_cluster(cluster.name)
        raise


def _keep_logs(folder: Path) -> str:
    """Copy the logs of a failed start aside, where ``down`` does not delete them."""
    kept = cache_root() / "failed" / folder.name
    shutil.rmtree(kept, ignore_errors=True)
    if not (folder / "logs").is_dir():
        return "nothing was started"
    shutil.copytree(folder / "logs", kept)
    return f"logs kept in {kept}"


def _without_missing_programs(options: ControlPlaneOptions) -> ControlPlaneOptions:
    """Envtest's assets hold no controller-manager, and without Go none can be built."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or (Path(assets) / "kube-controller-manager").exists() or host.go_program():
        return options
    if options.controllers not in (None, "*"):
        raise StartError(
            f"controllers {options.controllers!r} were asked for, but KUBEBUILDER_ASSETS={assets} "
            "has no kube-controller-manager and there is no Go to build one"
        )
    say("no kube-controller-manager in KUBEBUILDER_ASSETS and no Go: going on without one")
    return replace(options, controllers=None)
