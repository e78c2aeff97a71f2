"""Processes pieces of rows in several processes; results come in the order of the pieces.

The bytes do not depend on the number of processes. At most :data:`PIECES_PER_PROCESS` pieces a
process are in flight, so memory stays bounded. Processes are spawned, never forked, only when there
is enough work, and die with their parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from typing import Any, TypeVar

from finetune_trainer.errors import OutOfMemory, RetryableError
from finetune_trainer.process import die_with_parent, hide_torch, is_torch_hidden, num_cores
from finetune_trainer.process import num_oom_kills as count_oom_kills

Settings = TypeVar("Settings")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

PIECES_PER_PROCESS = 3
MAX_PROCESSES = 8
"""More do not pay: one parent reads and writes for all."""


def num_processes_granted() -> int:
    """Return the lesser of the usable cores and ``OMP_NUM_THREADS``, the stage's CPU limit."""
    bounds = [num_cores(), MAX_PROCESSES]
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        bounds.append(max(1, int(given)))
    return min(bounds)


class Workers:
    """A context of worker processes; 1 does all work in this process."""

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._pool: ProcessPoolExecutor | None = None
        self._oom_kills = count_oom_kills()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map_in_order(
        self,
        prepare_work: Callable[[Settings], Callable[[Piece], Result]],
        settings: Settings,
        pieces: Iterable[Piece],
        *,
        num_alone: int = 0,
        work_here: Callable[[Piece], Result] | None = None,
    ) -> Iterator[Result]:
        """Yield the result of each piece, in order.

        Args:
            prepare_work: Makes the worker function from the settings, once in each process; a
                function of a module.
            settings: Hashable and picklable; sent with every piece, so small.
            pieces: Picklable; taken one by one.
            num_alone: Number of pieces done here before processes start.
            work_here: The worker function of this process, if there is one.

        Raises:
            TrainerError: As the worker function raised it, for the first such piece.
                ``WorkerDied``, ``HostOutOfMemory``: a process was killed.
        """
        work = work_here
        remaining = iter(pieces)
        for number, piece in enumerate(remaining):
            if self._num_processes > 1 and number == num_alone:
                yield from self._map_in_pool(prepare_work, settings, piece, remaining)
                return
            work = work or prepare_work(settings)
            yield work(piece)

    def _map_in_pool(
        self,
        prepare_work: Callable[[Settings], Callable[[Piece], Result]],
        settings: Settings,
        first: Piece,
        pieces: Iterator[Piece],
    ) -> Iterator[Result]:
        if self._pool is None:
            self._pool = _start_pool(self._num_processes)
        waiting: deque[Future[Result]] = deque()
        try:
            waiting.append(self._pool.submit(_work, prepare_work, settings, first))
            for piece in pieces:
                if len(waiting) == PIECES_PER_PROCESS * self._num_processes:
                    yield waiting.popleft().result()
                waiting.append(self._pool.submit(_work, prepare_work, settings, piece))
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise self._explain_death() from error

    def _explain_death(self) -> RetryableError | OutOfMemory:
        if count_oom_kills() > self._oom_kills:
            return OutOfMemory(
                "HostOutOfMemory",
                f"one of the {self._num_processes} processes that work on rows was killed for lack "
                "of memory; give the stage more memory, or fewer CPUs: it runs one process for "
                "each",
            )
        return RetryableError(
            "WorkerDied",
            f"one of the {self._num_processes} processes that work on rows was killed by something "
            "else than this stage; nothing was published, and the next attempt begins anew",
        )


def _start_pool(num_processes: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=num_processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(os.getpid(), is_torch_hidden()),
    )


def _begin_worker(parent: int, without_torch: bool) -> None:
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)  # it died before the kernel knew
    # Of Ctrl-C the parent hears as well, and ends us; a traceback from each would hide its words.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if without_torch:
        hide_torch()


def _work(
    prepare_work: Callable[[Settings], Callable[[Piece], Result]], settings: Settings, piece: Piece
) -> Result:
    work: Callable[[Piece], Result] = _prepared(prepare_work, settings)
    return work(piece)


@lru_cache(maxsize=1)
def _prepared(prepare_work: Callable[[Any], Any], settings: Any) -> Any:
    return prepare_work(settings)
