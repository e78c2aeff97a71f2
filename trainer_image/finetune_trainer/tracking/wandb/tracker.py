"""A run in Weights & Biases, through a process that holds the client."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.tracking import Wandb
from finetune_trainer.tracking.content import Facts, Point, identity_of
from finetune_trainer.tracking.tracker import RunStatus, Tracker, TrackerError
from finetune_trainer.tracking.wandb import client

KEY = "WANDB_API_KEY"  # as the client itself has it
PYTHON_VARIABLE = "FINETUNE_WANDB_PYTHON"
"""Names the Python that has the client, where that is not the trainer's."""
OPEN_SECONDS = 120.0
"""How long the client may take to start, on a node that is busy, and to find its server."""
INIT_SECONDS = 20.0
"""Of these, how long it looks for its server."""
CALL_SECONDS = 15.0
FINISH_SECONDS = 8.0
"""How long it may take for the rest to arrive: less than a stage waits for it."""

_REFUSED = re.compile(r"returned error (401|403)\b")
_PASSED = (
    *("PATH", "LANG", "LC_ALL", "SYSTEMROOT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""Environment variables for the client: no credentials, no settings of its own."""


class WandbTracker(Tracker):
    """Sends a run to Weights & Biases.

    ``read_key`` is called each time, because a Secret may be renewed. ``command`` starts the client
    in ``folder``.
    """

    def __init__(
        self,
        job: ResolvedJob,
        settings: Wandb,
        read_key: Callable[[], str | None],
        folder: Path,
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        super().__init__(settings.uri.rstrip("/"))
        self._job = job
        self._settings = settings
        self._read_key = read_key
        self._folder = folder
        self._command = command or _command()
        self._process: subprocess.Popen[bytes] | None = None
        self._key = ""
        self._told_facts: dict[str, Any] = {}

    def open(self) -> None:
        """Start the client, which finds the run by the job's UID or makes it."""
        self.stop()
        key = self._read_key()
        if not key:
            raise TrackerError(
                f"{self.place}: there is no {KEY}: add it to the Secret that"
                " tracking.wandb.credentialsRef names, or set it for `finetune run`"
            )
        self._key = key
        self._told_facts = {}
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=self._folder,
                env=_environment(self._folder),
                start_new_session=True,
            )
        except OSError as error:
            raise TrackerError(f"{self.place}: cannot start {self._command[0]}: {error}") from error
        answer = self._ask("open", OPEN_SECONDS, settings=self._client_settings())
        self.page = str(answer.get("page", ""))
        self.is_open = True

    def send_facts(self, facts: Facts) -> None:
        """Send settings and tags as the run's configuration, scores as its summary."""
        params = {key: _value(text) for key, text in facts.params.items()}
        told = {
            "config": {**identity_of(self._job), **facts.tags, **params},
            "summary": {point.key: point.value for point in facts.points},
        }
        if told != self._told_facts:
            self._ask("facts", CALL_SECONDS, **told)
            self._told_facts = told

    def send_points(self, points: Sequence[Point]) -> None:
        """Send values; the client skips the steps that its server has."""
        rows = [
            (step, {point.key: point.value for point in some})
            for step, some in groupby(points, key=lambda point: point.step)
        ]
        if rows:
            self._ask("points", CALL_SECONDS, rows=rows)

    def close(self, status: RunStatus) -> None:
        """Flush the run. A run that a later stage resumes is finished meanwhile."""
        code = 1 if status in ("FAILED", "KILLED") else 0
        self._ask("close", FINISH_SECONDS + 1, exit_code=code)

    def stop(self) -> None:
        """End the client and its child processes."""
        process, self._process, self.is_open = self._process, None, False
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe and pipe.close()

    def _client_settings(self) -> dict[str, Any]:
        job, settings = self._job, self._settings
        named = {
            "api_key": self._key,
            "base_url": self.place,
            "root_dir": str(self._folder),
            "entity": settings.entity,
            "project": settings.project or job.namespace,
            "run_id": job.uid,
            "run_name": job.name,
            "run_group": job.sweep,
            "init_timeout": INIT_SECONDS,
            "finish_timeout": FINISH_SECONDS,
        }
        return {name: value for name, value in named.items() if value is not None}

    def _ask(self, call: str, seconds: float, **message: Any) -> Mapping[str, Any]:
        process = self._process
        assert process is not None and process.stdin and process.stdout  # noqa: PT018
        line = json.dumps({"call": call, **message}) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
            answer = json.loads(_read_line(process.stdout.fileno(), seconds))
        except TimeoutError as error:
            self.stop()
            raise TrackerError(
                f"{self.place} did not take everything within {seconds:g} s"
            ) from error
        except (OSError, ValueError) as error:
            self.stop()
            raise TrackerError(f"{self.place}: the client of wandb has died") from error
        if words := answer.get("error"):
            self.stop()
            raise TrackerError(f"{self.place}{_plain(words)}".replace(self._key, "***"))
        return dict(answer)


def _command() -> tuple[str, ...]:
    return (os.environ.get(PYTHON_VARIABLE) or sys.executable, "-I", client.__file__)


def _plain(words: str) -> str:
    refused = _REFUSED.search(words)
    return f" refuses the key (HTTP {refused[1]})" if refused else f": {words}"


def _read_line(descriptor: int, seconds: float) -> bytes:
    """Read a line. Raise ``TimeoutError`` if it is late, ``OSError`` at the end."""
    end, line = time.monotonic() + seconds, b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError
        piece = os.read(descriptor, 65536)
        if not piece:
            raise OSError("closed")
        line += piece
    return line


def _environment(folder: Path) -> dict[str, str]:
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    places = ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "TMPDIR")
    return {
        **passed,
        **dict.fromkeys(places, str(folder)),
        "WANDB_ERROR_REPORTING": "false",
        "DO_NOT_TRACK": "1",
    }


def _value(text: str) -> str | float | bool:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)
    except ValueError:
        return text
