"""Time and yield of the search for personal data, beside Presidio's on the same rows.

``python benchmarks/data/privacy.py --presidio VENV/bin/python`` takes an interpreter that has
presidio-analyzer; without one, only our own figures are measured. Presidio runs with the
recognisers that it switches on by itself for English, without a model (``NoOpNlpEngine``); dates,
URLs, UUIDs and MAC addresses, which we do not look for, are not counted. The rows are made by seed:
values planted in prose, clean rows, and a mix of which one row in twenty holds a value.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / part) for part in ("operator", "trainer_image", "tests")]

from peers import Spans, ask_presidio  # noqa: E402

from finetune_trainer.data.rows import make_example  # noqa: E402
from finetune_trainer.prepare.privacy.finding import Settings, find_personal_data  # noqa: E402
from finetune_trainer.prepare.privacy.step import PrivacyStep  # noqa: E402
from kit.planted.clean_rows import clean_rows  # noqa: E402
from kit.planted.privacy import FILLERS, Planted, plant  # noqa: E402

SEED = 7


def make_speed_rows(number: int) -> list[str]:
    """Return rows of about 150 characters, one in twenty with a value."""
    random = Random(SEED)
    sentences = [text for texts in FILLERS.values() for text in texts]
    planted = [row.text for row in plant(60, seed=SEED)]
    rows = []
    for place in range(number):
        text = random.choice(planted) if place % 20 == 0 else f"Order {random.randint(1, 9999)}."
        while len(text) < 140:
            text += " " + random.choice(sentences)
        rows.append(text)
    return rows


def find_ours(texts: list[str]) -> tuple[float, Spans]:
    settings = Settings()
    start = time.process_time()
    found = [[(m.start, m.end) for m in find_personal_data(text, settings)] for text in texts]
    return time.process_time() - start, found


def count_found(planted: list[Planted], spans: Spans) -> Counter[str]:
    """Count the values that are wholly within one match, by kind, whatever the match is called."""
    return Counter(
        row.entity
        for row, found in zip(planted, spans, strict=True)
        if any(start <= row.start and row.end <= end for start, end in found)
    )


def measure_step(texts: list[str]) -> float:
    """Return the rows per second of the whole step, digests of changed rows included."""
    step = PrivacyStep(action="Redact", settings=Settings())
    rows = [
        make_example(
            {"prompt": text[: len(text) // 2], "completion": text[len(text) // 2 :]},
            file="rows.jsonl", line=1, side=None, group_value=None,
        )
        for text in texts
    ]  # fmt: skip
    start = time.process_time()
    for row in rows:
        step.judge(row)
    return len(rows) / (time.process_time() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="rows that the speed is taken of")
    parser.add_argument("--presidio", help="an interpreter that has presidio-analyzer")
    options = parser.parse_args()
    speed = make_speed_rows(options.rows)
    planted = list(plant(60, seed=SEED))
    clean = [text for _, text in clean_rows(1000, seed=SEED)]
    batches = [speed[:2000], [row.text for row in planted], clean]
    find_ours(speed[:500])  # tables are read once
    seconds, _ = find_ours(speed)
    step_rows = measure_step(speed)
    ours = [find_ours(batch) for batch in batches]
    theirs: list[tuple[float, Spans]] = []
    if options.presidio:
        theirs = ask_presidio(options.presidio, batches)
    else:
        print("presidio is not measured: give --presidio an interpreter that has it\n")
    print("| what | ours | presidio |\n|---|---|---|")
    other = f"{len(batches[0]) / theirs[0][0]:,.0f}" if theirs else "-"
    print(f"| texts per CPU second | {len(speed) / seconds:,.0f} | {other} |")
    print(f"| rows per CPU second, the whole step | {step_rows:,.0f} | - |")
    false: list[int | str] = [sum(map(bool, spans)) for _, spans in [ours[2], *theirs[2:]]]
    print(
        f"| clean rows with a match, of {len(clean)} | {false[0]} | {false[1] if theirs else '-'} |"
    )
    totals = Counter(row.entity for row in planted)
    found = [count_found(planted, spans) for _, spans in [ours[1], *theirs[1:2]]]
    for entity, total in totals.items():
        share = f"{found[1][entity] / total:.3f}" if theirs else "-"
        print(f"| {entity}: found whole, of {total} | {found[0][entity] / total:.3f} | {share} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
