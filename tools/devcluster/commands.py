"""The verbs of the command line, one function each."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from typing import Any, TypeVar

from devcluster import host
from devcluster.control_plane.controlplane import ControlPlane, ControlPlaneOptions
from devcluster.errors import StateError
from devcluster.existing import ExistingCluster, use_existing_cluster
from devcluster.paths import cache_root, cluster_dir
from devcluster.process import is_alive, processes_of_ended_runs, stop
from devcluster.programs import binaries
from devcluster.progress import say, step
from devcluster.starting import start_control_plane
from devcluster.state import ClusterState, load_state, starting_or_stopping
from devcluster.teardown import cluster_names, remove_cluster, remove_orphans

Cluster = TypeVar("Cluster", bound=ControlPlane)

DEFAULT_NAMES = {"control-plane": "control-plane", "node": "node"}


def up(arguments: argparse.Namespace) -> int:
    """Start a cluster of the profile, unless one of that name runs already."""
    if use_existing_cluster():
        existing = ExistingCluster()
        say(f"USE_EXISTING_CLUSTER is set: context {existing.name} at {existing.url}")
        print(f"export KUBECONFIG={existing.kubeconfig}")
        return 0
    name = arguments.name or DEFAULT_NAMES[arguments.profile]
    with starting_or_stopping(name):
        cluster = (
            _up_node(name, arguments)
            if arguments.profile == "node"
            else _up_control_plane(name, ControlPlaneOptions(audit_log=arguments.audit_log))
        )
    for key, value in cluster.state.values.items():
        say(f"  {key:<22} {value}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def down(arguments: argparse.Namespace) -> int:
    """Remove one cluster, or all."""
    if use_existing_cluster() and not arguments.all:
        say("USE_EXISTING_CLUSTER is set: that cluster is not ours to remove")
        return 0
    names = cluster_names() if arguments.all else [arguments.name or DEFAULT_NAMES["node"]]
    for name in names:
        with starting_or_stopping(name), step(f"removing {name}"):
            if not remove_cluster(name):
                say(f"no cluster called {name}")
    if arguments.purge:
        for folder in ("containerd", "registry", "images", "failed"):
            shutil.rmtree(cache_root() / folder, ignore_errors=True)
        say("deleted cached images (built programs stay)")
    return 0


def tidy(arguments: argparse.Namespace) -> int:
    """Remove what test runs that were killed have left, and nothing else."""
    for name in remove_orphans():
        say(f"removed {name}, whose test run is gone")
    left = processes_of_ended_runs(*arguments.ended)
    for record in left:
        stop(record, grace_seconds=0)
    if left:
        say(f"ended processes that a test run had left: {len(left)}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """Say what runs; 0 if at least one cluster is up and none is broken."""
    report = [_describe(name) for name in cluster_names()]
    if arguments.json:
        print(json.dumps(report, indent=1))
    elif not report:
        print("no cluster; start one with `python -m devcluster up`")
    else:
        for entry in report:
            print(f"{entry['name']} ({entry['profile']}): {entry['health']}")
            for key, value in entry["values"].items():
                print(f"  {key:<22} {value}")
            for process in entry["processes"]:
                print(f"  {process['name']:<22} pid {process['pid']:<8} {process['health']}")
    return 0 if report and all(entry["health"] == "ready" for entry in report) else 1


def load(arguments: argparse.Namespace) -> int:
    """Build the project's images and push them to the registry of the node cluster."""
    from devcluster.node.images import load_images

    state = load_state(cluster_dir(DEFAULT_NAMES["node"]))
    if state is None or not state.ready:
        raise StateError("no node cluster to load images into; `python -m devcluster up` first")
    for name, reference in load_images(state, arguments.images, tag=arguments.tag).items():
        print(f"{name}={reference}")
    return 0


def build(arguments: argparse.Namespace) -> int:
    """Fill the cache of binaries, and of images if asked."""
    node = arguments.profile == "node"
    host.require(host.unfit_for_node() if node else host.unfit_for_control_plane())
    if node:
        host.install_packages(host.NODE_PROGRAMS)
    names = binaries.NODE if node else binaries.CONTROL_PLANE
    for name in (*names, *arguments.also):
        say(f"{name}: {binaries.ensure_built(name)}")
    if arguments.images:
        from devcluster.node.images import build_images

        for name, identity in build_images().items():
            say(f"image {name}: {identity}")
    return 0


def which(arguments: argparse.Namespace) -> int:
    """Print where a program lies."""
    print(binaries.program(arguments.program))
    return 0


def _up_node(name: str, arguments: argparse.Namespace) -> ControlPlane:
    from devcluster.kueue.install import install_kueue
    from devcluster.node.node import Node, NodeOptions
    from devcluster.starting import start_node

    options = NodeOptions(
        num_gpus=arguments.gpus, audit_log=arguments.audit_log, internet=arguments.internet
    )
    node = _running(name, lambda state: Node(state, options)) or start_node(name, options)
    if arguments.kueue:
        install_kueue(node)
    return node


def _up_control_plane(name: str, options: ControlPlaneOptions) -> ControlPlane:
    found = _running(name, lambda state: ControlPlane(state, options))
    if found is not None:
        return found
    with step(f"starting control plane {name}"):
        return start_control_plane(name, options)


def _running(name: str, attach: Callable[[ClusterState], Cluster]) -> Cluster | None:
    """The running cluster `name`; None after removing what is left of a broken one."""
    state = load_state(cluster_dir(name))
    if state is None and name not in cluster_names():
        return None
    if state is not None and state.ready:
        cluster = attach(state)
        if cluster.is_ready():
            say(f"{name} is running already")
            return cluster
    say(f"{name} was left broken: removing it first")
    remove_cluster(name)
    return None


def _describe(name: str) -> dict[str, Any]:
    try:
        state = load_state(cluster_dir(name))
    except StateError as error:
        return _broken(name, str(error))
    if state is None:
        return _broken(name, "no record; `down --all` removes it")
    return {
        "name": name,
        "profile": state.profile,
        "health": _health(state),
        "values": state.values,
        "processes": [
            {
                "name": p.name,
                "pid": p.pid,
                "health": "runs" if is_alive(p) else f"ended, see {p.log}",
            }
            for p in state.processes
        ],
    }


def _broken(name: str, why: str) -> dict[str, Any]:
    return {"name": name, "profile": "?", "health": why, "values": {}, "processes": []}


def _health(state: ClusterState) -> str:
    if not state.ready:
        return "starting, or its start was cut off"
    ended = [process.name for process in state.processes if not is_alive(process)]
    if ended:
        return f"broken: {', '.join(ended)} ended"
    ready = ControlPlane(state, ControlPlaneOptions()).client().ready()
    return "ready" if ready else "the API server does not answer"
