"""Installs trackers of experiments into an environment of their own, once per content of its lock.

It never shares the project's environment, which needs nothing of them.
Usage: ``python tools/trackers_venv.py`` prints its Python.
"""

from __future__ import annotations

from locked_environment import LockedEnvironment

ENVIRONMENT = LockedEnvironment(name="trackers", lock="trackers.lock", size="0.8 GB")


if __name__ == "__main__":
    print(ENVIRONMENT.ensure())
