"""Runs the CLI as users do: a process of its own, its exit code and what it printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from kit.processes.preloaded import PreloadedPopen

REPOSITORY = Path(__file__).parents[3]
FAKE_TRAINER = Path(__file__).parent / "fake_trainer"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


class Cli:
    """The CLI in a folder of its own, with a cache of its own.

    Args:
        folder: Where it runs.
        use_fake_trainer: The stages are scripted.
        is_preloaded: Start it, and the trainer where it reads data, from imported libraries.
    """

    def __init__(
        self, folder: Path, *, use_fake_trainer: bool = True, is_preloaded: bool = False
    ) -> None:
        assert not (use_fake_trainer and is_preloaded)  # a host has the real one
        self.folder = folder
        self.cache = folder / "cache"
        roots = [REPOSITORY / "operator", REPOSITORY / "trainer_image"]
        if use_fake_trainer:
            roots.insert(0, FAKE_TRAINER)
        self.environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(self.cache),
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }
        self._popen: type[subprocess.Popen[str]] = subprocess.Popen
        if is_preloaded:
            self._popen = PreloadedPopen
        else:
            self.environment["PYTHONPATH"] = os.pathsep.join(map(str, roots))

    def script(self, **stages: list[str]) -> None:
        """Tell the fake trainer what to do, per stage and attempt."""
        self.environment["FAKE_TRAINER"] = json.dumps(stages)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self._popen(
            [sys.executable, "-m", "finetune_cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, stdin: str = "", timeout: float = 300) -> Finished:
        with self.start(*arguments) as process:
            out, err = process.communicate(stdin, timeout=timeout)
        return Finished(code=process.returncode, out=out, err=err)
