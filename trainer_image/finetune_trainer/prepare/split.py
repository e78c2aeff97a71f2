"""Divides the compared rows, and records the removed ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Split
from finetune_trainer.data.prepared import CONFLICTS_NAME, REMOVED_NAME
from finetune_trainer.prepare.duplicates.comparing import Compared
from finetune_trainer.prepare.rows.spool import SIDES
from finetune_trainer.prepare.splits.dividing import Division, divide_rows
from finetune_trainer.prepare.splits.strata import find_strata, largest_deviation


def divide_compared(compared: Compared, split: Split, *, is_anchored: bool = False) -> Division:
    """Put every row on a side: by content with equal label shares, or by time, the latest held out.

    With an anchor later jobs divide more rows, and none may hold out what an earlier one trained
    on: there the side of a row depends on its own content alone.

    Raises:
        DataError: There are fewer groups than sides.
    """
    by_time = split.by == "Time"
    strata = None if by_time else find_strata(compared.keys, compared.marks)
    division = divide_rows(
        compared.keys,
        test_percent=split.test_percent,
        validation_percent=split.validation_percent,
        seed=split.seed,
        strata=strata,
        times=compared.marks.times[compared.keys.positions] if by_time else None,
        by_threshold=is_anchored,
    )
    if strata is None:
        return division
    return replace(
        division,
        num_labels=int(strata.max()) + 1,
        largest_deviation=max(
            largest_deviation(strata, division.sides == code) for code in range(len(SIDES))
        ),
    )


def write_records(folder: Path, compared: Compared) -> None:
    """Write the files and lines of rows left out and of contradictions, as JSON Lines."""
    _write_lines(folder / REMOVED_NAME, compared.removed_rows())
    _write_lines(folder / CONFLICTS_NAME, compared.conflicting_rows())


def _write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not path.stat().st_size:
        path.unlink()
