"""Work for processes of ``prepare.workers``: functions that a fresh process can import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from finetune_trainer import stopping
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.workers import Workers


def multiply(factor: int) -> Callable[[int], tuple[int, int]]:
    """Multiply, slowest for the first; tells the process as well."""

    def work(number: int) -> tuple[int, int]:
        time.sleep(0.05 if number == 0 else 0)
        return number * factor, os.getpid()

    return work


def refuse(worst: int) -> Callable[[int], int]:
    """Refuse numbers from ``worst`` on."""

    def work(number: int) -> int:
        if number >= worst:
            raise DataError("Worst", f"{number} is too much")
        return number

    return work


def die(victim: int) -> Callable[[int], int]:
    """Be killed by one number."""

    def work(number: int) -> int:
        if number == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    return work


def sleep(seconds: float) -> Callable[[int], int]:
    """Say which process it is, and stay."""

    def work(number: int) -> int:
        os.write(1, f"{os.getpid()}\n".encode())
        time.sleep(seconds)
        return number

    return work


def sleep_in_two_processes() -> None:
    """Begin as a stage does, and have two processes sleep."""
    stopping.listen("prepare")
    with Workers(2) as workers:
        list(workers.map_in_order(sleep, 600.0, range(2)))


if __name__ == "__main__":
    sleep_in_two_processes()
