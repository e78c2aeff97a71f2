"""Builds the library that moves the wall clock of single processes; see ``moved_clock.c``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
LIBRARY = "moved_clock.so"
FILE_VARIABLE = "MOVED_CLOCK"


def unfit() -> str | None:
    """Return why it cannot be built here, or None."""
    return None if shutil.which("gcc") else "moving a process's clock needs gcc"


def build(folder: Path) -> Path:
    """Compile the library into a folder; returns its path."""
    library = folder / LIBRARY
    command = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", str(library), str(SOURCE)]
    subprocess.run(command, check=True)
    return library


def environment(library: Path, offset: Path) -> dict[str, str]:
    """Return the variables of a process whose clock is off by the seconds in a file."""
    return {"LD_PRELOAD": str(library), FILE_VARIABLE: str(offset)}
