"""Removes exact copies, near copies, and rows too close to a held-out row."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.answers import NearAnswers
from finetune_trainer.prepare.duplicates.prompts import Prompts
from finetune_trainer.prepare.duplicates.rows import TEST, TRAIN, Comparison, Removed
from finetune_trainer.prepare.rows.spool import LOOSE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXACT = "duplicateRows"
NEAR = "nearDuplicateRows"
LEAKED = "leakedRows"
CONTAMINATED = "contaminatedRows"

_NONE = 2**62
_MAX_ANSWERS = 50
"""Answers to one prompt that others are compared with."""


def remove_copies(rows: Comparison) -> Removed:
    """Leave out rows with the prompt and answer of an earlier one.

    Rows that a source binds to a held-out side stay; a loose copy of one goes.
    """
    import numpy as np

    is_held_out = rows.is_held_out
    digests = rows.marks.rows[rows.keys.positions]
    is_bound = rows.keys.sides != LOOSE
    # Rows bound to train are compared with held-out ones later: that is a leak, not a copy.
    order = np.lexsort((np.arange(len(digests)), ~is_held_out, digests))
    is_first = _starts(digests[order])
    keeper = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    repeats = ~is_first & ~is_held_out[order]
    crosses = is_held_out[keeper] & is_bound[order]
    out, kept = order[repeats & ~crosses], keeper[repeats & ~crosses]
    by_position = np.argsort(out)
    return rows.remove(EXACT, out[by_position], rows.keys.positions[kept[by_position]])


def count_copies(rows: Comparison) -> int:
    """Count the rows with the prompt and answer of another one; all stay."""
    import numpy as np

    return len(rows.keys) - len(np.unique(rows.marks.rows[rows.keys.positions]))


def find_leaked(rows: Comparison, prompts: Prompts) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Find rows bound to train or validation that are close to a held-out row.

    Close is an equal prompt, or a near one of the same task. Test rows count for both sides,
    validation rows for train.

    Returns:
        Their indexes, ascending, and the positions of the held-out rows.
    """
    import numpy as np

    prompt_of = prompts.of(rows.keys.positions)
    sides = rows.keys.sides
    is_test, is_held_out = sides == TEST, rows.is_held_out
    near_test = _witness(prompts, prompt_of[is_test], rows.keys.positions[is_test])
    near_any = _witness(prompts, prompt_of[is_held_out], rows.keys.positions[is_held_out])
    is_train = sides == TRAIN
    because = np.where(is_train, near_any[prompt_of], _NONE)
    because = np.where(is_held_out & ~is_test, near_test[prompt_of], because)
    found = np.flatnonzero(because < _NONE)
    return found, because[found]


def count_leaked_prompts(rows: Comparison, prompts: Prompts) -> int:
    """Count the distinct test prompts that are equal or near to one of a row bound to train."""
    import numpy as np

    prompt_of, sides = prompts.of(rows.keys.positions), rows.keys.sides
    in_train = _witness(prompts, prompt_of[sides == TRAIN], rows.keys.positions[sides == TRAIN])
    return int((in_train[np.unique(prompt_of[sides == TEST])] < _NONE).sum())


def remove_leaked(rows: Comparison, prompts: Prompts) -> Removed:
    """Leave out the rows that :func:`find_leaked` finds."""
    return rows.remove(LEAKED, *find_leaked(rows, prompts))


def remove_contaminated(rows: Comparison, prompts: Prompts) -> Removed:
    """Leave out rows close to a row of a benchmark, but those that are bound to the test side."""
    import numpy as np

    near = _witness(prompts, prompts.of(rows.benchmarks), rows.benchmarks)
    because = np.where(rows.keys.sides == TEST, _NONE, near[prompts.of(rows.keys.positions)])
    out = np.flatnonzero(because < _NONE)
    return rows.remove(CONTAMINATED, out, because[out])


def remove_near(rows: Comparison, prompts: Prompts, answers: NearAnswers) -> Removed:
    """Leave out rows whose prompt and answer are near to an earlier row's.

    Contradictory answers are never near.
    """
    import numpy as np

    near: dict[int, list[int]] = defaultdict(list)
    for a, b in prompts.near.pairs.tolist():
        near[a].append(b)
        near[b].append(a)
    prompt_of = prompts.of(rows.keys.positions)
    is_touched = np.bincount(prompt_of, minlength=prompts.num_prompts) > 1
    is_touched[list(near)] = True
    is_held_out = rows.is_held_out
    kept: dict[int, list[int]] = defaultdict(list)
    out, because = [], []
    for index in np.flatnonzero(is_touched[prompt_of]).tolist():
        prompt, position = int(prompt_of[index]), int(rows.keys.positions[index])
        twin = None
        if not is_held_out[index]:
            others = (other for n in (*near[prompt], prompt) for other in kept[n])
            twin = next((other for other in others if answers.are_near(other, position)), None)
        if twin is not None:
            out.append(index)
            because.append(twin)
        elif len(kept[prompt]) < _MAX_ANSWERS:
            kept[prompt].append(position)
    return rows.remove(NEAR, np.array(out, dtype=np.int64), np.array(because, dtype=np.int64))


def witness_of(
    prompts: Prompts, found: NDArray[np.int64], positions: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return for each prompt whether one of the given rows leaks it, and the first that does."""
    because = _witness(prompts, found, positions)
    return because < _NONE, because


def _witness(
    prompts: Prompts, found: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return for each prompt the first of the given rows that leaks it, or ``_NONE``."""
    import numpy as np

    own = np.full(prompts.num_prompts, _NONE, dtype=np.int64)
    np.minimum.at(own, found, positions)
    near = np.full_like(own, _NONE)
    first, second = prompts.leaks.pairs[:, 0], prompts.leaks.pairs[:, 1]
    np.minimum.at(near, first, own[second])
    np.minimum.at(near, second, own[first])
    return np.where(own < _NONE, own, near)


def _starts(ordered: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    import numpy as np

    starts = np.ones(len(ordered), dtype=bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    return starts
