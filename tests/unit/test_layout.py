"""The layout: source roots that are not packages, and imports that stay cheap."""

from __future__ import annotations

import operator
import re
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("def test_it():\n    import torch", {"failed": 1}),
        ("import pytest, torch\npytestmark = pytest.mark.slow\ndef test_it(): ...", {}),
        ("import pytest, torch\npytestmark = [pytest.mark.slow]\ndef test_it(): ...", {}),
        ("import torch\ndef test_it(): ...", {"error": 1}),
        (
            "from transformers.utils import is_torch_available\n"
            "def test_it():\n    assert not is_torch_available()",
            {"passed": 1},
        ),
    ],
    ids=["in a test", "in a slow module", "in a list of marks", "in any other", "in a library"],
)
def test_fast_tests_import_no_torch(module: str, found: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_module.py").write_text(module)
    command = subprocess.run(
        ["make", "--dry-run", "test-fast"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()[-1]
    assert '-m "not slow"' in command
    options = [
        f"--config-file={ROOT / 'pyproject.toml'}",
        f"--rootdir={tmp_path}",
        "-p",
        "no:xdist",
    ]
    text = subprocess.run(
        [sys.executable, "-m", "pytest", tmp_path, "-m", "not slow", *options],
        capture_output=True,
        text=True,
    ).stdout
    summary = text.splitlines()[-1]
    counts = re.findall(r"(\d+) (failed|error|passed)", summary)
    assert {kind: int(number) for number, kind in counts} == found, text
