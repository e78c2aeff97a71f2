"""Nearly equal prompts of a whole data set: candidates by signature, each judged by its words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.bands import find_candidates
from finetune_trainer.prepare.duplicates.signatures import count_shingles, sign_texts
from finetune_trainer.prepare.duplicates.similarity import (
    MAX_TEXTS,
    Prompt,
    Vocabulary,
    compare_prompts,
    count_words,
    is_same_question,
    read_prompt,
)
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KEPT_PROMPTS = 50_000


@dataclass(frozen=True, kw_only=True)
class NearPairs:
    """Pairs of nearly equal prompts.

    Attributes:
        pairs: Indexes of the prompts, the smaller one first, shape ``(n, 2)``, ascending.
        scores: How much of the two is the same, at least the threshold.
        same_question: Whether they are word by word the same but for slips.
    """

    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]
    same_question: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pairs)


def no_pairs() -> NearPairs:
    """Return the pairs of a data set that is not searched."""
    import numpy as np

    return NearPairs(
        pairs=np.zeros((0, 2), dtype=np.int64),
        scores=np.zeros(0),
        same_question=np.zeros(0, dtype=bool),
    )


def find_near_pairs(
    num_prompts: int,
    read: Callable[[int], bytes],
    sample: Sequence[int],
    *,
    threshold: float,
    folder: Path,
    workers: Workers,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> NearPairs:
    """Find the pairs of nearly equal prompts.

    Args:
        num_prompts: Distinct prompts, in an order that their content decides.
        read: Returns the normalised text of one, UTF-8.
        sample: Indexes of the prompts whose words and shingles are counted, drawn by content;
            see :func:`draw_sample`.
        threshold: Least share of two prompts that is the same, between 0 and 1.
        folder: Where signatures may lie meanwhile.
        workers: Who signs prompts and looks for candidates.
        on_progress: Told the judged candidates and their number, now and then.
    """
    import numpy as np

    if num_prompts < 2:
        return no_pairs()
    vocabulary = count_words(read(index).decode() for index in sample)
    table = count_shingles(read(index) for index in sample)
    with TemporaryDirectory(dir=folder) as scratch:
        signatures = sign_texts(
            map(read, range(num_prompts)),
            num_prompts,
            table,
            num_counted=len(sample),
            folder=Path(scratch),
            workers=workers,
        )
        found = [find_candidates(path, workers) for path in signatures]
    codes = [pairs[:, 0] * num_prompts + pairs[:, 1] for pairs in found]
    first, second = np.divmod(np.unique(np.concatenate(codes)), num_prompts)
    candidates = np.stack([first, second], axis=1)
    return _judge(candidates, read, vocabulary, threshold, on_progress)


def draw_sample(num_prompts: int, order: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """Return the indexes of at most ``MAX_TEXTS`` prompts, those with the smallest digests."""
    import numpy as np

    if num_prompts <= MAX_TEXTS:
        return np.arange(num_prompts)
    return np.sort(np.argsort(order, kind="stable")[:MAX_TEXTS])


def _judge(
    candidates: NDArray[np.int64],
    read: Callable[[int], bytes],
    vocabulary: Vocabulary,
    threshold: float,
    on_progress: Callable[[int, int], None],
) -> NearPairs:
    import numpy as np

    @lru_cache(maxsize=_KEPT_PROMPTS)
    def prompt(index: int) -> Prompt:
        return read_prompt(read(index).decode(), vocabulary)

    kept, scores, same = [], [], []
    for number, (first, second) in enumerate(_walk(candidates)):
        if number % 10_000 == 0:
            on_progress(number, len(candidates))
        a, b = prompt(first), prompt(second)
        score = compare_prompts(a, b, vocabulary)
        if score >= threshold:
            kept.append(number)
            scores.append(score)
            same.append(is_same_question(a, b, vocabulary))
    return NearPairs(
        pairs=candidates[kept] if kept else no_pairs().pairs,
        scores=np.array(scores, dtype=np.float64),
        same_question=np.array(same, dtype=bool),
    )


def _walk(pairs: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    for start in range(0, len(pairs), 100_000):
        yield from map(tuple, pairs[start : start + 100_000].tolist())
