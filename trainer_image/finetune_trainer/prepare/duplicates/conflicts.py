"""Finds questions with two labels, which a model cannot learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.prompts import Prompts
from finetune_trainer.prepare.duplicates.rows import TEST, Comparison, Removed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFLICTS = "contradictoryLabels"


@dataclass(frozen=True, kw_only=True)
class Conflicts:
    """Rows whose question has another label elsewhere.

    Attributes:
        num_questions: Questions with more than one label.
        indexes: The rows, as indexes into the keys, ascending.
        against: For each the position of the first row of its question with another label.
    """

    num_questions: int
    indexes: NDArray[np.int64]
    against: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indexes)


def find_conflicts(rows: Comparison, prompts: Prompts) -> Conflicts:
    """Find rows with one question, except slips, and different labels.

    A question with a long answer is skipped: its answers are references, not labels.
    """
    import numpy as np

    question_of = _number_questions(prompts)[prompts.of(rows.keys.positions)]
    positions = rows.keys.positions
    is_label, answers = rows.marks.is_label[positions], rows.marks.answers[positions]
    num = int(question_of.max(initial=-1)) + 1
    all_labels = np.ones(num, dtype=bool)
    all_labels[question_of[~is_label]] = False
    least = np.full(num, np.iinfo(np.uint64).max, dtype=np.uint64)
    most = np.zeros(num, dtype=np.uint64)
    np.minimum.at(least, question_of, answers)
    np.maximum.at(most, question_of, answers)
    is_torn = all_labels & (least < most)
    indexes = np.flatnonzero(is_torn[question_of])
    firsts: dict[int, dict[int, int]] = {}
    for index in indexes.tolist():
        labels = firsts.setdefault(int(question_of[index]), {})
        labels.setdefault(int(answers[index]), int(positions[index]))
    against = [
        next(
            position
            for answer, position in firsts[int(question_of[index])].items()
            if answer != int(answers[index])
        )
        for index in indexes.tolist()
    ]
    return Conflicts(
        num_questions=len(firsts), indexes=indexes, against=np.array(against, dtype=np.int64)
    )


def remove_conflicts(rows: Comparison, conflicts: Conflicts) -> Removed:
    """Leave out all rows of a torn question but those bound to the test side."""
    may_go = rows.keys.sides[conflicts.indexes] != TEST
    return rows.remove(CONFLICTS, conflicts.indexes[may_go], conflicts.against[may_go])


def _number_questions(prompts: Prompts) -> NDArray[np.int64]:
    """Return the question of each prompt: prompts that are the same but for slips share one."""
    import numpy as np

    from finetune_trainer.prepare.duplicates.clusters import join_pairs

    pairs = prompts.near.pairs[prompts.near.same_question].tolist()
    return join_pairs(np.arange(prompts.num_prompts), pairs)
