"""Measure what the data stage finds in data with planted faults, as tables.

``python tools/data_quality.py`` prints every table; names of tables print these alone. The rows
are made by seed (``tests/support/planted``), so that a figure changes only when the code does.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable

from finetune_trainer.prepare.privacy.finding import Settings, find_personal_data
from support.planted.clean_rows import clean_rows
from support.planted.measured import measure_all
from support.planted.privacy import Planted, plant

SEED = 20261125


def measure_privacy(num_of_kind: int, num_clean: int) -> list[tuple[str, int, float, float]]:
    """Return kind, planted values, recall and precision; last the clean rows with false finds."""
    planted: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    right: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for row in plant(num_of_kind, seed=SEED):
        planted[row.kind] += 1
        covered, num_right, num_found = judge(row)
        whole[row.kind] += covered
        right[row.kind] += num_right
        found[row.kind] += num_found
    rows = [
        (kind, number, whole[kind] / number, right[kind] / max(1, found[kind]))
        for kind, number in planted.items()
    ]
    for kind in ("prose", "code", "table"):
        texts = [text for name, text in clean_rows(num_clean, seed=SEED) if name == kind]
        false = sum(bool(find_personal_data(text, Settings())) for text in texts)
        rows.append((f"clean {kind}: rows with a false find", len(texts), false, 1.0))
    return rows


def judge(row: Planted) -> tuple[bool, int, int]:
    """Return whether a value was found whole and named right, and of all finds the right ones."""
    matches = find_personal_data(row.text, Settings())
    right = [m for m in matches if m.start < row.end and row.start < m.end]
    covered = any(
        m.entity == row.entity and m.start <= row.start and m.end >= row.end for m in right
    )
    return covered, len(right), len(matches)


def print_privacy(num_of_kind: int = 200) -> None:
    """Print the table of personal data and secrets."""
    print("| personal data and secrets | planted | recall | precision |\n|---|---|---|---|")
    for kind, number, recall, precision in measure_privacy(num_of_kind, 1000):
        if kind.startswith("clean"):
            print(f"| {kind} | {number} | {recall:.0f} rows | - |")
        else:
            print(f"| {kind} | {number} | {recall:.3f} | {precision:.3f} |")


def print_duplicates(num_rows: int = 6000) -> None:
    """Print the table of copies, near prompts, leaks and contradictions."""
    print("| rows that say the same | planted | recall | precision |\n|---|---|---|---|")
    for score in measure_all(num_rows, SEED):
        print(f"| {score.kind} | {score.planted} | {score.recall:.3f} | {score.precision:.3f} |")


TABLES: dict[str, Callable[[], None]] = {
    "privacy": print_privacy,
    "duplicates": print_duplicates,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: all")
    for name in parser.parse_args(arguments).tables or TABLES:
        TABLES[name]()
        print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
