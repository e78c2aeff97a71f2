"""On which side of the division rows with personal data lie, by kind. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.spec.privacy import ENTITIES
from finetune_trainer.prepare.checks.checks import Finding, SplitCount
from finetune_trainer.prepare.rows.spool import SIDES
from finetune_trainer.prepare.splits.dividing import Division

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERSONAL_DATA = "personalData"
"""Name of the check."""


def mark_kinds(kinds: Iterable[str]) -> int:
    """Return the kinds as a number, with a bit for each."""
    found = frozenset(kinds)
    return sum(1 << place for place, entity in enumerate(ENTITIES) if entity in found)


def count_by_split(
    findings: Sequence[Finding], division: Division, personal: NDArray[np.uint16]
) -> list[Finding]:
    """Return the findings; that of personal data gets its rows on each side.

    ``personal`` is the result of :func:`mark_kinds` for every row of the spool.
    """
    marks = personal[division.positions]
    sides = []
    for code, side in enumerate(SIDES):
        there = marks[division.sides == code]
        kinds = {entity: int((there >> place & 1).sum()) for place, entity in enumerate(ENTITIES)}
        sides.append(
            SplitCount(
                side=side,
                num_rows=int((there > 0).sum()),
                kinds={entity: number for entity, number in kinds.items() if number},
            )
        )
    return [
        replace(finding, sides=tuple(sides))
        if finding.name == PERSONAL_DATA and finding.num_flagged
        else finding
        for finding in findings
    ]
