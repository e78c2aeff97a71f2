"""Check that no room of the product has more lines of code than its budget.

``tools/budgets.toml`` names the rooms. Code is what remains without blank lines, comments,
docstrings and imports. A budget rises only in a commit that lowers another by as much, so that the
sum never grows.

Usage: python tools/budgets.py [--write]   (--write lowers budgets to what the rooms have)
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = Path("tools/budgets.toml")


def count_code(source: str) -> int:
    """Return the lines of code of a module."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())) | ast.Import() | ast.ImportFrom():
                skipped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate((line.strip() for line in source.splitlines()), 1)
    return sum(1 for at, line in lines if line and not line.startswith("#") and at not in skipped)


def room_of(path: str, rooms: Iterable[str]) -> str:
    """Return the room with the longest name that a module lies in; empty if none has it."""
    return max((room for room in rooms if path.startswith(f"{room}/")), key=len, default="")


def count_rooms(root: Path, rooms: Iterable[str]) -> Counter[str]:
    """Return the lines of code of each room; those in no room are under ``""``."""
    folders = [root / "operator", root / "trainer_image"]
    found = Counter[str]()
    for path in (each for folder in folders for each in sorted(folder.rglob("*.py"))):
        name = path.relative_to(root).as_posix()
        found[room_of(name, rooms)] += count_code(path.read_text(encoding="utf-8"))
    return found


def read_budgets(text: str) -> dict[str, int]:
    """Return the budgets by room."""
    return {str(room): int(lines) for room, lines in tomllib.loads(text)["rooms"].items()}


def find_faults(
    budgets: dict[str, int], counts: Counter[str], before: dict[str, int] | None
) -> list[str]:
    """Return what breaks the rules, one sentence each.

    Args:
        budgets: Budgets as they are now.
        counts: Lines of code by room.
        before: Budgets of the commit before; None if there are none.
    """
    faults = [
        f"{room}: {counts[room]} lines of code, budget {budget}. Delete code, or raise this budget"
        " and lower another by as much in the same commit"
        for room, budget in budgets.items()
        if counts[room] > budget
    ]
    if counts[""]:
        faults.append(
            f"{counts['']} lines of code lie in no room of {TABLE}: name their room there"
        )
    if before is not None and sum(budgets.values()) > sum(before.values()):
        faults.append(
            f"{TABLE}: all budgets together rise from {sum(before.values())} to"
            f" {sum(budgets.values())}: lower another budget by as much"
        )
    return faults


def read_before(root: Path) -> dict[str, int] | None:
    """Return the budgets of HEAD if the table has changed since, else those of its parent."""
    for commit in ("HEAD", "HEAD^"):
        done = subprocess.run(
            ["git", "-C", str(root), "show", f"{commit}:{TABLE}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0 and done.stdout != (root / TABLE).read_text(encoding="utf-8"):
            return read_budgets(done.stdout)
    return None


def main() -> int:
    """Check the budgets, or lower them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    text = (ROOT / TABLE).read_text(encoding="utf-8")
    budgets = read_budgets(text)
    counts = count_rooms(ROOT, budgets)
    if write:
        head = text[: text.index("[rooms]")]
        lowered = {room: min(budget, counts[room]) for room, budget in budgets.items()}
        lines = [f'"{room}" = {budget}' for room, budget in lowered.items()]
        (ROOT / TABLE).write_text("\n".join([head + "[rooms]", *lines, ""]), encoding="utf-8")
        return 0
    faults = find_faults(budgets, counts, read_before(ROOT))
    for fault in faults:
        print(f"budgets: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
