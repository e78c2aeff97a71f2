"""The layout: source roots that are not packages, arrows between folders, cheap imports."""

from __future__ import annotations

import operator
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "peft", "trl", "accelerate", "deepspeed", "datasets"}


def test_source_roots_do_not_shadow_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not (ROOT / "trainer_image" / "__init__.py").exists()
    assert operator.__file__.startswith(sysconfig.get_paths()["stdlib"])


def names_in(folder: str) -> set[str]:
    """Return the modules and packages that a folder on the path offers."""
    return {
        each.stem for each in (ROOT / folder).iterdir() if each.is_dir() or each.suffix == ".py"
    }


IMPORT = re.compile(r"^ *(?:from|import) ([\w.]+)", re.MULTILINE)
TOOLS = names_in("tools")
TESTS = names_in("tests") - {"kit", "tools"}


def imports(folder: str, *others: str) -> Iterator[tuple[str, str]]:
    """Yield (file, imported module) of a folder, those below `others` left out."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        file = str(path.relative_to(ROOT))
        if file.startswith(others):
            continue
        for module in IMPORT.findall(path.read_text(encoding="utf-8")):
            yield file, module


def test_tests_reach_tools_and_benchmarks_by_no_import_of_their_own() -> None:
    own = [(f, m) for f, m in imports("tests", "tests/kit/", "tests/tools/") if root_of(m) in TOOLS]
    inner = [(f, m) for f, m in imports("tests/kit") if root_of(m) in TOOLS and "." in m]
    measured = [(f, m) for f, m in imports("tests") if root_of(m) == "benchmarks"]
    assert own + inner + measured == []


def test_the_kit_and_benchmarks_and_tools_import_no_test() -> None:
    folders = ("tests/kit", "benchmarks", "tools")
    assert [(f, m) for each in folders for f, m in imports(each) if root_of(m) in TESTS] == []


def test_tools_import_neither_the_kit_nor_benchmarks() -> None:
    found = [(f, m) for f, m in imports("tools") if root_of(m) in {"kit", "benchmarks"}]
    assert found == []


def root_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "finetune_api.protocol.trainer",
        "finetune_api.crd",
        "finetune_cli.__main__",
        "finetune_operator.manager",
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
    # Within another make, as in continuous integration, it says which folder it enters and leaves.
    commands = subprocess.run(
        ["make", "--dry-run", "test-fast"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert '-m "not slow"' in commands
    said = run_selected(tmp_path, ["-m", "not slow"], {"unit/test_module.py": module})
    assert count(said) == found


@pytest.mark.slow
def test_each_test_runs_in_one_session_of_all_tests(tmp_path: Path) -> None:
    slow = "pytest.mark.slow\n"
    modules = {
        "unit/test_fast.py": "def test_one(): ...",
        "unit/test_both.py": f"import pytest\ndef test_two(): ...\n@{slow}def test_three(): ...",
        "unit/deeper/test_slow.py": f"import pytest\npytestmark = {slow}def test_four(): ...",
        "others/test_others.py": f"import pytest\ndef test_five(): ...\n@{slow}def test_six(): ...",
    }
    first = run_selected(tmp_path / "first", ["-m", "not slow"], modules, folder="unit")
    second = run_selected(tmp_path / "second", ["--suite=baseline", "--suite=extended"], modules)
    passed = [re.findall(r"::test_(\w+) PASSED", text) for text in (first, second)]
    assert [sorted(names) for names in passed] == [
        ["one", "two"],
        ["five", "four", "six", "three"],
    ]


def run_selected(
    root: Path, selection: list[str], modules: dict[str, str], *, folder: str = ""
) -> str:
    """Run test modules below a copy of our conftest.py; returns what pytest says."""
    for name, text in modules.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    options = ["-v", f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={root}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", root / folder, *selection, *options],
        capture_output=True,
        text=True,
    ).stdout


def count(said: str) -> dict[str, int]:
    """Return how many tests ended in which way."""
    ends = re.findall(r"(\d+) (failed|error|passed)", said.splitlines()[-1])
    return {kind: int(number) for number, kind in ends}
