"""The record of one cluster on disk: all that ``down`` needs, written before it is needed.

The file is replaced atomically at every change, so that a crash at any moment leaves a record of
everything done up to then. Things that are about to be made (interfaces, cgroups, changed kernel
settings) are recorded *first*: removing what was never made is harmless.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devcluster.errors import StateError
from devcluster.paths import state_root
from devcluster.process import ProcessRecord, boot_id, start_ticks
from devcluster.progress import say

FORMAT = 1
FILE_NAME = "state.json"


@dataclass(kw_only=True, slots=True)
class ClusterState:
    """What exists because of a cluster.

    Attributes:
        name: Cluster name, also its folder's.
        profile: ``control-plane`` or ``node``.
        boot: Boot the pids belong to.
        owner_pid: Process the cluster lives and dies with (a test run), None for ``up``.
        owner_start_ticks: Start time of that process, see `devcluster.process`.
        ready: Set once, when everything answered.
        processes: Started processes, in start order.
        values: Ports and addresses other commands need (``url``, ``registry``, ...).
        interfaces: Network interfaces made.
        cgroups: Control-group folders made.
        folders: Folders outside the cluster folder that ``down`` deletes.
        sysctls: Kernel settings changed, with the value to restore.
        chain_prefixes: Packet-filter chains with these prefixes are ours to remove: there were
            none when the cluster started.
    """

    name: str
    profile: str
    boot: str = field(default_factory=boot_id)
    owner_pid: int | None = None
    owner_start_ticks: int | None = None
    ready: bool = False
    processes: list[ProcessRecord] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    interfaces: list[str] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    chain_prefixes: list[str] = field(default_factory=list)

    def owner_is_gone(self) -> bool:
        """Whether the cluster was bound to a process that no longer runs."""
        if self.owner_pid is None:
            return False
        return self.boot != boot_id() or start_ticks(self.owner_pid) != self.owner_start_ticks


@contextmanager
def locked(path: Path, others: str) -> Iterator[None]:
    """Let one process at a time into the block; the others wait and say what ``others`` do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another command is {others}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def starting_or_stopping(name: str) -> AbstractContextManager[None]:
    """Let one command at a time change the cluster `name`.

    Without it, a second ``up`` takes a cluster that is still starting for a broken one.
    """
    return locked(state_root() / "locks" / name, f"starting or stopping {name}")


def save_state(folder: Path, state: ClusterState) -> None:
    """Replace the record in `folder` atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"format": FORMAT, **dataclasses.asdict(state)}
    aside = folder / f".{FILE_NAME}.{os.getpid()}"
    aside.write_text(json.dumps(document, indent=1, default=str))
    aside.replace(folder / FILE_NAME)


def load_state(folder: Path) -> ClusterState | None:
    """Read the record of `folder`; None if the folder holds no cluster.

    Raises:
        StateError: the record is damaged or of another version.
    """
    path = folder / FILE_NAME
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        if document.pop("format") != FORMAT:
            raise StateError(f"{path} was written by another version of this tool")
        processes = [ProcessRecord(**{**p, "log": Path(p["log"])}) for p in document["processes"]]
        return ClusterState(**{**document, "processes": processes})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StateError(
            f"cannot read the cluster record {path}: {error}. "
            "Run `python -m devcluster down` with the cluster's name: it then goes by the "
            "processes marked with that folder, and deletes it"
        ) from error
