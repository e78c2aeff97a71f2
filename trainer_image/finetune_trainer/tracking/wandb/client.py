"""A program: sends one run to Weights & Biases with its own client, as lines on stdin say.

The client starts threads and waits for minutes; the tracker can stop this process. Each line is a
JSON object with a ``call``; each reply has the result or an ``error``. It imports nothing of the
project.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

NICENESS = 10
MAX_WORDS = 200
INSTALL = (
    "install requirements/wandb.lock into a Python beside the trainer's and have"
    " FINETUNE_WANDB_PYTHON name it (docs/how-to/tracking.md)"
)

Answer = dict[str, Any]


class Client:
    """One run, from ``open`` to ``close``."""

    def __init__(self) -> None:
        self._run: Any = None
        self._first_step = 0

    def open(self, message: dict[str, Any]) -> Answer:
        """Begin or resume the run. Only the sent values are collected."""
        import wandb

        settings = wandb.Settings(
            **message["settings"],
            mode="online",
            resume="allow",
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            save_code=False,
            silent=True,
            host="",
            username="",
            email="",
            program="",
            finish_timeout_raises=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(settings=settings)
        self._first_step = self._run.starting_step
        return {"page": self._run.url or ""}

    def facts(self, message: dict[str, Any]) -> Answer:
        """Send settings and scores."""
        self._run.config.update(message["config"], allow_val_change=True)
        self._run.summary.update(message["summary"])
        return {}

    def points(self, message: dict[str, Any]) -> Answer:
        """Send values by step; steps that the server has are skipped."""
        for step, values in message["rows"]:
            if step >= self._first_step:
                self._run.log(values, step=step)
        return {}

    def close(self, message: dict[str, Any]) -> Answer:
        """Wait until all has arrived."""
        self._run.finish(exit_code=message["exit_code"])
        return {}


def serve(lines: TextIO, answers: TextIO) -> None:
    """Answer each line, until there are no more."""
    client = Client()
    calls: dict[str, Callable[[dict[str, Any]], Answer]] = {
        "open": client.open,
        "facts": client.facts,
        "points": client.points,
        "close": client.close,
    }
    for line in lines:
        message = json.loads(line)
        try:
            answer = calls[message["call"]](message)
        except ModuleNotFoundError as error:
            answer = {"error": f"{sys.executable} has no package {error.name}: {INSTALL}"}
        except Exception as error:  # the client raises of many kinds: each becomes words
            words = " ".join(str(error).split()) or type(error).__name__
            answer = {"error": words[:MAX_WORDS]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve stdin; the client's own output is discarded."""
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    serve(sys.stdin, answers)
    os._exit(0)  # its exit handlers would wait for a server that is away


if __name__ == "__main__":
    main()
