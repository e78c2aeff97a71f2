"""Finds texts that ask a held-out question again, in almost its words.

A held-out question is looked up by its rarest words and pairs of words; what shares some of them
is judged by its words, as near prompts are (:mod:`finetune_trainer.prepare.duplicates.similarity`).
The cost of a text is bounded by its length, not by the number of held-out questions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.cores import strip_markup
from finetune_trainer.prepare.duplicates.similarity import (
    Prompt,
    Vocabulary,
    compare_prompts,
    contains,
    count_words,
    read_prompt,
    split_words,
    weigh_shared,
)
from finetune_trainer.prepare.rows.spool import Spool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_SEALED_THRESHOLD = 0.5
"""Least equal share of two prompts of which one is sealed: users ask again in other words."""
_SEALED_SHARE = 0.75
"""Least share of a sealed prompt in a text that has more words around it."""
_MOST_AROUND = 4
"""A text of more than so many times a question's weight has its words by chance."""
_BEYOND_CHANCE = 3
"""What two prompts share must be so rare that of all prompts, cubed, one would have it by chance.
Short questions on one subject share less."""
_LEAST_WORDS = 4
"""Words of a question that asks it again wherever it stands."""

_NUM_KEYS = 16
_LEAST_HITS = 3
"""Keys that a text has in common with a question before both are compared."""
_MOST_QUESTIONS = 50
"""Questions that a key leads to."""
_MOST_JUDGED = 8
_LONGEST = 4
"""A text so many times longer than all questions asks none of them."""
_COUNTED = 20_000
"""Prompts whose words are counted."""


class HeldOut:
    """Held-out questions, searched by their rarest words.

    Args:
        texts: Their distinct normalised prompts, in an order that their content decides.
        vocabulary: Counts of words in the data set.
        threshold: Least equal share of a question and a text.
        sealed: Indexes of questions of sealed rows.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        *,
        threshold: float,
        sealed: Collection[int] = (),
    ) -> None:
        self._vocabulary = vocabulary
        self._threshold = threshold
        self._sealed = sealed
        bare = [strip_markup(text) for text in texts]
        self._questions = [read_prompt(text, vocabulary) for text in bare]
        self._longest = max(map(len, bare), default=0)
        keys = [
            {*question.words, *map(" ".join, pairwise(question.words))}
            for question in self._questions
        ]
        numbers = Counter(chain.from_iterable(keys))
        self._num_needed = [min(_LEAST_HITS, len(some)) for some in keys]
        self._places: dict[str, list[int]] = {}
        for index, some in enumerate(keys):
            for key in sorted(some, key=lambda key: (numbers[key], key))[:_NUM_KEYS]:
                places = self._places.setdefault(key, [])
                if len(places) < _MOST_QUESTIONS:
                    places.append(index)

    def find(self, texts: Iterable[str], allowed: Collection[int] | None = None) -> int | None:
        """Return a question that one of these normalised texts asks again, or None.

        Args:
            texts: Such as the last message of a user, and all that stands before an answer.
            allowed: Only these questions count; None allows all.
        """
        for text in texts:
            bare = strip_markup(text)
            if len(bare) > _LONGEST * self._longest:
                continue
            words = split_words(bare)
            keys = self._places.keys() & {*words, *map(" ".join, pairwise(words))}
            hits = Counter(chain.from_iterable(map(self._places.__getitem__, keys)))
            ranked = sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))
            likely = [
                index
                for index, number in ranked
                if number >= self._num_needed[index] and (allowed is None or index in allowed)
            ]
            if not likely:
                continue
            asked = read_prompt(bare, self._vocabulary)
            for index in likely[:_MOST_JUDGED]:
                if self._is_close(index, asked):
                    return index
        return None

    def _is_close(self, index: int, asked: Prompt) -> bool:
        question, vocabulary = self._questions[index], self._vocabulary
        score = compare_prompts(question, asked, vocabulary)
        if score >= self._threshold:
            return True
        if index not in self._sealed:
            return False
        if len(question.words) >= _LEAST_WORDS and contains(asked, question):
            return True
        if question.num_fields and asked.num_fields:  # another record differs by its fields
            return False
        shared = weigh_shared(question, asked, vocabulary)
        if shared < _BEYOND_CHANCE * math.log(max(2, vocabulary.num_texts)):
            return False
        whole = weigh_shared(question, question, vocabulary)
        around = weigh_shared(asked, asked, vocabulary)
        is_inside = shared >= _SEALED_SHARE * whole and around <= _MOST_AROUND * whole
        return score >= _SEALED_THRESHOLD or is_inside


def read_held_out(
    spool: Spool,
    positions: NDArray[np.int64],
    held_out: NDArray[np.int64],
    *,
    threshold: float,
    sealed_from: int | None,
) -> tuple[HeldOut, NDArray[np.int64]]:
    """Read the prompts of held-out rows.

    Args:
        spool: The rows.
        positions: Rows whose words are counted.
        held_out: Rows whose prompts are searched, with those of benchmarks.
        threshold: Least equal share of a question and a text.
        sealed_from: Position of the first row of ``dataset.anchor``; None without any.

    Returns:
        The questions, and for each the position of its first row. A question of a sealed row is
        sealed.
    """
    import numpy as np

    digests = spool.marks().prompts
    first = np.unique(digests[held_out], return_index=True)[1]
    asked = held_out[first]
    counted = positions[np.unique(digests[positions], return_index=True)[1]][:_COUNTED]
    with TemporaryDirectory(dir=spool.folder) as folder:
        read = spool.prompt_file(np.concatenate([asked, counted]), Path(folder)).open()
        texts = [read(index).decode() for index in range(len(asked) + len(counted))]
    sealed: set[int] = set()
    if sealed_from is not None:
        own = digests[held_out[held_out >= sealed_from]]
        sealed = set(np.flatnonzero(np.isin(digests[asked], own)).tolist())
    vocabulary = count_words(texts[len(asked) :])
    questions = HeldOut(texts[: len(asked)], vocabulary, threshold=threshold, sealed=sealed)
    return questions, asked
