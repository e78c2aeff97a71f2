"""Starts the workers of an evaluation, adds up their progress and gathers what the models said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from finetune_trainer.errors import (
    InternalError,
    OutOfMemory,
    RetryableError,
    Stopped,
    TrainerError,
)
from finetune_trainer.evaluate.inference.answering import Said
from finetune_trainer.evaluate.inference.kept import combine
from finetune_trainer.evaluate.inference.worker import WorkerPlan
from finetune_trainer.failures import failure_of_record
from finetune_trainer.process import (
    die_with_parent,
    num_oom_kills,
    threads_per_process,
)

POLL_SECONDS = 0.1
KEEP_SECONDS = 60.0
"""Between two times that answers are kept while workers ask: a killed pod loses no more."""
STOP_FLAG = "stop"
"""File in the control folder that ends the workers."""
STOPPED_REASON = "StoppedBeforeScores"


def run_workers(
    plan: WorkerPlan, *, on_done: Callable[[int], None], keep: Callable[[], None]
) -> None:
    """Run all workers to their end; what the models say comes to the control folder by and by.

    Args:
        plan: What they work on.
        on_done: Told the number of asks that all workers together have behind them, when it grew.
        keep: Called from time to time while there is more to keep than the last time.

    Raises:
        TrainerError: As the worker that failed first classified it; the others are ended.
        Stopped: A file ``stop`` in the control folder asked for it.
    """
    control_dir = Path(plan.control_dir)
    plan_path = control_dir / "plan.json"
    plan_path.write_text(json.dumps(asdict(plan)))
    oom_before = num_oom_kills()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(plan.num_workers):
            processes.append(_start(plan, plan_path, rank))
        codes = _watch(processes, control_dir, on_done, keep)
    finally:
        for process in processes:
            _end(process)
    if any(codes):
        raise failure_of(control_dir, codes, oom_killed=num_oom_kills() > oom_before)


def _start(plan: WorkerPlan, plan_path: Path, rank: int) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment["OMP_NUM_THREADS"] = str(threads_per_process(plan.num_workers))
    environment.setdefault("PYTHONHASHSEED", "0")
    environment.setdefault("HF_HUB_OFFLINE", "1")
    if not plan.gpus_per_worker:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with (plan_path.parent / f"worker-{rank}.log").open("w") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "finetune_trainer.evaluate.inference.worker",
                str(plan_path),
                str(rank),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _watch(
    processes: Sequence[subprocess.Popen[bytes]],
    control_dir: Path,
    on_done: Callable[[int], None],
    keep: Callable[[], None],
) -> list[int]:
    """Wait until all ended or one failed; returns the codes of those that ended.

    Raises:
        Stopped: It was asked for.
    """
    told = kept = 0
    kept_at = time.monotonic()
    while True:
        codes = [process.poll() for process in processes]
        done = sum(path.stat().st_size for path in control_dir.glob("done-*"))
        if done > told:
            told = done
            on_done(done)
        ended = [code for code in codes if code is not None]
        if any(ended) or len(ended) == len(codes):
            return ended
        if (control_dir / STOP_FLAG).exists():
            raise Stopped(
                STOPPED_REASON,
                "stopped on request while the models were asked; the adapter is safe in the run's "
                "folder",
            )
        if done > kept and time.monotonic() - kept_at > KEEP_SECONDS:
            keep()
            kept, kept_at = done, time.monotonic()
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_said(control_dir: Path) -> dict[str, Said]:
    """Return what the models have said to the workers so far.

    A line that a worker did not come to the end of is left out.
    """
    parts = []
    for path in sorted(control_dir.glob("said-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            wire = json.loads(line)
            parts.append({side: Said.from_json(said) for side, said in wire.items()})
    return combine(parts)


def failure_of(control_dir: Path, codes: Sequence[int], *, oom_killed: bool) -> TrainerError:
    """Return what the end of the workers is called, from what they left.

    Args:
        control_dir: Their folder.
        codes: Exit codes of those that ended.
        oom_killed: The kernel killed a process of this container for lack of memory meanwhile.
    """
    if oom_killed:
        return OutOfMemory(
            "HostOutOfMemory",
            "a process of the evaluation was killed by the kernel for lack of memory; raise "
            "resources.memory or lower evaluation.gpus: each process loads the model",
        )
    records = [json.loads(path.read_text()) for path in control_dir.glob("failure-*.json")]
    if records:
        record = min(records, key=lambda r: int(r["rank"]))
        error = failure_of_record(record)
        error.rank = record["rank"]  # type: ignore[attr-defined]
        return error
    if -signal.SIGKILL in codes:
        return RetryableError(
            "WorkerKilled",
            "a process of the evaluation was killed (SIGKILL) without a word: the host ran out of "
            "memory, or someone killed it; the next attempt asks the models anew",
        )
    code = next(code for code in codes if code)
    return InternalError(
        "WorkersFailed",
        f"a process of the evaluation ended with exit code {code} and left no reason",
    )
