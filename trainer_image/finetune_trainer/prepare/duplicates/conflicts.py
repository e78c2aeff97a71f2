"""Finds questions with two labels, or two JSON answers, which a model cannot learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any

from finetune_trainer.prepare.duplicates.prompts import Prompts
from finetune_trainer.prepare.duplicates.rows import TEST, Comparison, Removed
from finetune_trainer.prepare.rows.normal import MAX_LABEL_CHARACTERS, json_answer
from finetune_trainer.prepare.rows.spool import Spool

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
        fields: Questions by the field in which their first two JSON answers differ.
    """

    num_questions: int
    indexes: NDArray[np.int64]
    against: NDArray[np.int64]
    fields: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.indexes)


def find_conflicts(rows: Comparison, prompts: Prompts, spool: Spool) -> Conflicts:
    """Find rows with one question, except slips, and different labels.

    JSON answers to one prompt are compared by value. A question with another long answer, or with
    JSON of another long text, is skipped: its answers are references, not labels.
    """
    import numpy as np

    positions = rows.keys.positions
    numbers = prompts.of(positions)
    question_of = _number_questions(prompts)[numbers]
    is_label, answers = rows.marks.is_label[positions], rows.marks.answers[positions]
    read = cache(spool.row_reader)
    is_json, fields = _find_json(numbers, answers, lambda i: json_answer(read()(int(positions[i]))))
    # A slip makes another question here: the answer may repeat it.
    question_of[is_json] = prompts.num_prompts + numbers[is_json]
    is_label[is_json] = True
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
        num_questions=len(firsts),
        indexes=indexes,
        against=np.array(against, dtype=np.int64),
        fields=fields,
    )


def _find_json(
    numbers: NDArray[np.int64], answers: NDArray[np.uint64], read: Callable[[int], Any]
) -> tuple[list[int], Counter[str]]:
    """Return the rows of prompts with only JSON answers, and several; and in what they differ.

    A prompt is left out if its first two answers have different texts that are too long for labels.
    ``read`` returns the JSON answer of a row by its index. The counts are
    :attr:`Conflicts.fields`.
    """
    import numpy as np

    is_json: list[int] = []
    fields: Counter[str] = Counter()
    both = np.unique(np.stack([numbers.astype(np.uint64), answers]), axis=1)
    asked = np.flatnonzero(np.bincount(both[0].astype(np.int64))[numbers] > 1)
    asked = asked[np.argsort(numbers[asked], kind="stable")]
    for _, some in groupby(asked.tolist(), key=numbers.__getitem__):
        found = {index: read(index) for index in some}
        if None not in found.values():
            one, other, *_ = {answers[index]: value for index, value in found.items()}.values()
            if _find_long_texts(one) == _find_long_texts(other):
                is_json += found
                fields.update(_find_differing(one, other))
    return is_json, fields


def _find_long_texts(value: Any) -> set[str]:
    values = [value]
    for each in values:  # grows on the way
        if isinstance(each, dict | list):
            values += each.values() if isinstance(each, dict) else each
    return {each for each in values if isinstance(each, str) and len(each) > MAX_LABEL_CHARACTERS}


def _find_differing(one: Any, other: Any) -> set[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return {"a list"}
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


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
