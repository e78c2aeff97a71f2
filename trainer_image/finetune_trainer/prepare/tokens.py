"""Count tokens as training will see them, and find what the length limit costs.

Rows are encoded by the very encoder of training, so that what is counted, what is checked and what
is learned are one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from finetune_trainer.data.rows import Side, other_answer
from finetune_trainer.errors import DataError
from finetune_trainer.model.encoding import Encoded, Encoder

PROGRESS_ROWS = 1000
NUM_REFUSED_SHOWN = 5

Row = Mapping[str, Any]
"""A row as the prepared data set holds it, with its ``metadata``."""


class Rows(Protocol):
    """Rows that can be counted at once and read one after the other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Row]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """Lengths of one side, in tokens before truncation.

    A row that is trained as several examples is as long as the longest of them.

    Attributes:
        num_rows: Rows counted.
        num_tokens: Sum over all examples.
        p50: Median length (nearest rank).
        p95: 95th percentile (nearest rank).
        longest: Longest row.
        num_truncated: Rows longer than the limit.
        num_without_answer: Rows of which nothing of the answer is within the limit.
        num_examples: Examples that the rows are trained as; more than rows where a template writes
            past turns otherwise than generation left them.
    """

    num_rows: int
    num_tokens: int
    p50: int
    p95: int
    longest: int
    num_truncated: int
    num_without_answer: int
    num_examples: int


def measure_tokens(
    sides: Mapping[Side, Rows],
    encoder: Encoder,
    *,
    max_sequence_length: int,
    keep: Callable[[Side, Encoded], None] = lambda *_: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Side, TokenStatistics]:
    """Encode every row of every side, and measure the sides that have rows.

    Args:
        sides: The rows.
        encoder: The encoder that training will use.
        max_sequence_length: Its length limit in tokens.
        keep: Given each example that has something to learn, in the order of the rows.
        on_progress: Told rows done and rows in all, now and then.

    Raises:
        DataError: The encoder refuses rows, with its reason for the first of them; names the first
            few. ``AllRowsTooLong``: no training row keeps any of its answer; says what limit would
            do.
    """
    total = sum(len(rows) for rows in sides.values())
    done = 0
    statistics = {}
    refused: list[tuple[Row, DataError]] = []
    num_refused = 0
    for side, rows in sides.items():
        if not len(rows):
            continue
        counter = _Counter()
        for row in rows:
            try:
                examples = encoder.encode_row(row)
                beside = encoder.encode_row(other_answer(row)) if "rejected" in row else ()
            except DataError as error:
                refused += [(row, error)] if len(refused) < NUM_REFUSED_SHOWN else []
                num_refused += 1
            else:
                counter.add(examples)
                if beside:
                    counter.add_beside(beside)
                for example in examples:
                    if example.has_answer:
                        keep(side, example)
            done += 1
            if on_progress is not None and (done == total or done % PROGRESS_ROWS == 0):
                on_progress(done, total)
        if counter.lengths:
            statistics[side] = counter.summarise()
    _refuse_rows(refused, num_refused, total)
    for side, words in ((Side.TRAIN, "training"), (Side.VALIDATION, "validation")):
        _refuse_all_too_long(statistics.get(side), words, max_sequence_length)
    return statistics


@dataclass(kw_only=True, slots=True)
class _Counter:
    lengths: array[int] = field(default_factory=lambda: array("q"))
    num_tokens: int = 0
    num_examples: int = 0
    num_truncated: int = 0
    num_without_answer: int = 0

    def add(self, examples: Sequence[Encoded]) -> None:
        """Count the examples of one row."""
        lengths = [len(example.input_ids) + example.num_cut for example in examples]
        self.lengths.append(max(lengths))
        self.num_tokens += sum(lengths)
        self.num_examples += len(examples)
        self.num_truncated += any(example.num_cut for example in examples)
        self.num_without_answer += not any(example.has_answer for example in examples)

    def add_beside(self, examples: Sequence[Encoded]) -> None:
        """Count the other answer of a pair, which is as long as the longer of its two."""
        lengths = [len(example.input_ids) + example.num_cut for example in examples]
        self.lengths[-1] = max(self.lengths[-1], *lengths)
        self.num_tokens += sum(lengths)

    def summarise(self) -> TokenStatistics:
        """Return the statistics of what was counted."""
        ordered = sorted(self.lengths)

        def percentile(percent: int) -> int:
            return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]

        return TokenStatistics(
            num_rows=len(ordered),
            num_tokens=self.num_tokens,
            p50=percentile(50),
            p95=percentile(95),
            longest=ordered[-1],
            num_truncated=self.num_truncated,
            num_without_answer=self.num_without_answer,
            num_examples=self.num_examples,
        )


def _refuse_rows(refused: Sequence[tuple[Row, DataError]], number: int, total: int) -> None:
    if not refused:
        return
    first = refused[0][1]
    places = ", ".join(_places(row for row, _ in refused))
    more = ", ..." if number > len(refused) else ""
    raise DataError(
        first.reason,
        f"{places}{more}: {first.message} ({number} of {total} rows cannot be trained as they are)",
    ) from first


def _places(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield f"{row['metadata']['source']}:{row['metadata']['line']}"


def _refuse_all_too_long(
    side: TokenStatistics | None, words: str, max_sequence_length: int
) -> None:
    if side is None or side.num_without_answer < side.num_rows:
        return
    raise DataError(
        "AllRowsTooLong",
        f"all {side.num_rows} {words} rows are cut at hyperparameters.maxSequenceLength "
        f"{max_sequence_length} before their answer begins, so there is nothing to learn; set it "
        f"to {side.p95} to keep 95 % of the rows whole, or to {side.longest} for all (median "
        f"{side.p50})",
    )
