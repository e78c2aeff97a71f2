"""Runs what a container beside a stage runs: a script for a POSIX shell."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def run_sidecar(
    script: str, *arguments: str, env: Mapping[str, str], output: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script in a session of its own; whatever of it is left at the end is killed.

    Args:
        script: The script.
        arguments: Its name, and what the container gives it.
        env: Its whole environment.
        output: Where what it says goes; this process's by default.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, *arguments],
        stdout=output,
        stderr=output,
        env=dict(env),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def named_program(variable: str) -> Path | None:
    """Return the program that an environment variable names; None where it names none."""
    name = os.environ.get(variable)
    return Path(name) if name else None


def put_program(folder: Path, name: str, text: str) -> str:
    """Put an executable into ``bin`` of a folder; return a search path that has it first."""
    program = folder / "bin" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(text)
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"
