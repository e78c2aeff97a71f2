"""Jobs on local processes: prepared once, forked for each cell, run again until they end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults.matrix import Outcome, WrongEnd

from kit.models.tiny_models import make_model
from kit.processes.eventually import eventually
from kit.processes.stages import StageRun, Workbench, write_rows

STAGE_SECONDS = 900.0
GRACE_SECONDS = 30.0
"""What a pod has by default between SIGTERM and SIGKILL."""
MAX_ATTEMPTS = 5

ONE_RANK: dict[str, Any] = {}
TWO_RANKS: dict[str, Any] = {
    "resources": {"gpusPerNode": 2, "strategy": "DDP"},
    "hyperparameters": {"microBatchSize": 2},
}


class Runs:
    """The jobs of a matrix.

    Args:
        folder: Everything lies below it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._model: Path | None = None
        self._prepared: dict[str, Workbench] = {}
        self._expected: dict[str, str] = {}

    @classmethod
    def in_scratch(cls) -> Runs:
        """Make a matrix's folder below the system's."""
        return cls(Path(tempfile.mkdtemp(prefix="faults-")))

    def new_folder(self) -> Path:
        """Return a folder of its own for a cell."""
        self._count += 1
        folder = self.folder / f"run-{self._count}"
        folder.mkdir(parents=True)
        return folder

    def fresh(self, change: dict[str, Any], env: dict[str, str] | None = None) -> Workbench:
        """Return a run that has done nothing yet."""
        if self._model is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._model = make_model(self.folder / "model")
            write_rows(self.folder / "rows.jsonl")
        return Workbench(
            folder=self.new_folder(),
            model=self._model,
            data=self.folder / "rows.jsonl",
            change=change,
            env=env or {},
        )

    def begin(self, change: dict[str, Any], env: dict[str, str] | None = None) -> Workbench:
        """Return a run whose data set is prepared."""
        key = repr(change)
        if key not in self._prepared:
            bench = self.fresh(change)
            bench.run_to("prepare")
            self._prepared[key] = bench
        bench = self._prepared[key].fork(self.new_folder() / "fork")
        bench.env = dict(env or {})
        return bench

    def expected(self, change: dict[str, Any]) -> str:
        """Return the sha256 of the adapter that an undisturbed run of this job ends in."""
        key = repr(change)
        if key not in self._expected:
            bench = self.begin(change)
            self._expected[key] = str(bench.run_to("train").result["sha256"])
        return self._expected[key]

    def finish(self, bench: Workbench, expected: str, *, ended: int, ends: str) -> Outcome:
        """Train again, as the operator does, until the run is at its end.

        Args:
            bench: A run some of whose attempts have ended.
            expected: Its adapter's sha256.
            ended: How many have.
            ends: How they have, in words; empty if it does not matter.

        Raises:
            WrongEnd: It ends otherwise, or not at all.
        """
        for attempt in range(ended + 1, ended + MAX_ATTEMPTS + 1):
            run = bench.run("train", timeout=STAGE_SECONDS)
            if run.exit_code == 0:
                return same(run, expected, num_attempts=attempt, ends=ends)
            if run.exit_code in (64, 65):
                break
        raise WrongEnd(f"exit {run.exit_code} after {attempt} attempts: {run.messages[-300:]}")


def same(run: StageRun, expected: str, *, num_attempts: int, ends: str = "") -> Outcome:
    """Return the outcome of a run that has ended well, and in the same adapter.

    Raises:
        WrongEnd: It has not.
    """
    if run.exit_code != 0:
        raise WrongEnd(f"exit {run.exit_code}: {run.messages[-300:]}")
    found = run.result["sha256"]
    if found != expected:
        raise WrongEnd(f"adapter {found[:12]}, undisturbed {expected[:12]}")
    words = f"{ends}, then the same adapter" if ends else "same adapter"
    return Outcome(ends=words, digest=found, num_attempts=num_attempts)


def failed(run: StageRun, exit_code: int, *reasons: str) -> str:
    """Return the failure in words if it is the right one.

    Raises:
        WrongEnd: It is not.
    """
    reason = run.termination.get("reason", "")
    if run.exit_code != exit_code or (reasons and reason not in reasons):
        wanted = f"exit {exit_code} {' or '.join(reasons)}"
        raise WrongEnd(f"exit {run.exit_code} {reason}, not {wanted}: {run.messages[-300:]}")
    return f"exit {exit_code} {reason}"


def wait_for_step(bench: Workbench, process: subprocess.Popen[str], step: int) -> bool:
    """Wait until a step is logged; False if the stage has ended before."""

    def is_there() -> bool:
        steps = len(bench.losses()) if bench.curve.exists() else 0
        return steps >= step or process.poll() is not None

    eventually(is_there, timeout=STAGE_SECONDS, interval=0.002)
    return process.poll() is None


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill a stage and what it has started, as a lost node does."""
    for pid in [process.pid, *children_of(process.pid)]:
        _signal(pid, signal.SIGKILL)
    process.communicate()


def children_of(pid: int) -> list[int]:
    """Return the processes below one, however deep."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found, ring = [], [pid]
    while ring:
        ring = [child for child, parent in parents.items() if parent in ring]
        found += ring
    return found


def rank_of(process: subprocess.Popen[str], rank: int) -> int | None:
    """Return the process of a rank, or None if it does not run."""
    for pid in children_of(process.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        is_worker = b"ranks.worker" in command or b"ranks/worker" in command
        if is_worker and b"--module" not in command and f"RANK={rank}".encode() in environment:
            return pid
    return None


def stop_after(
    start: Callable[[], subprocess.Popen[str]], seconds: float
) -> tuple[subprocess.Popen[str], float]:
    """Start a stage and send SIGTERM after so long; returns when it was sent (monotonic)."""
    process = start()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        _signal(process.pid, signal.SIGTERM)
    return process, time.monotonic()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
