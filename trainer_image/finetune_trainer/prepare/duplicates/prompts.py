"""The distinct prompts of a data set and which of them are near each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.answers import NearAnswers
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


_MAX_ANSWERS = 8
"""Answers to one prompt that are compared with those to another."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Distinct normalised prompts, numbered in the order of their digests.

    Attributes:
        digests: Their digests, ascending.
        number_of: The number of each row's prompt, by position; -1 for rows left out before.
        first: Position of the first row with each.
        near: Pairs of near prompts.
        leaks: Pairs of :attr:`near` that leak from training to test.
    """

    digests: NDArray[np.bytes_]
    number_of: NDArray[np.int64]
    first: NDArray[np.int64]
    near: NearPairs
    leaks: NearPairs

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

    Two prompts whose rows have different labels are near only if they are equal word by word,
    except slips. A ``threshold`` of None looks for equal prompts only.
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
                sides=_by_split(rows, positions, number),
                on_progress=on_progress,
            )
    prompts = Prompts(digests=digests, number_of=number_of, first=first, near=near, leaks=near)
    near = _without_contrasts(rows, prompts)
    leaks = near
    if threshold is not None and near.two_frames.any():
        answers = NearAnswers(rows, spool, threshold=threshold)
        leaks = near.take(~near.two_frames | _say_the_same(positions, number, near, answers))
    return replace(prompts, near=near, leaks=leaks)


def _by_split(
    rows: Comparison, positions: NDArray[np.int64], number: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Return the numbers of the prompts of each side, drawn by content: they ascend by digest."""
    import numpy as np

    sides = np.concatenate([rows.keys.sides, np.full(len(rows.benchmarks), BENCHMARK)])
    assert len(sides) == len(positions)
    return [np.unique(number[sides == side]) for side in np.unique(sides).tolist()]


def _say_the_same(
    positions: NDArray[np.int64], number: NDArray[np.int64], near: NearPairs, answers: NearAnswers
) -> NDArray[np.bool_]:
    """Return for each pair with two frames whether some answers are near or not comparable."""
    import numpy as np

    found = np.zeros(len(near), dtype=bool)
    asked = np.flatnonzero(near.two_frames)
    of_prompt: dict[int, list[int]] = {each: [] for each in near.pairs[asked].ravel().tolist()}
    is_asked = np.isin(number, list(of_prompt))
    for prompt, row in zip(number[is_asked].tolist(), positions[is_asked].tolist(), strict=True):
        if len(of_prompt[prompt]) < _MAX_ANSWERS:
            of_prompt[prompt].append(row)
    for place in asked.tolist():
        ours, theirs = (of_prompt[each] for each in near.pairs[place].tolist())
        found[place] = any(
            not (answers.has_text(a) and answers.has_text(b)) or answers.are_near(a, b)
            for a in ours
            for b in theirs
        )
    return found


def _without_contrasts(rows: Comparison, prompts: Prompts) -> NearPairs:
    near = prompts.near
    if not len(near):
        return near
    labels = _labels_of(rows, prompts)
    a, b = labels[near.pairs[:, 0]], labels[near.pairs[:, 1]]
    return near.take((a == b) | (a == 0) | (b == 0) | near.same_question)


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
