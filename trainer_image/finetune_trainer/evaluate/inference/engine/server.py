"""The vLLM server beside the stage: how it is begun, whether it is ready, why it ended.

Whoever started this stage has put a container beside it that waits for a file ``arguments`` in a
folder both share, serves by it, writes what it says to ``vllm.log`` there, and leaves ``ended`` if
the server ends. What the server prints before it is ready cannot quote a row and is told; what it
prints later is stored with the data.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

from finetune_api.protocol.trainer import Environment
from finetune_trainer.errors import RetryableError, UserError

START_SECONDS = 1800.0
"""How long a server may take to load the model and to compile."""
POLL_SECONDS = 0.5
LOG_NAME = "vllm.log"
NUM_LAST_LINES = 3
MAX_LINE = 240

_TOO_LONG = "User-specified max_model_len"
"""What vLLM says of a model that takes fewer tokens than it is asked for (ModelConfig)."""
_SHORTER = (
    "lower evaluation.maxNewTokens or hyperparameters.maxSequenceLength in a new job, or set "
    "evaluation.engine: Transformers"
)

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy: the server is on the loopback interface."""


class EngineServer:
    """The server beside this stage.

    Args:
        folder: What both share.
        port: Its port on the loopback interface.
        image: Its container image; empty if nobody knows.
        wait: Waits for some seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        image: str = "",
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self.port = port
        self._image = image
        self._wait = wait
        self._clock = clock

    @classmethod
    def from_environment(cls) -> EngineServer:
        """Return the server that this stage was told of.

        Raises:
            UserError: ``EngineMissing``.
        """
        folder, port = (
            os.environ.get(name, "") for name in (Environment.ENGINE_DIR, Environment.ENGINE_PORT)
        )
        if not folder or not port.isdigit():
            raise UserError(
                "EngineMissing",
                "evaluation.engine VLLM: no vLLM server stands beside this stage; on a cluster the "
                "operator's vllmImage names its image (it was set when the job was accepted), "
                "elsewhere set evaluation.engine: Transformers",
            )
        return cls(Path(folder), int(port), image=os.environ.get(Environment.ENGINE_IMAGE, ""))

    def begin(self, arguments: Sequence[str]) -> None:
        """Have the server begin; it takes one argument a line."""
        path = self._folder / "arguments"
        draft = path.with_name("arguments.draft")
        draft.write_text("".join(f"{argument}\n" for argument in arguments), encoding="utf-8")
        draft.rename(path)

    def wait_until_ready(self) -> str:
        """Wait for the model to be loaded; returns what reports call the server.

        Raises:
            RetryableError: The server ended, or took too long.
            UserError: ``EngineUnsuitable``: it does not let the model have as many tokens.
        """
        end = self._clock() + START_SECONDS
        while not self.is_healthy():
            if self.has_ended:
                words = self._explain("ended before it was ready")
                if any(_TOO_LONG in line for line in self._lines()):
                    raise UserError("EngineUnsuitable", f"{words}; {_SHORTER}")
                raise RetryableError("EngineFailed", words)
            if self._clock() > end:
                words = f"was not ready within {START_SECONDS:.0f} s"
                raise RetryableError("EngineNotReady", self._explain(words))
            self._wait(POLL_SECONDS)
        return f"vLLM {self._version()}{self._of_image}"

    @property
    def has_ended(self) -> bool:
        """Whether the server is gone for good."""
        return (self._folder / "ended").exists()

    def is_healthy(self) -> bool:
        """Ask whether the server can answer now."""
        try:
            with direct.open(self.url("/health"), timeout=5):
                return True
        except (OSError, HTTPException):
            return False

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def keep_log(self, folder: Path) -> None:
        """Copy the server's log to where logs of the stage are kept from."""
        if (self._folder / LOG_NAME).exists():
            shutil.copyfile(self._folder / LOG_NAME, folder / LOG_NAME)

    @property
    def _of_image(self) -> str:
        return f" ({self._image})" if self._image else ""

    def _explain(self, what: str) -> str:
        lines = self._lines()
        telling = [line for line in lines if "Error:" in line or _TOO_LONG in line] or lines
        last = " | ".join(telling[-NUM_LAST_LINES:]) or "nothing"
        return f"the vLLM server{self._of_image} {what}; it said: {last}"

    def _lines(self) -> list[str]:
        """Return what the server has said, line by line, the end of each."""
        path = self._folder / LOG_NAME
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return [_cut(line.strip()) for line in text.splitlines() if line.strip()]

    def _version(self) -> str:
        try:
            with direct.open(self.url("/version"), timeout=30) as reply:
                return str(json.load(reply)["version"])
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            return "of unknown version"


def _cut(line: str) -> str:
    """Return the end of a line; of one that says which length is too much the words that do."""
    start = line.find(_TOO_LONG)
    return line[-MAX_LINE:] if start < 0 else line[start:][:MAX_LINE]
