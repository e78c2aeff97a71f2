"""Numbers that look random and are functions of a sweep's UID: the same whenever they are asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

NUM_BITS = 53
NUM_ROUNDS = 6


def uniforms(uid: str, number: int, purpose: str) -> Iterator[float]:
    """Yield numbers in [0, 1), independent between UIDs, trials and purposes."""
    position = 0
    while True:
        yield (_hash(uid, number, purpose, position) >> (64 - NUM_BITS)) / 2**NUM_BITS
        position += 1


def shuffled(uid: str, index: int, size: int) -> int:
    """Return the place of ``index`` after a shuffle of ``range(size)`` seeded by the UID.

    No list is made: a Feistel network permutes the next power of two, and values outside the range
    are permuted again (cycle walking, Black and Rogaway 2002).
    """
    num_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    while True:
        index = _permuted(uid, index, num_bits)
        if index < size:
            return index


def _permuted(uid: str, index: int, num_bits: int) -> int:
    mask = (1 << num_bits) - 1
    left, right = index >> num_bits, index & mask
    for turn in range(NUM_ROUNDS):
        left, right = right, left ^ (_hash(uid, turn, "shuffle", right) & mask)
    return (left << num_bits) | right


def _hash(uid: str, number: int, purpose: str, position: int) -> int:
    text = f"{uid}/{number}/{purpose}/{position}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())
