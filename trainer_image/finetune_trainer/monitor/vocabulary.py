"""How usual the words of a text are, by hashed words and pairs of words of a reference. Pure."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluate.metrics.words import split_words

NUM_BUCKETS = 2**16
"""Buckets that words and pairs are hashed into: different ones share a bucket by chance."""
MAX_CHARACTERS = 4000
"""How much of a text is read."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How unusual each bucket is in a reference.

    Attributes:
        surprises: Of each of the :data:`NUM_BUCKETS` buckets, from 0 to 1.
    """

    surprises: NDArray[np.float64]

    def surprise(self, text: str) -> float | None:
        """Return how unusual the words of a text are; None for a text without words.

        It is the mean over words and pairs of minus the logarithm of their frequency in the
        reference, each counted once more than it occurred. The scale ends at 1: the value of a text
        that has nothing in common with the reference.
        """
        buckets = list(_buckets(text))
        return float(self.surprises[buckets].mean()) if buckets else None


def count_words(texts: Iterable[str]) -> Vocabulary:
    """Return the vocabulary of a reference."""
    counts = np.zeros(NUM_BUCKETS, dtype=np.int64)
    for text in texts:
        np.add.at(counts, list(_buckets(text)), 1)
    total = int(counts.sum()) + NUM_BUCKETS
    return Vocabulary(np.log(total / (counts + 1)) / math.log(total))


def _buckets(text: str) -> Iterator[int]:
    words = [word.encode("utf-8", "surrogatepass") for word in split_words(text[:MAX_CHARACTERS])]
    for word in words:
        yield zlib.crc32(word) % NUM_BUCKETS
    for first, second in pairwise(words):
        yield zlib.crc32(first + b" " + second) % NUM_BUCKETS
