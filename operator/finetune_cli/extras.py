"""Says how to install what a command needs, before it fails half-way."""

from __future__ import annotations

import importlib.util

from finetune_cli.errors import CliError

TRAINER_MODULES = ("finetune_trainer", "torch", "transformers", "trl", "peft", "accelerate")


def require_trainer() -> None:
    """Check, without importing them, that the trainer's libraries are there.

    Raises:
        CliError: Names the missing ones and the command that installs them.
    """
    missing = [name for name in TRAINER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"training on this machine needs {', '.join(missing)}: "
            "pip install 'finetune-operator[trainer]' (or run it on a cluster: finetune submit)"
        )
