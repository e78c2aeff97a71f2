"""Earlier learned answers of conversations: what they begin, and held-out questions they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.close import read_held_out
from finetune_trainer.prepare.duplicates.rows import TEST, TRAIN, VALIDATION, Comparison
from finetune_trainer.prepare.rows.normal import earlier_questions
from finetune_trainer.prepare.rows.spool import BENCHMARK, LOOSE, Spool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def find_beginnings(rows: Comparison, spool: Spool) -> NDArray[np.int64]:
    """Return pairs of indexes of rows: the first goes on after the prompt of the second."""
    import numpy as np

    owners, turns = spool.turns()
    index_of = np.full(len(spool), -1, dtype=np.int64)
    index_of[rows.keys.positions] = np.arange(len(rows.keys))
    known, first = np.unique(rows.marks.prompts[rows.keys.positions], return_index=True)
    place = np.searchsorted(known, turns).clip(max=max(len(known) - 1, 0))
    is_there = index_of[owners] >= 0
    if len(known):
        is_there &= known[place] == turns
    return np.stack([index_of[owners[is_there]], first[place[is_there]]], axis=1)


def find_held_out_turns(
    spool: Spool,
    positions: NDArray[np.int64],
    sides: NDArray[np.uint8],
    *,
    threshold: float,
    sealed_from: int | None = None,
) -> Mapping[int, frozenset[int]]:
    """Find earlier learned answers to the prompt of a row held out from their side.

    Test rows and benchmarks are held out from train and validation, validation rows from train.
    Such a prompt is equal or near to the last question before the answer, or to all before it.

    Args:
        spool: The rows, with those of benchmarks.
        positions: Rows that are on a side.
        sides: Code of the side of each of these.
        threshold: Least equal share of near prompts.
        sealed_from: Position of the first row of ``dataset.anchor``; None without any.

    Returns:
        By position of the row, which of its earlier learned answers, from 0.
    """
    import numpy as np

    owners, turns = spool.turns()
    prompts = spool.marks().prompts
    code_of = np.where(spool.keys().sides == BENCHMARK, BENCHMARK, LOOSE).astype(np.uint8)
    code_of[positions] = sides
    is_test = np.isin(code_of, (TEST, BENCHMARK))
    is_held_out = is_test | (code_of == VALIDATION)
    side = code_of[owners]
    is_learned = np.isin(side, (TRAIN, VALIDATION))
    if not (is_learned.any() and is_held_out.any()):
        return {}
    held_out, asked = read_held_out(
        spool, positions, np.flatnonzero(is_held_out), threshold=threshold, sealed_from=sealed_from
    )
    tested = set(np.flatnonzero(np.isin(prompts[asked], prompts[is_test])).tolist())
    is_equal = np.isin(turns, prompts[is_held_out])
    is_equal[side == VALIDATION] = np.isin(turns[side == VALIDATION], prompts[is_test])
    found: dict[int, frozenset[int]] = {}
    read = spool.row_reader()
    firsts = np.flatnonzero(np.diff(owners, prepend=-1))
    for first in firsts[is_learned[firsts]].tolist():
        position = int(owners[first])
        allowed = None if code_of[position] == TRAIN else tested
        places = frozenset(
            place
            for place, texts in enumerate(earlier_questions(read(position)))
            if is_equal[first + place] or held_out.find(dict.fromkeys(texts), allowed) is not None
        )
        if places:
            found[position] = places
    return found
