"""The distinct prompts of a data set and which of them are near each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.near import (
    NearPairs,
    draw_sample,
    find_near_pairs,
    no_pairs,
)
from finetune_trainer.prepare.duplicates.rows import Comparison
from finetune_trainer.prepare.rows.spool import BENCHMARK, Spool
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Distinct normalised prompts, numbered in the order of their digests.

    Attributes:
        digests: Their digests, ascending.
        number_of: The number of each row's prompt, by position; -1 for rows left out before.
        first: Position of the first row with each.
        near: Which are near each other.
    """

    digests: NDArray[np.bytes_]
    number_of: NDArray[np.int64]
    first: NDArray[np.int64]
    near: NearPairs

    @property
    def num_prompts(self) -> int:
        """Distinct prompts."""
        return len(self.digests)

    def of(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of these rows' prompts."""
        return self.number_of[positions]


def find_prompts(
    rows: Comparison,
    spool: Spool,
    workers: Workers,
    *,
    threshold: float | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prompts:
    """Number the prompts and find those near each other.

    Two prompts whose rows have different labels are not near unless they are word by word the same
    but for slips: what tells them apart is what the model has to learn.

    Args:
        rows: The rows, those of benchmarks among them.
        spool: Holds the normalised prompts.
        workers: As in :func:`finetune_trainer.prepare.duplicates.near.find_near_pairs`.
        threshold: As there; None looks for equal prompts only.
        on_progress: As there.
    """
    import numpy as np

    positions = np.concatenate([rows.keys.positions, rows.benchmarks])
    digests, first, number = np.unique(
        rows.marks.prompts[positions], return_index=True, return_inverse=True
    )
    number_of = np.full(len(rows.marks.prompts), -1, dtype=np.int64)
    number_of[positions] = number
    first = positions[first]
    near = no_pairs()
    if threshold is not None and len(digests) > 1:
        with TemporaryDirectory(dir=spool.folder) as folder:
            near = find_near_pairs(
                len(digests),
                spool.prompt_file(first, Path(folder)),
                draw_sample(len(digests), digests).tolist(),
                threshold=threshold,
                folder=Path(folder),
                workers=workers,
                sides=_by_side(rows, positions, number),
                on_progress=on_progress,
            )
    prompts = Prompts(digests=digests, number_of=number_of, first=first, near=near)
    return _without_contrasts(rows, prompts)


def _by_side(
    rows: Comparison, positions: NDArray[np.int64], number: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the numbers of the prompts of each side, drawn by content: they ascend by digest."""
    import numpy as np

    sides = np.concatenate([rows.keys.sides, np.full(len(rows.benchmarks), BENCHMARK)])
    assert len(sides) == len(positions)
    return [np.unique(number[sides == side]) for side in np.unique(sides).tolist()]


def _without_contrasts(rows: Comparison, prompts: Prompts) -> Prompts:
    import numpy as np

    near = prompts.near
    if not len(near):
        return prompts
    labels = _labels_of(rows, prompts)
    a, b = labels[near.pairs[:, 0]], labels[near.pairs[:, 1]]
    keep = (a == b) | (a == 0) | (b == 0) | near.same_question
    kept = NearPairs(
        pairs=near.pairs[keep], scores=near.scores[keep], same_question=near.same_question[keep]
    )
    assert np.all(kept.pairs[:, 0] < kept.pairs[:, 1])
    return Prompts(
        digests=prompts.digests, number_of=prompts.number_of, first=prompts.first, near=kept
    )


def _labels_of(rows: Comparison, prompts: Prompts) -> NDArray[np.uint64]:
    """Return the label of each prompt; 0 where rows have none or several."""
    import numpy as np

    positions = rows.keys.positions
    answers = np.where(rows.marks.is_label[positions], rows.marks.answers[positions], 0)
    least = np.full(prompts.num_prompts, np.iinfo(np.uint64).max, dtype=np.uint64)
    most = np.zeros(prompts.num_prompts, dtype=np.uint64)
    numbers = prompts.of(positions)
    np.minimum.at(least, numbers, answers)
    np.maximum.at(most, numbers, answers)
    return np.where(least == most, most, np.uint64(0))
