"""Runs one stage as a child process and reads its events.

The child has its own session: Ctrl-C reaches only us, we send one SIGTERM, and the stage saves a
checkpoint. Its stderr goes to a log file.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.trainer import Event, ExitCode, Stage

TAIL_LINES = 20
"""Lines of the log shown when a stage crashes."""

KILLED_BASE = 128
"""A shell's convention for the exit code of a process ended by a signal."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageOutcome:
    """The end of one attempt of a stage.

    Attributes:
        exit_code: Exit code of the process; 128 + n if signal n ended it.
        result: Its result, if it finished.
        failure: Its own report of the failure, if any.
    """

    stage: Stage
    exit_code: int
    result: dict[str, Any] | None
    failure: Event | None
    log_file: Path
    log_tail: str
    seconds: float
    was_stopped: bool

    @property
    def is_ok(self) -> bool:
        """Whether it finished and told its result."""
        return self.exit_code == ExitCode.OK and self.result is not None


class StageProcess:
    """One attempt of one stage; use once."""

    def __init__(
        self,
        stage: Stage,
        job_file: Path,
        log_dir: Path,
        environment: Mapping[str, str],
        *,
        arguments: Sequence[str] = (),
    ) -> None:
        self.stage = stage
        self.log_file = log_dir / f"{stage.value}.log"
        self._command = trainer_command(stage.value, "--job", str(job_file), *arguments)
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None
        self._num_stops = 0

    def run(self, on_event: OnEvent) -> StageOutcome:
        """Run to the end, calling ``on_event`` for every event."""
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        result: dict[str, Any] | None = None
        failure: Event | None = None
        with self.log_file.open("a", encoding="utf-8") as log:
            log.write(f"--- {time.strftime('%Y-%m-%dT%H:%M:%S')} {' '.join(self._command)}\n")
            log.flush()
            log_start = log.tell()
            with self._started(log.fileno()) as process, self._stopping_on_signals():
                assert process.stdout is not None
                for line in process.stdout:
                    event = _parse_event(line)
                    if event is None:
                        log.write(line)
                        log.flush()
                        continue
                    if event.event == "result":
                        result = event.result
                    elif event.event == "failure":
                        failure = event
                    on_event(event)
                exit_code = process.wait()
        return StageOutcome(
            stage=self.stage,
            exit_code=KILLED_BASE - exit_code if exit_code < 0 else exit_code,
            result=result,
            failure=failure,
            log_file=self.log_file,
            log_tail=read_tail(self.log_file, log_start),
            seconds=time.monotonic() - start,
            was_stopped=self._num_stops > 0,
        )

    def stop(self) -> None:
        """Ask the stage to save and leave; asked a third time, kill it."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._num_stops += 1
        if self._num_stops <= 2:
            process.terminate()
        else:
            _kill_session(process.pid)

    @contextmanager
    def _started(self, log_descriptor: int) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_descriptor,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        self._process = process
        try:
            yield process
        finally:
            if process.poll() is None:
                _kill_session(process.pid)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        def ask(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        previous = {number: signal.signal(number, ask) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have every stop signal raise KeyboardInterrupt where no stage runs that could be asked."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def trainer_command(*arguments: str) -> Sequence[str]:
    """Return the command line of the trainer in this Python."""
    return [sys.executable, "-m", "finetune_trainer", *arguments]


def read_tail(path: Path, start: int = 0) -> str:
    """Return the last lines of a log, from byte ``start`` on."""
    with path.open("rb") as file:
        file.seek(start)
        lines = deque(file, maxlen=TAIL_LINES)
    return b"".join(lines).decode("utf-8", errors="replace").rstrip()


def _parse_event(line: str) -> Event | None:
    """Read one line; None if it is no event."""
    if not line.startswith("{"):
        return None
    try:
        return Event.model_validate(json.loads(line))
    except (json.JSONDecodeError, ValidationError):
        return None


def _kill_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def die_with_parent() -> None:
    """Have the kernel stop the stage when this process ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
