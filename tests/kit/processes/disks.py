"""Small disks: a tmpfs of so many bytes, which only root may mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small tmpfs")


@contextmanager
def small_disk(folder: Path, size: str, *, is_read_only: bool = False) -> Iterator[None]:
    """Mount a disk of a size at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},{'ro' if is_read_only else 'rw'}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
