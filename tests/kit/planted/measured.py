"""What ``prepare`` makes of planted rows: precision and recall by kind."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.rows import Side, make_example
from finetune_trainer.prepare.duplicates.comparing import Compared, compare_rows
from finetune_trainer.prepare.rows.spool import Spool, pack_rows
from kit.planted.duplicates import (
    NEAR_KINDS,
    WRAPPERS,
    PlantedRow,
    plant_conflicts,
    plant_duplicates,
    plant_leaks,
    with_slips_in_answers,
    wrapped,
)

FILE = "planted.jsonl"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well one kind of planted rows is found.

    Attributes:
        kind: What was planted.
        planted: How many.
        found: How many of these were found.
        false: Findings that were not planted.
    """

    kind: str
    planted: int
    found: int
    false: int

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def precision(self) -> float:
        return self.found / (self.found + self.false) if self.found + self.false else 1.0


def compare(
    rows: Sequence[tuple[PlantedRow, Side | None]], settings: Mapping[str, Any] | None = None
) -> Compared:
    """Compare rows as ``prepare`` does; a row's line is its number, from 1."""
    dataset = Dataset.model_validate({"sources": [{"uri": "s3://b/x.jsonl"}], **(settings or {})})
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "rows.jsonl") as spool:
        for number, (row, side) in enumerate(rows, start=1):
            canonical = {"prompt": row.prompt, "completion": row.completion}
            example = make_example(canonical, file=FILE, line=number, side=side, group_value=None)
            spool.add(pack_rows([example]))
        return compare_rows(spool, dataset)


def measure_duplicates(number: int, seed: int) -> list[Score]:
    """Measure exact copies and each kind of near ones.

    A near copy is found when it lies in one group with its original; a false finding is a row in a
    group with a row of another origin.
    """
    rows = plant_duplicates(number, seed)
    compared = compare([(row, None) for row in rows])
    removed = {record["line"] - 1: record["otherLine"] - 1 for record in compared.removed_rows()}
    scores = []
    for kind in ("exact", "caseSpace"):
        pairs = {i: j for i, j in removed.items() if kind in (rows[i].kind, rows[j].kind)}
        found = sum(rows[i].origin == rows[j].origin for i, j in pairs.items())
        planted = sum(row.kind == kind for row in rows)
        scores.append(Score(kind=kind, planted=planted, found=found, false=len(pairs) - found))
    group_of = dict(
        zip(compared.keys.positions.tolist(), compared.keys.groups.tolist(), strict=True)
    )
    clean = {row.origin: i for i, row in enumerate(rows) if row.kind == "clean" and i in group_of}
    origins: dict[bytes, Counter[int]] = {}
    for i, group in group_of.items():
        origins.setdefault(group, Counter())[rows[i].origin] += 1
    for kind in NEAR_KINDS:
        copies = [i for i, row in enumerate(rows) if row.kind == kind]
        found = sum(group_of[i] == group_of[clean[rows[i].origin]] for i in copies)
        false = sum(len(origins[group_of[i]]) - 1 for i in copies)
        scores.append(Score(kind=kind, planted=len(copies), found=found, false=false))
    copies = [i for i, row in enumerate(rows) if row.kind in NEAR_KINDS]
    false = sum(len(found) - 1 for found in origins.values())
    near = [score for score in scores if score.kind in NEAR_KINDS]
    total = Score(
        kind="near, all",
        planted=sum(score.planted for score in near),
        found=sum(score.found for score in near),
        false=false,
    )
    return [*scores, total]


def measure_near_drops(number: int, seed: int) -> Score:
    """Measure how many near copies go with `near: Drop`: their longer answers have slips, too."""
    rows = with_slips_in_answers(plant_duplicates(number, seed), seed)
    compared = compare([(row, None) for row in rows], {"duplicates": {"near": "Drop"}})
    pairs = [
        (rows[record["line"] - 1], rows[record["otherLine"] - 1])
        for record in compared.removed_rows()
        if record["check"] == "nearDuplicateRows"
    ]
    found = sum(one.origin == other.origin for one, other in pairs)
    planted = sum(row.kind in NEAR_KINDS for row in rows)
    return Score(kind="near, dropped", planted=planted, found=found, false=len(pairs) - found)


def measure_leaks(number: int, seed: int, *, wrapper: str = "") -> Score:
    """Measure twins of held-out rows among the rows to train on.

    Args:
        number: Clean rows.
        seed: Of all that is drawn.
        wrapper: One of :data:`WRAPPERS`, which all held-out prompts stand in.
    """
    train, held_out = plant_leaks(number, seed)
    if wrapper:
        held_out = wrapped(held_out, WRAPPERS[wrapper])
    rows = [*((row, Side.TRAIN) for row in train), *((row, Side.TEST) for row in held_out)]
    compared = compare(rows)
    removed = [rows[record["line"] - 1][0] for record in compared.removed_rows()]
    found = sum(row.kind.startswith("leak:") for row in removed)
    planted = sum(row.kind.startswith("leak:") for row in train)
    kind = f"leak, {wrapper}" if wrapper else "leak"
    return Score(kind=kind, planted=planted, found=found, false=len(removed) - found)


def measure_conflicts(number: int, seed: int) -> Score:
    """Measure questions with two labels."""
    rows = plant_conflicts(number, seed)
    compared = compare([(row, None) for row in rows])
    planted = {row.origin for row in rows if row.kind.startswith("conflict:")}
    found = {rows[record["line"] - 1].origin for record in compared.conflicting_rows()}
    return Score(
        kind="conflict",
        planted=len(planted),
        found=len(found & planted),
        false=len(found - planted),
    )


def measure_all(number: int, seed: int) -> list[Score]:
    """Measure everything that compares rows with each other."""
    return [
        *measure_duplicates(number, seed),
        measure_near_drops(number, seed),
        measure_leaks(number, seed),
        *(measure_leaks(number, seed, wrapper=wrapper) for wrapper in WRAPPERS),
        measure_conflicts(number, seed),
    ]
