"""Installs garak into an environment of its own, once per content of its lock file.

It never shares the project's environment, nor that of vLLM: all three contradict each other.
Usage: ``python tools/garak_venv.py`` prints its Python.
"""

from __future__ import annotations

from locked_environment import LockedEnvironment

ENVIRONMENT = LockedEnvironment(name="garak", lock="garak.lock", size="5 GB")


if __name__ == "__main__":
    print(ENVIRONMENT.ensure())
