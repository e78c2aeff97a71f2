"""Signs texts: MinHash over character shingles.

Two texts agree in a minimum as often as their shingles overlap. Shingles of many texts are left
out, because a shared template would make all texts candidates. The result does not depend on text
order, processes or Python's hash seed. Source: Broder 1997, "On the resemblance and containment of
documents".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.prepare.rows.prompt_file import PromptFile
from finetune_trainer.prepare.workers import Workers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHINGLE_BYTES = 4
NUM_MINIMA = 128
_HEAD_BYTES = 2048
_TAIL_BYTES = 1024
BATCH_TEXTS = 2000
_TABLE_BITS = 22
_COMMON_SHARES = (0.1, 0.01)
_COMMON_TEXTS = 20
_MIN_SHINGLES = 3
_SEED = 1
NUM_BATCHES_ALONE = 5
_MULTIPLIER = 0x9E3779B97F4A7C15
_pack = struct.Struct(f"{NUM_MINIMA}I").pack


def count_shingles(texts: Iterable[bytes]) -> NDArray[np.uint32]:
    """Count in how many texts each shingle is, in a table of fixed size.

    Returns:
        Counts by the shingle's place in the table; shingles that share a place are counted
            together.
    """
    import numpy as np

    table = np.zeros(1 << _TABLE_BITS, dtype=np.uint32)
    for batch in _batches(texts, 5 * BATCH_TEXTS):
        shingles, _ = _shingle(batch)
        places, counts = np.unique(_place(shingles), return_counts=True)
        table[places] += counts.astype(np.uint32)  # of a few texts it touches a few places
    return table


def sign_texts(
    texts: PromptFile,
    num_texts: int,
    table: NDArray[np.uint32],
    *,
    num_counted: int,
    folder: Path,
    workers: Workers,
) -> tuple[Path, ...]:
    """Sign texts without very common shingles, and by rare ones alone.

    The second signature finds the same question in a different frame. The signatures lie on disk,
    where every process maps them.

    Args:
        texts: The texts.
        num_texts: Number of texts.
        table: Result of :func:`count_shingles`.
        num_counted: Texts that were counted.
        folder: Where to.
        workers: Sign texts.

    Returns:
        For either an array in ``.npy``, uint32, one row a text; all zero for a text of common
            shingles alone.
    """
    import numpy as np

    settings = Signing(
        texts=texts,
        table=folder / "shingles.npy",
        most=tuple(max(_COMMON_TEXTS, int(share * num_counted)) for share in _COMMON_SHARES),
    )
    np.save(settings.table, table)
    paths = tuple(folder / f"signatures-{number}.npy" for number in range(len(_COMMON_SHARES)))
    files = [
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint32, shape=(num_texts, NUM_MINIMA))
        for path in paths
    ]
    start = 0
    for signed in workers.map_in_order(
        prepare_signing, settings, _ranges(num_texts), num_alone=NUM_BATCHES_ALONE
    ):
        for file, rows in zip(files, signed, strict=True):
            file[start : start + len(rows)] = rows
        start += len(signed[0])
    for file in files:
        file.flush()
    return paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Signing:
    """Settings for signing texts in another process.

    ``table`` is a file; ``most`` is the largest count of a shingle, by signature.
    """

    texts: PromptFile
    table: Path
    most: tuple[int, ...]


def prepare_signing(settings: Signing) -> Callable[[range], list[NDArray[np.uint32]]]:
    """Return the function that signs texts by their numbers, once for each bound."""
    import numpy as np

    read = settings.texts.open()
    table = np.load(settings.table, mmap_mode="r")

    def sign(numbers: range) -> list[NDArray[np.uint32]]:
        texts = list(map(read, numbers))
        shingles, text_of = _shingle(texts)
        frequencies = table[_place(shingles)]
        signed = []
        for most in settings.most:
            kept = frequencies <= most
            signed.append(_minima(shingles[kept], text_of[kept], len(texts)))
        return signed

    return sign


def _minima(
    shingles: NDArray[np.uint64], text_of: NDArray[np.int64], num_texts: int
) -> NDArray[np.uint32]:
    import numpy as np
    import rensa

    counts = np.bincount(text_of, minlength=num_texts)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets, num_perm=NUM_MINIMA, seed=_SEED
    )
    # Packed row by row: an array made of lists of Python's numbers takes four times as long.
    packed = b"".join(_pack(*row) for row in matrix.to_rows())
    rows = np.frombuffer(packed, dtype=np.uint32).reshape(num_texts, NUM_MINIMA)
    return np.where(counts[:, None] < _MIN_SHINGLES, np.uint32(0), rows)


def _ranges(num_texts: int) -> Iterator[range]:
    for start in range(0, num_texts, BATCH_TEXTS):
        yield range(start, min(start + BATCH_TEXTS, num_texts))


def _batches(texts: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    stream = iter(texts)
    while batch := list(islice(stream, size)):
        yield batch


def _shingle(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
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
    """Keep the beginning and the end of a long text, so that the work is bounded."""
    if len(text) <= _HEAD_BYTES + _TAIL_BYTES:
        return text
    return text[:_HEAD_BYTES] + text[-_TAIL_BYTES:]


def _place(shingles: NDArray[np.uint64]) -> NDArray[np.int64]:
    import numpy as np

    return (shingles >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
