"""Installs garak into an environment of its own, once per content of its lock file.

It never shares the project's environment, nor that of vLLM: all three contradict each other. The
environment lies in the user's cache. Usage: ``python tools/garak_venv.py`` prints its Python.
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
LOCK = ROOT / "requirements" / "garak.lock"


def ensure_environment() -> Path:
    """Install what is missing; return the environment's Python."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"
    folder = base / "garak" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    python = folder / "bin" / "python"
    with hold_folder(folder.parent):
        if not (folder / ".complete").exists():
            uv = shutil.which("uv") or str(base / "uv" / "bin" / "uv")
            print(f"garak: installing {LOCK.name} into {folder} (5 GB)", file=sys.stderr)
            made = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
            subprocess.run(made, check=True)
            sync = [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", str(python)]
            subprocess.run([*sync, str(LOCK)], check=True)
            (folder / ".complete").touch()
    return python


if __name__ == "__main__":
    print(ensure_environment())
