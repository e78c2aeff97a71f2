"""Runs what garak's container runs, with a real garak or another program of its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_operator.finetunejob.render.red_team import ATTACK
from kit.cluster.sidecar import named_program, run_sidecar

PYTHON = named_program("FINETUNE_GARAK_PYTHON")
"""Only where it is asked for: 5 GB, and minutes."""
NEEDS_GARAK = pytest.mark.skipif(
    PYTHON is None,
    reason="takes a quarter of an hour: make garak-test, or FINETUNE_GARAK_PYTHON=a Python with it",
)


@contextmanager
def stand_beside(programs: Path, folder: Path, *, image: str = "") -> Iterator[dict[str, str]]:
    """Run what the container beside a stage runs; yield what the stage is told of it.

    Args:
        programs: Folder with ``garak``.
        folder: What stage and garak share; it must not exist.
        image: What the stage is told of its image.
    """
    folder.mkdir(parents=True)
    told = {"FINETUNE_RED_TEAM_DIR": str(folder), "FINETUNE_RED_TEAM_IMAGE": image}
    env = {
        **told,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OPENAICOMPATIBLE_API_KEY": "none",
    }
    with run_sidecar(ATTACK, "attack", env=env):
        yield told
