"""A Python environment of its own for what the project's cannot hold, once per content of its lock.

It lies in the user's cache, and nothing of it is ever on the project's path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from folder_lock import hold_folder

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedEnvironment:
    """An environment with the packages of one lock file.

    Attributes:
        name: Of its folder, and of what it is for.
        lock: The lock file, in ``requirements/``.
        size: What is installed, for people.
        besides: Other files there that the lock was made from.
    """

    name: str
    lock: str
    size: str
    besides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies, or would lie."""
        contents = [(REQUIREMENTS / file).read_bytes() for file in (self.lock, *self.besides)]
        digest = hashlib.sha256(b"".join(contents)).hexdigest()[:12]
        return _cache_root() / self.name / digest

    @property
    def python(self) -> Path:
        """Its Python, if it is installed."""
        return self.folder / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether all of it is there."""
        return (self.folder / ".complete").exists()

    def ensure(self, finish: Callable[[Path], None] = lambda folder: None) -> Path:
        """Install what is missing; return the environment's Python.

        Args:
            finish: Does what is left to do once the packages are in the folder.
        """
        with hold_folder(self.folder.parent):
            if not self.is_installed:
                self._install()
                finish(self.folder)
                (self.folder / ".complete").touch()
        return self.python

    def _install(self) -> None:
        uv = shutil.which("uv") or str(_cache_root() / "uv" / "bin" / "uv")
        print(
            f"{self.name}: installing {self.lock} into {self.folder} ({self.size})", file=sys.stderr
        )
        venv = ["venv", "--quiet", "--clear", "--python", sys.executable, str(self.folder)]
        sync = ["pip", "sync", "--quiet", "--require-hashes", "--python", str(self.python)]
        for arguments in (venv, [*sync, str(REQUIREMENTS / self.lock)]):
            subprocess.run([uv, *arguments], check=True)


def _cache_root() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator"
