"""Every benchmark finds what it imports, late imports included, when it is run as it says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
INSTALLED = {
    each.name for part in ("operator", "trainer_image") for each in (ROOT / part).iterdir()
}
FOLDERS = (ROOT, BENCHMARKS, ROOT / "tools", ROOT / "tests", *BENCHMARKS.iterdir())
OWN = {each.stem for folder in FOLDERS if folder.is_dir() for each in folder.iterdir()}
OWN -= INSTALLED | sys.stdlib_module_names
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`python (benchmarks/[a-z_/]+\.py)", README)))
AS_MODULES = ("kept.py", "operator.py", "front.py", "adapters.py", "__main__.py")
SCRIPTS = [
    path
    for path in sorted(BENCHMARKS.rglob("*.py"))
    if "\nif __name__ == " in path.read_text(encoding="utf-8") and path.name not in AS_MODULES
]
MODULES = [
    ("operator:tools:tests:.", "benchmarks.control_plane.kept"),
    *re.findall(
        r"PYTHONPATH=(\S+) \$\(PYTHON\) -m (benchmarks\.\S+)", (ROOT / "Makefile").read_text()
    ),
]


def find_module(name: str, path: list[str]) -> Path | None:
    """Return the file of a module, as Python would find it; None where it would not."""
    spec = None
    for end in range(1, name.count(".") + 2):
        full = ".".join(name.split(".")[:end])
        spec = PathFinder.find_spec(full, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    assert spec is not None
    origin = spec.origin or next(iter(path), "")
    return Path(origin)


def extend_path(tree: ast.Module, file: Path, path: list[str]) -> None:
    """Do to the path what a file does to ``sys.path``, wherever it does that."""
    names = {"__file__": str(file), "Path": Path, "sys": SimpleNamespace(path=path)}
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Assign | ast.Expr) else ""
        if text.startswith(("ROOT =", "REPOSITORY =", "sys.path[:0] =", "sys.path.insert")):
            exec(text, names)


def imports_of(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Return the names of modules, and whether each may be no more than a name in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, False
            yield from ((f"{node.module}.{alias.name}", True) for alias in node.names)
        elif isinstance(node, ast.List):  # a command that starts a module in another process
            words = [each.value if isinstance(each, ast.Constant) else "" for each in node.elts]
            yield from ((str(n), False) for m, n in pairwise(words) if m == "-m" and n)


def find_missing(first: Path, path: list[str]) -> set[str]:
    """Return which imports fail, of a file and of all files of the repository behind it."""
    missing, seen, left = set(), set(), [first]
    while left:
        file = left.pop()
        if file in seen or file.suffix != ".py":
            continue
        seen.add(file)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        extend_path(tree, file, path)
        for name, is_maybe in imports_of(tree):
            if name.split(".")[0] not in OWN:
                continue
            found = find_module(name, path)
            if found is not None:
                left.append(found)
            elif not is_maybe:
                missing.add(f"{name} (in {file.relative_to(ROOT)})")
    return missing


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(BENCHMARKS)))
def test_a_script_finds_its_imports(script: Path) -> None:
    assert find_missing(script, [str(script.parent)]) == set()


@pytest.mark.slow
@pytest.mark.parametrize("script", NAMED)
def test_a_command_of_the_readme_tells_how_it_is_used(script: str) -> None:
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.parametrize(("path", "module"), MODULES)
def test_a_module_that_make_runs_finds_its_imports(path: str, module: str) -> None:
    folders = [str(ROOT), *(str(ROOT / part) for part in path.split(":"))]
    found = find_module(f"{module}.__main__", list(folders)) or find_module(module, list(folders))
    assert found is not None
    assert find_missing(found, folders) == set()
