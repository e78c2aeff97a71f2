"""The heartbeats of ranks: each rank writes its last beat to a file that the parent reads.

A beat costs some ten microseconds and needs no torch, network or lock. On :data:`DUMP_SIGNAL` a
rank's signal handler writes the stacks of its threads.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DUMP_SIGNAL = signal.SIGUSR1
WIDTH = 256
"""Bytes of a beat: a shorter one never leaves the end of a longer one behind."""
NUM_STEPS = 64
"""Steps that the median is taken of."""


class Phase(StrEnum):
    """The phase of a rank, which decides how long it may be silent."""

    STARTING = "starting"
    """Up to the end of its first step: libraries, weights, compilation."""
    TRAINING = "training"
    SAVING = "saving"
    """Checkpoints, weights of the best step, the end of training: disks and storage are slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """The last sign of life of a rank.

    Attributes:
        rank: Number of the rank.
        pid: Its process.
        phase: Its phase.
        step: Completed optimiser steps.
        count: Beats so far: of two ranks at one step the lower one is behind.
        at: Monotonic seconds of this node.
        step_seconds: Median time of its steps; 0 before the second.
    """

    rank: int
    pid: int
    phase: Phase
    step: int
    count: int
    at: float
    step_seconds: float


class BeatWriter:
    """Writes the beats of one rank to a folder that rank and parent share."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._rank = rank
        self._file = os.open(folder / f"beat-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._count = 0
        self._step = 0
        self._stepped_at: float | None = None
        self._seconds: deque[float] = deque(maxlen=NUM_STEPS)
        self._median = 0.0
        # Kept open: there is no opening files in the state that a dump is asked for in.
        self._stacks = (folder / f"stacks-{rank}.txt").open("w")
        faulthandler.register(DUMP_SIGNAL, file=self._stacks, all_threads=True)
        self.beat(Phase.STARTING)

    def beat(self, phase: Phase) -> None:
        """Give a sign of life."""
        self._count += 1
        wire = {
            "rank": self._rank,
            "pid": os.getpid(),
            "phase": phase,
            "step": self._step,
            "count": self._count,
            "at": time.monotonic(),
            "step_seconds": round(self._median, 6),
        }
        os.pwrite(self._file, json.dumps(wire).ljust(WIDTH).encode(), 0)

    def step_ended(self, step: int, phase: Phase) -> None:
        """Give a sign of life at the end of an optimiser step."""
        now = time.monotonic()
        if self._stepped_at is not None:
            self._seconds.append(now - self._stepped_at)
            self._median = statistics.median(self._seconds)
        self._stepped_at, self._step = now, step
        self.beat(phase)

    def close(self) -> None:
        """End the watch over this process; a rank is watched until it ends."""
        faulthandler.unregister(DUMP_SIGNAL)
        self._stacks.close()
        os.close(self._file)


def read_beats(folder: Path) -> list[Beat]:
    """Return the last beat of every rank of this node, by rank; half written ones are left out."""
    beats = []
    for path in folder.glob("beat-*"):
        try:
            wire = json.loads(path.read_bytes())
            beats.append(Beat(**{**wire, "phase": Phase(wire["phase"])}))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return sorted(beats, key=lambda beat: beat.rank)


def dump_stacks(folder: Path, beats: list[Beat], *, wait_seconds: float = 3.0) -> Mapping[int, str]:
    """Request the stacks of ranks and return them; empty for a rank that does not answer."""
    for beat in beats:
        try:
            os.kill(beat.pid, DUMP_SIGNAL)
        except ProcessLookupError:
            continue
    paths = {beat.rank: folder / f"stacks-{beat.rank}.txt" for beat in beats}
    sizes: dict[int, int] = {}
    give_up = time.monotonic() + wait_seconds
    while time.monotonic() < give_up:
        before, sizes = sizes, {rank: _size_of(path) for rank, path in paths.items()}
        if sizes == before and all(sizes.values()):
            break
        time.sleep(0.1)
    return {rank: path.read_text() if _size_of(path) else "" for rank, path in paths.items()}


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
