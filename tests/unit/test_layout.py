"""The layout: source roots that are not packages, and imports that stay cheap."""

from __future__ import annotations

import operator
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "datasets"}


def test_source_roots_do_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "trainer_image" / "__init__.py").exists()
    assert operator.__file__.startswith(sysconfig.get_paths()["stdlib"])


@pytest.mark.parametrize(
    "module",
    [
        "finetune_api.trainer",
        "finetune_api.crd",
        "finetune_cli.__main__",
        "finetune_operator.controllers.manager",
        "finetune_trainer.storage",
        "finetune_trainer.stage",
        "finetune_trainer.prepare.inspection",
        "finetune_trainer.train.stage",
    ],
)
def test_import_loads_no_training_library(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not HEAVY & set(loaded)
