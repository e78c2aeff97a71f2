"""Says how to install what a command needs, before it fails half-way."""

from __future__ import annotations

import importlib.util

from finetune_cli.errors import CliError

TRAINER_MODULES = ("finetune_trainer", "torch", "transformers", "trl", "peft", "accelerate")


DATA_MODULES = ("finetune_trainer", "transformers", "tokenizers", "pyarrow", "jinja2", "numpy")
"""What looking at data needs; no torch."""


POWER_MODULES = ("finetune_trainer.verdict.power", "numpy", "scipy")
"""What counting with the verdict's bounds needs."""


def has_modules(modules: tuple[str, ...]) -> bool:
    """Return whether all of these are installed; of them only packages above are imported."""
    try:
        return all(importlib.util.find_spec(name) is not None for name in modules)
    except ModuleNotFoundError:  # a package above is missing
        return False


def require_trainer(
    modules: tuple[str, ...] = TRAINER_MODULES, *, to: str = "training on this machine"
) -> None:
    """Check that the trainer's libraries exist, without importing them.

    Args:
        modules: The needed modules.
        to: The purpose, for the message.

    Raises:
        CliError: Names the missing ones and the command that installs them.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise CliError(
            f"{to} needs {', '.join(missing)}: "
            "pip install 'finetune-operator[trainer]' (or run it on a cluster: finetune submit)"
        )
