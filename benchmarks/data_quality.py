"""Measure what the data stage finds in data with planted faults, as tables.

``python benchmarks/data_quality.py`` prints every table; names of tables print these alone. The
rows are made by seed (``tests/kit/planted``), so that a figure changes only when the code does.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in ("operator", "trainer_image", "tests")]

from finetune_trainer.prepare.privacy.finding import Settings, find_personal_data  # noqa: E402
from kit.planted.clean_rows import clean_rows  # noqa: E402
from kit.planted.measured import measure_all  # noqa: E402
from kit.planted.privacy import Planted, plant  # noqa: E402
from kit.published.forms import CLEAN, Half, make_rows, read_forms  # noqa: E402
from kit.published.forms import Row as PublishedRow  # noqa: E402

SEED = 20261125
SECRETS = {"APIKey", "JWT", "PrivateKey", "Password"}


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


def measure_published(per_form: int) -> dict[Half, list[tuple[str, int, int]]]:
    """Return for each half: kind, its values and those found; of clean rows those damaged."""
    measured: dict[Half, list[tuple[str, int, int]]] = {}
    forms = read_forms()
    for half in ("tuned", "held-out"):
        total: Counter[str] = Counter()
        found: Counter[str] = Counter()
        for row in make_rows([f for f in forms if f.half == half], per_form=per_form, seed=SEED):
            total[row.form.kind] += 1
            found[row.form.kind] += is_found(row)
        measured[half] = [(kind, total[kind], found[kind]) for kind in total]
    return measured


def is_found(row: PublishedRow) -> bool:
    """Return whether all of a value is covered by finds of its kind; of a clean row, whether any.

    Kinds of secrets count for each other.
    """
    matches = find_personal_data(row.text, Settings())
    if row.form.kind == CLEAN:
        return bool(matches)
    kinds = SECRETS if row.form.kind in SECRETS else {row.form.kind}
    place = row.start
    for match in matches:
        if match.entity in kinds and match.start <= place:
            place = max(place, match.end)
    return place >= row.end


def print_published(per_form: int = 20) -> None:
    """Print the table of forms from public specifications, in a tuned and a held-out half."""
    print("| published forms | half | values | found or damaged |\n|---|---|---|---|")
    for half, rows in measure_published(per_form).items():
        values = [row for row in rows if row[0] != CLEAN]
        whole = ("all kinds", sum(row[1] for row in values), sum(row[2] for row in values))
        for kind, number, found in [*rows, whole]:
            print(f"| {kind} | {half} | {number} | {found / number:.3f} |")


def print_duplicates(num_rows: int = 6000) -> None:
    """Print the table of copies, near prompts, leaks and contradictions."""
    print("| rows that say the same | planted | recall | precision |\n|---|---|---|---|")
    for score in measure_all(num_rows, SEED):
        print(f"| {score.kind} | {score.planted} | {score.recall:.3f} | {score.precision:.3f} |")


TABLES: dict[str, Callable[[], None]] = {
    "privacy": print_privacy,
    "published": print_published,
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
