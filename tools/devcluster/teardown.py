"""Remove a cluster and every trace of it, whatever state a crash left it in."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from devcluster import process
from devcluster.errors import StateError
from devcluster.node.removal import remove_node_parts
from devcluster.paths import cluster_dir, state_root
from devcluster.ports import PortClaims
from devcluster.state import ClusterState, load_state, locked

# Stopped first to last; what is not named goes before etcd, newest first.
_LAST = ("kube-apiserver", "etcd")
# A start writes its record at once: a folder that has none for so long is left of a removal.
_NO_RECORD_SECONDS = 60.0


def cluster_names() -> list[str]:
    """Names of all clusters with a folder, running or not."""
    clusters = state_root() / "clusters"
    return sorted(each.name for each in clusters.iterdir()) if clusters.is_dir() else []


def remove_cluster(name: str) -> bool:
    """Stop and delete the cluster `name`; returns whether there was one.

    Raises:
        StateError: its folder cannot be deleted.
    """
    folder = cluster_dir(name)
    if not folder.is_dir():
        return False
    try:
        state = load_state(folder)
    except StateError:
        state = None  # go by the marked processes
    if state is not None and state.profile == "node":
        remove_node_parts(state)
    if state is not None and state.boot == process.boot_id():
        for record in _stop_order(state):
            # The data goes with the cluster: a graceful end would only take time.
            process.stop(record, grace_seconds=0)
    for record in process.marked_processes(folder):
        process.stop(record, grace_seconds=0)
    PortClaims(folder).release()
    _delete(folder)
    return True


def remove_orphans() -> list[str]:
    """Remove the clusters whose owner (a test run) is gone; returns their names.

    One process at a time: packet-filter rules are replaced by whole tables, so a second removal of
    a node would take the rules of one that was started meanwhile.
    """
    with locked(state_root() / "orphans.lock", "removing what killed test runs have left"):
        removed = [name for name in cluster_names() if _is_orphan(cluster_dir(name))]
        for name in removed:
            remove_cluster(name)
    return removed


def _is_orphan(folder: Path) -> bool:
    with contextlib.suppress(StateError, FileNotFoundError):
        state = load_state(folder)
        if state is not None:
            return state.owner_is_gone()
        return time.time() - folder.stat().st_mtime > _NO_RECORD_SECONDS
    return False


def _delete(folder: Path) -> None:
    """Delete a folder that a dying process may just have written to."""
    deadline = time.monotonic() + process.KILL_PATIENCE_SECONDS
    while time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    raise StateError(f"cannot delete {folder}: see what is left there, and who holds it")


def _stop_order(state: ClusterState) -> Iterator[process.ProcessRecord]:
    yield from (p for p in reversed(state.processes) if p.name not in _LAST)
    for last in _LAST:
        yield from (p for p in state.processes if p.name == last)
