"""Finds rows with nearly equal answers."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from finetune_trainer.prepare.duplicates.cores import strip_markup
from finetune_trainer.prepare.duplicates.rows import Comparison
from finetune_trainer.prepare.duplicates.similarity import (
    Prompt,
    compare_prompts,
    count_words,
    read_prompt,
)
from finetune_trainer.prepare.rows.normal import answer_text
from finetune_trainer.prepare.rows.spool import Spool

_SAMPLED = 20_000
"""Answers whose words are counted."""
_KEPT_ANSWERS = 20_000


class NearAnswers:
    """Compares answers of rows by their differences, as prompts are compared.

    Labels, tool calls and preferences are near only if they are equal. Answers with different
    numbers or signs are never near. Where one of two has markup, its text without it is compared.
    """

    def __init__(self, rows: Comparison, spool: Spool, *, threshold: float) -> None:
        """Count the words of the answers; ``threshold`` is the least equal share of two answers."""
        self._marks = rows.marks
        self._threshold = threshold
        read = spool.row_reader()
        # By digest, so that the order of the rows changes nothing.
        positions = rows.keys.positions[rows.keys.contents.argsort(kind="stable")]
        vocabulary = count_words(answer_text(read(i)) for i in positions[:_SAMPLED].tolist())

        @lru_cache(maxsize=_KEPT_ANSWERS)
        def answer(position: int, *, bare: bool = False) -> Prompt:
            text = answer_text(read(position))
            return read_prompt(strip_markup(text) if bare else text, vocabulary)

        self._answer = answer
        self._vocabulary = vocabulary

    def has_text(self, position: int) -> bool:
        """Whether the answer of a row is a comparable text."""
        return bool(self._answer(position).words)

    def are_near(self, a: int, b: int) -> bool:
        """Whether the answers of two rows, by their positions, are nearly equal."""
        if self._marks.answers[a] == self._marks.answers[b]:
            return True
        if self._marks.is_label[a] or self._marks.is_label[b]:
            return False
        first, second = self._answer(a), self._answer(b)
        bare = [self._answer(position, bare=True) for position in (a, b)]
        if (first != bare[0]) != (second != bare[1]):
            first, second = bare
        if not first.words or not second.words or _figures(first) != _figures(second):
            return False
        return compare_prompts(first, second, self._vocabulary) >= self._threshold


def _figures(answer: Prompt) -> Counter[str]:
    return Counter({w: n for w, n in answer.counts.items() if not w[0].isalpha()})
