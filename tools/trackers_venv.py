"""Installs trackers of experiments into an environment of their own, once per content of its lock.

It never shares the project's environment, which needs nothing of them. The environment lies in the
user's cache. Usage: ``python tools/trackers_venv.py`` prints its Python.
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
LOCK = ROOT / "requirements" / "trackers.lock"


def ensure_environment() -> Path:
    """Install what is missing; return the environment's Python."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-operator"
    folder = base / "trackers" / hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    python = folder / "bin" / "python"
    with hold_folder(folder.parent):
        if not (folder / ".complete").exists():
            uv = shutil.which("uv") or str(base / "uv" / "bin" / "uv")
            print(f"trackers: installing {LOCK.name} into {folder} (0.8 GB)", file=sys.stderr)
            venv = ["venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
            sync = [
                "pip",
                "sync",
                "--quiet",
                "--require-hashes",
                "--python",
                str(python),
                str(LOCK),
            ]
            for arguments in (venv, sync):
                subprocess.run([uv, *arguments], check=True)
            (folder / ".complete").touch()
    return python


if __name__ == "__main__":
    print(ensure_environment())
