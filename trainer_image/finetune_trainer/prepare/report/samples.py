"""A few examples as training sees them, read back from the token files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import Side
from finetune_trainer.data.token_files import BATCH_EXAMPLES, token_file
from finetune_trainer.model.encoding import IGNORED

MAX_PIECES = 16
MAX_PIECE_CHARACTERS = 700

Decode = Callable[[Sequence[int]], str]
"""Turns tokens into their text, control tokens included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A stretch of an example's text that is learned, or not."""

    text: str
    is_learned: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One example.

    Attributes:
        what: Why this one is shown, for example ``the longest``.
        position: Number of the side's example, from 1.
        num_tokens: Its length.
        num_learned: Tokens that count in the loss.
        pieces: Its text, shortened where it is long.
    """

    what: str
    position: int
    num_tokens: int
    num_learned: int
    pieces: tuple[Piece, ...]


def read_samples(folder: Path, decode: Decode, side: Side = Side.TRAIN) -> list[Sample]:
    """Return the shortest example, one of median length and the longest, of at least one.

    The side must have kept its tokens.
    """
    path = token_file(folder, side)
    if not path.exists():
        return []
    chosen = _choose(_lengths(path))
    samples = {}
    for position, (input_ids, labels) in _read_rows(path, set(chosen)):
        samples[position] = Sample(
            what=chosen[position],
            position=position + 1,
            num_tokens=len(input_ids),
            num_learned=sum(label != IGNORED for label in labels),
            pieces=shorten(split_pieces(input_ids, labels, decode)),
        )
    return [samples[position] for position in chosen]


def split_pieces(
    input_ids: Sequence[int], labels: Sequence[int], decode: Decode
) -> tuple[Piece, ...]:
    """Return the text of an example in stretches that are learned or not.

    A stretch is the growth of the text, because some tokenizers write a text's first token
    differently.
    """
    pieces = []
    start, before = 0, ""
    for end in range(1, len(input_ids) + 1):
        is_learned = labels[start] != IGNORED
        if end < len(input_ids) and (labels[end] != IGNORED) == is_learned:
            continue
        text = decode(input_ids[:end])
        grown = text[len(before) :] if text.startswith(before) else decode(input_ids[start:end])
        pieces.append(Piece(text=grown, is_learned=is_learned))
        start, before = end, text
    return tuple(pieces)


def shorten(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Leave out the middle of long texts and of many pieces, saying how much is not shown."""
    half = MAX_PIECES // 2
    if len(pieces) > MAX_PIECES:
        num_left_out = len(pieces) - 2 * half
        gap = Piece(text=f"\n[... {num_left_out} parts ...]\n", is_learned=False)
        pieces = [*pieces[:half], gap, *pieces[-half:]]
    return tuple(replace(piece, text=_shorten_text(piece.text)) for piece in pieces)


def _shorten_text(text: str) -> str:
    if len(text) <= MAX_PIECE_CHARACTERS:
        return text
    head, tail = text[: MAX_PIECE_CHARACTERS * 2 // 3], text[-MAX_PIECE_CHARACTERS // 3 :]
    return f"{head} [... {len(text) - len(head) - len(tail):,} characters ...] {tail}"


def _choose(lengths: Sequence[int]) -> dict[int, str]:
    """Return positions of examples, in the order of their lengths, with a description."""
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    if not order:
        return {}
    chosen = {order[0]: "the shortest"}
    chosen.setdefault(order[(len(order) - 1) // 2], "one of median length")
    chosen.setdefault(order[-1], "the longest")
    return chosen


def _lengths(path: Path) -> list[int]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    lengths: list[int] = []
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=BATCH_EXAMPLES, columns=["input_ids"]):
            lengths += pc.list_value_length(batch.column(0)).to_pylist()
    return lengths


def _read_rows(
    path: Path, wanted: set[int]
) -> Iterator[tuple[int, tuple[Sequence[int], Sequence[int]]]]:
    import pyarrow.parquet as pq

    start = 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(batch_size=BATCH_EXAMPLES):
            for position in sorted(p for p in wanted if start <= p < start + batch.num_rows):
                row: dict[str, Any] = batch.slice(position - start, 1).to_pylist()[0]
                yield position, (row["input_ids"], row["labels"])
            start += batch.num_rows
