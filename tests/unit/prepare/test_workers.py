"""Pieces come back in order from any number of processes, and none of these outlives the stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer import process
from finetune_trainer.errors import DataError, RetryableError
from finetune_trainer.prepare import workers as module
from finetune_trainer.prepare.workers import (
    PIECES_PER_PROCESS,
    Workers,
    num_processes_granted,
)
from kit.cluster.devcluster import start_ticks
from kit.processes import row_work
from kit.processes.eventually import eventually


def test_pieces_come_back_in_order_and_no_faster_than_they_are_worked_on() -> None:
    taken = 0

    def pieces() -> Iterator[int]:
        nonlocal taken
        for taken in range(1, 41):
            yield taken - 1

    processes = set()
    with Workers(2) as workers:
        for done, (number, worker) in enumerate(
            workers.map_in_order(row_work.multiply, 3, pieces())
        ):
            assert number == done * 3
            assert taken - done <= 2 * PIECES_PER_PROCESS + 1
            processes.add(worker)
    assert os.getpid() not in processes


def test_few_pieces_start_no_process() -> None:
    with Workers(2) as workers:
        results = list(workers.map_in_order(row_work.multiply, 2, range(5), num_alone=5))
    assert results == [(2 * number, os.getpid()) for number in range(5)]


def test_what_a_worker_refuses_is_raised_for_the_first_such_piece() -> None:
    with Workers(2) as workers:
        results = workers.map_in_order(row_work.refuse, 3, range(20))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match="3 is too much") as caught:
            next(results)
    assert caught.value.reason == "Worst"


def test_a_killed_worker_is_told_and_may_be_tried_again() -> None:
    with (
        Workers(2) as workers,
        pytest.raises(RetryableError, match="one of the 2 processes") as caught,
    ):
        list(workers.map_in_order(row_work.die, 4, range(20)))
    assert caught.value.reason == "WorkerDied"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "exit_code"), [(signal.SIGTERM, 79), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_worker_outlives_a_stage_that_is_stopped_or_killed(
    how: signal.Signals, exit_code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kit.processes.row_work"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as stage:
        try:
            assert stage.stdout is not None
            children = [int(stage.stdout.readline()) for _ in range(2)]
            stage.send_signal(how)
            assert stage.wait(20) == exit_code
        finally:
            stage.kill()
    assert eventually(lambda: all(start_ticks(child) is None for child in children))


@pytest.mark.parametrize(
    ("cpu_max", "threads", "cores", "expected"),
    [
        ("max 100000", None, 4, 4),
        ("200000 100000", None, 4, 2),
        ("150000 100000", None, 4, 1),
        ("50000 100000", None, 4, 1),
        ("max 100000", "3", 4, 3),
        ("max 100000", "16", 4, 4),
        (None, None, 4, 4),
        (None, None, 96, module.MAX_PROCESSES),
    ],
)
def test_as_many_processes_as_cpus_are_granted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cpu_max: str | None,
    threads: str | None,
    cores: int,
    expected: int,
) -> None:
    limit = tmp_path / "cpu.max"
    if cpu_max is not None:
        limit.write_text(cpu_max + "\n")
    monkeypatch.setattr(process, "_CPU_MAX", limit)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    if threads is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert num_processes_granted() == expected
