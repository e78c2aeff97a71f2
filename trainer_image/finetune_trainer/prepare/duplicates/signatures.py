"""Find pairs of texts that may be nearly equal: MinHash over character shingles, in bands.

The signature of a text are the minima of many hash functions over its shingles; two texts agree in
a minimum as often as their shingles overlap. Texts that agree in all minima of a band are
candidates. Shingles of many texts (a template, common words) are left out, else all texts of one
template would be candidates of each other.

Nothing depends on the order of the texts, the number of processes or Python's hash seed.

Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman and
Ullman, "Mining of Massive Datasets", 3.4 (bands).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHINGLE_BYTES = 4
NUM_MINIMA = 128
BAND_ROWS = 4
"""Minima of a band: with 32 bands of 4, texts whose shingles overlap by half are candidates with
probability 0.87, by 0.6 with 0.99, by a tenth with 0.003."""

_HEAD_BYTES = 2048
_TAIL_BYTES = 1024
_BATCH_TEXTS = 2000
_TABLE_BITS = 22
_COMMON_SHARES = (0.1, 0.01)
_COMMON_TEXTS = 20
_MIN_SHINGLES = 3
_SEED = 1
_FULL_BUCKET = 12
_NEIGHBOURS = 4
_LEAST_ESTIMATE = 0.4
_MAX_CANDIDATES = 12
_MULTIPLIER = 0x9E3779B97F4A7C15


def count_shingles(texts: Iterable[bytes]) -> NDArray[np.int64]:
    """Count in how many texts each shingle is, in a table of fixed size.

    Args:
        texts: Normalised texts, UTF-8.

    Returns:
        Counts by the shingle's place in the table. Shingles that share a place are counted
        together; a shingle is counted once for each time a text has it.
    """
    import numpy as np

    table = np.zeros(1 << _TABLE_BITS, dtype=np.int64)
    for batch in _batches(texts, 5 * _BATCH_TEXTS):
        shingles, _ = _shingle(batch)
        table += np.bincount(_place(shingles), minlength=len(table))
    return table


def sign_texts(
    texts: Iterable[bytes],
    num_texts: int,
    table: NDArray[np.int64],
    *,
    num_counted: int,
    share: float,
) -> NDArray[np.uint32]:
    """Return the signatures of texts, one row each; all zero for a text of common shingles alone.

    Args:
        texts: Normalised texts, UTF-8.
        num_texts: How many there are.
        table: As :func:`count_shingles` returns it.
        num_counted: Texts that were counted.
        share: Shingles of more than this share of the texts are left out.
    """
    import numpy as np
    import rensa

    most = max(_COMMON_TEXTS, int(share * num_counted))
    signatures = np.zeros((num_texts, NUM_MINIMA), dtype=np.uint32)
    start = 0
    for batch in _batches(texts, _BATCH_TEXTS):
        shingles, text_of = _shingle(batch)
        kept = table[_place(shingles)] <= most
        counts = np.bincount(text_of[kept], minlength=len(batch))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
            shingles[kept], offsets, num_perm=NUM_MINIMA, seed=_SEED
        )
        rows = np.array(matrix.to_rows(), dtype=np.uint32).reshape(len(batch), NUM_MINIMA)
        rows[counts < _MIN_SHINGLES] = 0
        signatures[start : start + len(batch)] = rows
        start += len(batch)
    return signatures


def find_candidates(signatures: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return pairs of texts that may be nearly equal.

    Args:
        signatures: One row per text. Texts must stand in an order that their content decides: it
            breaks ties.

    Returns:
        Pairs of indexes, the smaller one first, ascending, shape ``(n, 2)``; of each text at most
        some twelve, those with the highest estimate.
    """
    import numpy as np

    num_texts = len(signatures)
    signed = np.flatnonzero(signatures.any(axis=1))
    codes = np.zeros(0, dtype=np.int64)
    for start in range(0, NUM_MINIMA, BAND_ROWS):
        keys = _fold(signatures[signed, start : start + BAND_ROWS])
        # Within a full bucket, neighbours by the next band are the likeliest pairs.
        following = (start + BAND_ROWS) % NUM_MINIMA
        ties = _fold(signatures[signed, following : following + BAND_ROWS])
        found = [codes]
        for a, b in _pair_up(keys, ties):
            first, second = signed[a], signed[b]
            likely = _estimate(signatures, first, second) >= _LEAST_ESTIMATE
            found.append(first[likely] * num_texts + second[likely])
        codes = np.unique(np.concatenate(found))
        if len(codes) > _MAX_CANDIDATES * num_texts:  # memory stays bounded: the rest never wins
            codes = _choose_best(signatures, codes)
    codes = _choose_best(signatures, codes)
    return np.stack(np.divmod(codes, num_texts), axis=1)


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
    """Keep the pairs that are among the best of one of their texts."""
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


def _batches(texts: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    stream = iter(texts)
    while batch := list(islice(stream, size)):
        yield batch


def _shingle(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of all shingles, and the text of each."""
    import numpy as np

    padded = [b" %b " % _shorten(text).ljust(SHINGLE_BYTES - 2) for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    raw = np.frombuffer(b"".join(padded), dtype=np.uint8)
    windows = lengths - (SHINGLE_BYTES - 1)
    starts = np.cumsum(lengths) - lengths
    text_of = np.repeat(np.arange(len(texts)), windows)
    within = np.arange(len(text_of)) - np.repeat(np.cumsum(windows) - windows, windows)
    at = starts[text_of] + within
    values = np.zeros(len(at), dtype=np.uint64)
    for offset in range(SHINGLE_BYTES):
        values |= raw[at + offset].astype(np.uint64) << np.uint64(8 * offset)
    values *= np.uint64(_MULTIPLIER)
    values ^= values >> np.uint64(32)
    values *= np.uint64(_MULTIPLIER)
    return values, text_of


def _shorten(text: bytes) -> bytes:
    """Take the beginning and the end of a long text: what is compared stays bounded."""
    if len(text) <= _HEAD_BYTES + _TAIL_BYTES:
        return text
    return text[:_HEAD_BYTES] + text[-_TAIL_BYTES:]


def _place(shingles: NDArray[np.uint64]) -> NDArray[np.int64]:
    import numpy as np

    return (shingles >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)


def _fold(minima: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Hash the minima of a band into one number."""
    import numpy as np

    folded = np.zeros(len(minima), dtype=np.uint64)
    for column in range(minima.shape[1]):
        folded = (folded ^ minima[:, column]) * np.uint64(_MULTIPLIER)
        folded ^= folded >> np.uint64(29)
    return folded


COMMON_SHARES = _COMMON_SHARES
"""Texts are signed once for each: without very common shingles, and with rare ones alone, so that a
different frame around the same question does not hide it."""
