"""Where things lie: nothing of a cluster is ever inside the repository.

The cache survives ``down`` (binaries, base image, registry content, pulled images); the state of a
cluster does not. Unix sockets get a short root of their own, because their path is limited to 107
bytes.
"""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = "finetune-operator"


def cache_root() -> Path:
    """Folder of everything that is worth keeping between clusters."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / PROJECT / "devcluster"


def state_root() -> Path:
    """Folder with one sub-folder per running (or crashed) cluster."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / PROJECT / "devcluster"


def cluster_dir(name: str) -> Path:
    """The folder of one cluster: certificates, logs, etcd data, kubeconfig, state.json."""
    return state_root() / "clusters" / name


def socket_root(name: str) -> Path:
    """A short folder for the sockets and the run-time state of the node profile."""
    return Path("/run/ft-devcluster") / name


def kubelet_root(name: str) -> Path:
    """The kubelet's folder: volumes, so on a disk, and sockets, so short whatever ``$HOME`` is.

    A socket's path has at most 107 characters, and the kubelet makes them 30 below its folder.
    """
    return Path("/var/lib/ft-devcluster") / name


def modules_root() -> Path:
    """The pinned go.mod files that ship with this package."""
    return Path(__file__).parent / "modules"


def repository_root() -> Path:
    """The checkout this package lies in."""
    return Path(__file__).resolve().parents[2]
