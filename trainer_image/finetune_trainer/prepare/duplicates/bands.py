"""Finds pairs of texts that may be nearly equal: their signatures agree in a whole band.

Processes search bands independently; results are joined in the bands' order. Source: Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.prepare.duplicates.signatures import NUM_MINIMA
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAND_ROWS = 4
"""Minima of a band: with 32 bands of 4, texts whose shingles overlap by half are candidates with
probability 0.87, by 0.6 with 0.99, by a tenth with 0.003."""

_FULL_BUCKET = 12
_NEIGHBOURS = 4
_LEAST_ESTIMATE = 0.4
_MAX_CANDIDATES = 12
NUM_TEXTS_ALONE = 20_000
"""So many texts are compared here, before other processes are asked."""
_MULTIPLIER = 0x9E3779B97F4A7C15


def find_candidates(path: Path, workers: Workers) -> NDArray[np.int64]:
    """Return pairs of texts that may be nearly equal.

    ``path`` holds signatures of texts in an order that their content decides, which breaks ties.

    Returns:
        Pairs of indexes, the smaller one first, ascending, shape ``(n, 2)``; of each text at most
            some twelve, those with the highest estimate.
    """
    import numpy as np

    signatures = np.load(path, mmap_mode="r")
    num_texts = len(signatures)
    starts = range(0, NUM_MINIMA, BAND_ROWS)
    codes = np.zeros(0, dtype=np.int64)
    for found in workers.map_in_order(
        prepare_band, path, starts, num_alone=len(starts) if num_texts <= NUM_TEXTS_ALONE else 0
    ):
        codes = np.unique(np.concatenate([codes, found]))
        if len(codes) > _MAX_CANDIDATES * num_texts:  # memory stays bounded: the rest never wins
            codes = _choose_best(signatures, codes)
    codes = _choose_best(signatures, codes)
    return np.stack(np.divmod(codes, num_texts), axis=1)


def prepare_band(path: Path) -> Callable[[int], NDArray[np.int64]]:
    """Return the function that finds the likely pairs of the band that starts at a minimum."""
    import numpy as np

    signatures = np.load(path, mmap_mode="r")
    num_texts = len(signatures)
    signed = np.flatnonzero(signatures.any(axis=1))

    def find_pairs(start: int) -> NDArray[np.int64]:
        keys = _fold(signatures[signed, start : start + BAND_ROWS])
        # Within a full bucket, neighbours by the next band are the likeliest pairs.
        following = (start + BAND_ROWS) % NUM_MINIMA
        ties = _fold(signatures[signed, following : following + BAND_ROWS])
        found = [np.zeros(0, dtype=np.int64)]
        for a, b in _pair_up(keys, ties):
            first, second = signed[a], signed[b]
            likely = _estimate(signatures, first, second) >= _LEAST_ESTIMATE
            found.append(first[likely] * num_texts + second[likely])
        return np.unique(np.concatenate(found))

    return find_pairs


def _pair_up(
    keys: NDArray[np.uint64], ties: NDArray[np.uint64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of equal keys: all of a small bucket, neighbours in a full one."""
    import numpy as np

    order = np.lexsort((ties, keys))
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(ordered)))
    bucket_of = np.repeat(np.arange(len(starts)), sizes)
    is_full = sizes[bucket_of] > _FULL_BUCKET
    for distance in range(1, _FULL_BUCKET):
        same = bucket_of[distance:] == bucket_of[:-distance]
        if distance > _NEIGHBOURS:
            same &= ~is_full[distance:]
        at = np.flatnonzero(same)
        a, b = order[at], order[at + distance]
        yield np.minimum(a, b), np.maximum(a, b)


def _estimate(
    signatures: NDArray[np.uint32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.float32]:
    import numpy as np

    estimates = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), 100_000):
        piece = slice(start, start + 100_000)
        agree = signatures[first[piece]] == signatures[second[piece]]
        estimates[piece] = agree.mean(axis=1)
    return estimates


def _choose_best(signatures: NDArray[np.uint32], codes: NDArray[np.int64]) -> NDArray[np.int64]:
    import numpy as np

    first, second = np.divmod(codes, len(signatures))
    estimates = _estimate(signatures, first, second)
    chosen = np.zeros(len(codes), dtype=bool)
    for texts, others in ((first, second), (second, first)):
        order = np.lexsort((others, -estimates, texts))
        numbers = np.bincount(texts, minlength=len(signatures))
        starts = np.cumsum(numbers) - numbers
        rank = np.arange(len(order)) - starts[texts[order]]
        chosen[order[rank < _MAX_CANDIDATES]] = True
    return codes[chosen]


def _fold(minima: NDArray[np.uint32]) -> NDArray[np.uint64]:
    import numpy as np

    folded = np.zeros(len(minima), dtype=np.uint64)
    for column in range(minima.shape[1]):
        folded = (folded ^ minima[:, column]) * np.uint64(_MULTIPLIER)
        folded ^= folded >> np.uint64(29)
    return folded
