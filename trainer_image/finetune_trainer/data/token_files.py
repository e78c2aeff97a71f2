"""Token ids and labels of a side: computed in ``prepare``, memory-mapped by every rank.

A prepared data set keeps them as ``<side>.tokens.parquet``. Each node converts that into
``<side>.arrow``, whose pages all ranks share.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finetune_trainer.data.rows import Side

if TYPE_CHECKING:
    import pyarrow as pa

TRAINED_SPLITS = (Side.TRAIN, Side.VALIDATION)
"""Sides that ranks look at; the test side is asked, not trained on."""

BATCH_EXAMPLES = 1000
BATCH_TOKENS = 4_000_000
"""A batch ends with the piece that reaches one of the two."""


@dataclass(kw_only=True, slots=True)
class PackedTokens:
    """Joined tokens of several examples, truncated, for another process.

    ``labels`` are -100 where the loss does not count; ``lengths`` are of each example.
    """

    input_ids: array[int] = field(default_factory=lambda: array("i"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    lengths: array[int] = field(default_factory=lambda: array("i"))

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, input_ids: Sequence[int], labels: Sequence[int]) -> None:
        """Take in the next example: its tokens, and as many labels."""
        self.input_ids.extend(input_ids)
        self.labels.extend(labels)
        self.lengths.append(len(input_ids))


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTotals:
    """Totals of training examples, after truncation.

    ``longest`` is 0 without examples; ``squares`` sums the squares of their lengths.
    """

    num_examples: int
    num_tokens: int
    longest: int
    squares: int


def token_file(folder: Path, side: Side) -> Path:
    """Return where a prepared data set keeps the tokens of a side."""
    return folder / f"{side}.tokens.parquet"


def mapped_file(folder: Path, side: Side) -> Path:
    """Return where a node keeps the tokens of a side for its ranks."""
    return folder / f"{side}.arrow"


class TokenWriter:
    """Writes the examples of a side in their order; a context that commits on leaving."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._schema = _schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._input_ids = array("i")
        self._labels = array("i")
        self._ends = array("i", [0])
        self._num_examples = self._num_tokens = self._longest = self._squares = 0

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, examples: PackedTokens) -> None:
        """Take in the next examples."""
        end = len(self._input_ids)
        self._input_ids += examples.input_ids
        self._labels += examples.labels
        for length in examples.lengths:
            end += length
            self._ends.append(end)
            self._squares += length * length
        self._num_examples += len(examples)
        self._num_tokens += len(examples.input_ids)
        self._longest = max(self._longest, *examples.lengths, 0)
        if len(self._ends) > BATCH_EXAMPLES or len(self._input_ids) >= BATCH_TOKENS:
            self._flush()

    @property
    def totals(self) -> TokenTotals:
        """Totals so far."""
        return TokenTotals(
            num_examples=self._num_examples,
            num_tokens=self._num_tokens,
            longest=self._longest,
            squares=self._squares,
        )

    def _flush(self) -> None:
        import numpy as np
        import pyarrow as pa

        # From the arrays as they lie: a Python list of numbers would be ten times their memory.
        ends = pa.array(np.frombuffer(self._ends, dtype=np.int32))
        columns = [
            pa.ListArray.from_arrays(ends, pa.array(np.frombuffer(values, dtype=np.int32)))
            for values in (self._input_ids, self._labels)
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._input_ids, self._labels, self._ends = array("i"), array("i"), array("i", [0])


class TokenFiles:
    """The token files of a data set while they are written; a context as :class:`TokenWriter`."""

    def __init__(self, folder: Path) -> None:
        self._writers = {side: TokenWriter(token_file(folder, side)) for side in TRAINED_SPLITS}

    def __enter__(self) -> TokenFiles:
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers.values():
            writer.__exit__(*error)

    def add(self, side: Side, examples: PackedTokens) -> None:
        """Take in the next examples of a side; those of the test side are not kept."""
        if side in self._writers:
            self._writers[side].add(examples)

    @property
    def totals(self) -> dict[Side, TokenTotals]:
        """Totals by side."""
        return {side: writer.totals for side, writer in self._writers.items()}


def map_tokens(folder: Path, side: Side) -> Path:
    """Write a side's tokens for the ranks to map, unless the file exists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = mapped_file(folder, side)
    if target.exists():
        return target
    partial = target.with_suffix(".partial")
    with (
        pq.ParquetFile(token_file(folder, side)) as source,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_stream(sink, _schema()) as stream,
    ):
        for batch in source.iter_batches(batch_size=BATCH_EXAMPLES):
            stream.write_batch(batch)
    partial.replace(target)
    return target


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
