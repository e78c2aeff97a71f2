"""Rows about processes: killed, stopped, out of disk."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.faults.matrix import Outcome, Row, WrongEnd, once, seeds
from benchmarks.faults.runs import (
    GRACE_SECONDS,
    ONE_RANK,
    STAGE_SECONDS,
    TWO_RANKS,
    Runs,
    failed,
    kill_all,
    rank_of,
    same,
    stop_after,
    wait_for_step,
)

from kit.processes.stages import StageRun, Workbench

NUM_STEPS = 12
DISK_BYTES = 64 * 2**20


def process_rows(runs: Runs) -> list[Row]:
    """Return the rows of this module."""
    rows = Processes(runs)
    return [
        Row(
            name="kill-trainer",
            fault="`kill -9` of the trainer and its ranks, twice at random steps",
            must="the same adapter",
            list_cells=seeds,
            run_cell=rows.kill_trainer,
        ),
        Row(
            name="kill-rank",
            fault="`kill -9` of one rank of two at a random step",
            must="exit 75, then the same adapter",
            list_cells=seeds,
            run_cell=rows.kill_rank,
        ),
        *(rows.stop_row(stage, result) for stage, result in _STAGES),
        Row(
            name="disk-full",
            fault="the work folder fills up while training",
            must="exit 73 `DiskFull`, then the same adapter",
            list_cells=once,
            run_cell=rows.fill_disk,
            unfit=lambda: None if os.geteuid() == 0 else "mounting a small disk needs root",
        ),
    ]


_STAGES = (("prepare", "data set"), ("train", "adapter"), ("evaluate", "scores"))


class Processes:
    """Runs the cells."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._seen: dict[str, tuple[float, str]] = {}

    def kill_trainer(self, cell: str) -> Outcome:
        """Kill everything at two random moments."""
        chance, expected = random.Random(cell), self._runs.expected(ONE_RANK)
        bench = self._runs.begin(ONE_RANK)
        num_killed = 0
        for step in sorted(chance.sample(range(1, NUM_STEPS), 2)):
            process = bench.start("train")
            if not wait_for_step(bench, process, step):
                break
            time.sleep(chance.uniform(0, 0.2))
            if process.poll() is None:
                kill_all(process)
                num_killed += 1
        return self._runs.finish(bench, expected, ended=num_killed, ends="")

    def kill_rank(self, cell: str) -> Outcome:
        """Kill one rank; its peer must not hang, and the parent must say what happened."""
        chance, expected = random.Random(cell), self._runs.expected(TWO_RANKS)
        bench = self._runs.begin(TWO_RANKS)
        process = bench.start("train")
        step, rank = chance.randrange(1, NUM_STEPS - 1), chance.randrange(2)
        if not wait_for_step(bench, process, step):
            raise WrongEnd(f"ended before step {step}: {bench.finish(process).messages[-300:]}")
        pid = rank_of(process, rank)
        if pid is None:
            raise WrongEnd(f"rank {rank} does not run")
        os.kill(pid, signal.SIGKILL)
        run = bench.finish(process, timeout=STAGE_SECONDS)
        if run.exit_code == 0:  # it had said all it had to say
            return same(run, expected, num_attempts=1)
        ends = failed(run, 75)
        return self._runs.finish(bench, expected, ended=1, ends=ends)

    def stop_row(self, stage: str, result: str) -> Row:
        """Return the row of a stage that is stopped."""
        return Row(
            name=f"stop-{stage}",
            fault=f"SIGTERM in each second of `{stage}`",
            must=f"an end within {GRACE_SECONDS:.0f} s (at second 0 maybe before the first "
            f"instruction), then the same {result}",
            list_cells=lambda num_seeds: self.list_seconds(stage, num_seeds),
            run_cell=lambda cell: self.stop(stage, cell),
        )

    def list_seconds(self, stage: str, num_seeds: int) -> list[str]:
        """Name the seconds of a stage; of a long one as many as there are seeds, evenly."""
        seconds = math.ceil(self._undisturbed(stage)[0])
        step = max(1, math.ceil(seconds / max(1, num_seeds)))
        return [f"second {second}" for second in range(0, seconds, step)]

    def stop(self, stage: str, cell: str) -> Outcome:
        """Stop a stage, then run it again."""
        expected = self._undisturbed(stage)[1]
        bench = self._begin(stage)
        process, sent = stop_after(lambda: bench.start(stage), float(cell.split()[1]))
        run = bench.finish(process, timeout=STAGE_SECONDS)
        took = time.monotonic() - sent
        if took > GRACE_SECONDS:
            raise WrongEnd(f"took {took:.0f} s to end, more than a pod has")
        words = {0: "same", 79: "exit 79, then same"}
        if cell == "second 0":  # before the interpreter runs, nobody can listen
            words[-signal.SIGTERM] = "ended before its first instruction, then same"
        if run.exit_code not in words:
            raise WrongEnd(f"exit {run.exit_code}: {run.messages[-300:]}{run.stderr[-200:]}")
        num_attempts, ends = 1, words[run.exit_code]
        if run.exit_code != 0:
            run, num_attempts = bench.run(stage, timeout=STAGE_SECONDS), 2
        if run.exit_code != 0 or digest_of(stage, run) != expected:
            raise WrongEnd(f"exit {run.exit_code} after the stop: {run.messages[-300:]}")
        return Outcome(ends=ends, digest=digest_of(stage, run), num_attempts=num_attempts)

    def fill_disk(self, _: str) -> Outcome:
        """Fill the disk below the work folder while training."""
        expected, bench = self._runs.expected(ONE_RANK), self._runs.begin(ONE_RANK)
        bench.work.mkdir(parents=True, exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(bench.work)]
        subprocess.run(mount, check=True)
        try:
            process = bench.start("train")
            if not wait_for_step(bench, process, 4):
                raise WrongEnd("it ended before the disk was full")
            fill(bench.work / "filler")
            run = bench.finish(process, timeout=STAGE_SECONDS)
            ends = failed(run, 73, "DiskFull")
            (bench.work / "filler").unlink()
            return self._runs.finish(bench, expected, ended=1, ends=ends)
        finally:
            subprocess.run(["umount", "--lazy", str(bench.work)], check=True)

    def _begin(self, stage: str) -> Workbench:
        if stage == "prepare":
            return self._runs.fresh(ONE_RANK)
        bench = self._runs.begin(ONE_RANK)
        if stage == "evaluate":
            bench.run_to("train")
        return bench

    def _undisturbed(self, stage: str) -> tuple[float, str]:
        """Return how long a stage takes and what it ends in."""
        if stage not in self._seen:
            bench = self._begin(stage)
            began = time.monotonic()
            run = bench.run_to(stage)
            self._seen[stage] = (time.monotonic() - began, digest_of(stage, run))
        return self._seen[stage]


def digest_of(stage: str, run: StageRun) -> str:
    """Return what two equal runs of a stage have in common."""
    match stage:
        case "prepare":
            return str(run.result["digest"])
        case "train":
            return str(run.result["sha256"])
        case _:
            scores = run.result["scores"]
            return " ".join(f"{score['name']} {score['tuned']}" for score in scores)


def fill(path: Path) -> None:
    """Write a file until there is no room for another byte."""
    for size in (2**20, 2**12, 1):
        try:
            with path.open("ab", buffering=0) as file:
                while True:
                    file.write(b"\0" * size)
        except OSError:
            continue
