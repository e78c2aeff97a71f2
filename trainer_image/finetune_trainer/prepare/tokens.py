"""Counts tokens with the encoder of training, and the cost of the length limit."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.rows import RESPONSE_ID, RowFile, Side, other_answer
from finetune_trainer.data.token_files import TRAINED_SPLITS, PackedTokens
from finetune_trainer.errors import DataError
from finetune_trainer.model.chat_format import ChatFormat
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample, make_encoder
from finetune_trainer.pages.histogram import Bin, count_bins
from finetune_trainer.prepare.checks.long_rows import NUM_PLACES_SHOWN, LongRow, LongRows
from finetune_trainer.prepare.workers import Workers

PIECE_ROWS = 250
PIECE_BYTES = 4_000_000
PROGRESS_ROWS = 1000
NUM_ROWS_ALONE = 15_000
"""Rows that this process encodes before other processes are ready."""

Row = Mapping[str, Any]
"""A row as the prepared data set holds it, with its ``metadata``."""


class Rows(Protocol):
    """Rows that can be counted at once and read one after the other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Row]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """Lengths of one side, in tokens before truncation.

    Attributes:
        num_rows: Rows counted.
        num_tokens: Sum over all examples.
        p50: Median length (nearest rank).
        p95: 95th percentile (nearest rank).
        longest: Longest row; of several examples of a row the longest counts.
        num_truncated: Rows longer than the limit.
        num_without_answer: Rows without any answer token within the limit.
        num_examples: Examples; more than rows where a template rewrites past turns.
        num_thoughtless: Rows whose answer's reasoning the template leaves out.
        bins: The lengths as a histogram.
    """

    num_rows: int
    num_tokens: int
    p50: int
    p95: int
    longest: int
    num_truncated: int
    num_without_answer: int
    num_examples: int
    num_thoughtless: int = 0
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatTokenizerSettings:
    """Settings for encoding in another process; hashable and picklable."""

    job_json: str
    model_dir: Path
    chat_format: ChatFormat

    def build(self) -> ChatTokenizer:
        """Load the tokenizer and make the encoder."""
        from finetune_trainer.model.load import load_tokenizer

        job = ResolvedJob.from_json(self.job_json)
        trusted = job.spec.model.trust_remote_code
        tokenizer = load_tokenizer(self.model_dir, trust_remote_code=trusted)
        return make_encoder(job, tokenizer, self.chat_format)


@dataclass(kw_only=True, slots=True)
class _Piece:
    """Rows of one side, or the lines that hold them; ``start`` is the position of the first."""

    side: Side
    start: int
    rows: list[Row | bytes]


@dataclass(kw_only=True, slots=True)
class _Counted:
    """Counts of rows of one side."""

    lengths: array[int] = field(default_factory=lambda: array("q"))
    num_tokens: int = 0
    num_examples: int = 0
    num_truncated: int = 0
    num_without_answer: int = 0
    num_thoughtless: int = 0

    def add(self, other: _Counted) -> None:
        self.lengths.extend(other.lengths)
        self.num_tokens += other.num_tokens
        self.num_examples += other.num_examples
        self.num_truncated += other.num_truncated
        self.num_without_answer += other.num_without_answer
        self.num_thoughtless += other.num_thoughtless

    def summarise(self) -> TokenStatistics:
        """Return the statistics of the counts."""
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
            num_thoughtless=self.num_thoughtless,
            bins=count_bins(ordered),
        )


@dataclass(kw_only=True, slots=True)
class _EncodedPiece:
    """The result of a piece.

    Attributes:
        side: Side of its rows.
        num_rows: All of them.
        counted: Kept rows.
        left_out: Rows left out.
        examples: Their training examples.
        refused: Places of rows that the encoder refuses, with its reason.
        long: Rows whose answer does not fit.
    """

    side: Side
    num_rows: int
    counted: _Counted = field(default_factory=_Counted)
    left_out: _Counted = field(default_factory=_Counted)
    examples: PackedTokens = field(default_factory=PackedTokens)
    refused: list[tuple[str, DataError]] = field(default_factory=list)
    long: list[LongRow] = field(default_factory=list)


def measure_tokens(
    sides: Mapping[Side, Rows],
    encoder: ChatTokenizer,
    *,
    max_sequence_length: int,
    on_too_long: str = "Truncate",
    keep: Callable[[Side, PackedTokens], None] = lambda *_: None,
    drop: Callable[[LongRow], None] = lambda _: None,
    on_progress: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
    settings: ChatTokenizerSettings | None = None,
) -> dict[Side, TokenStatistics]:
    """Encode every row of every side, and measure the sides that have rows.

    Args:
        sides: The rows.
        encoder: The encoder that training will use.
        max_sequence_length: Its length limit in tokens.
        on_too_long: ``dataset.onTooLong``.
        keep: Called with the examples to train on, in the order of the rows.
        drop: Called with each row that is left out of the statistics: by ``Drop`` all, by
            ``Refuse`` those from captured answers, and of these always what the encoder refuses:
            no user of an endpoint may stop a job.
        on_progress: Called now and then with rows done and rows in all.
        workers: Encode; None encodes here.
        settings: How several workers make the encoder.

    Raises:
        DataError: The encoder refuses rows; names the first few. ``AllRowsTooLong``: no training
            row keeps any of its answer. ``RowsTooLong``: some answers do not fit, and
            ``on_too_long`` is ``Refuse``.
    """
    total = sum(len(rows) for rows in sides.values())
    counted = {side: _Counted() for side in sides}
    left_out = {side: _Counted() for side in sides}
    refused: list[tuple[str, DataError]] = []
    long = LongRows()
    num_refused = done = 0
    for piece in (workers or Workers(1)).map_in_order(
        prepare_work,
        (settings, on_too_long),
        _cut_pieces(sides),
        num_alone=total if total <= NUM_ROWS_ALONE else 0,  # in pieces, which are no more than rows
        work_here=_make_work(encoder, on_too_long),
    ):
        counted[piece.side].add(piece.counted)
        left_out[piece.side].add(piece.left_out)
        refused += piece.refused[: NUM_PLACES_SHOWN - len(refused)]
        num_refused += len(piece.refused)
        for row in piece.long:
            if row.is_left_out:
                drop(row)
            else:
                long.add(row)
        if piece.examples:
            keep(piece.side, piece.examples)
        before, done = done, done + piece.num_rows
        if on_progress is not None and (
            done == total or done // PROGRESS_ROWS > before // PROGRESS_ROWS
        ):
            on_progress(done, total)
    _refuse_rows(refused, num_refused, total)
    statistics = {side: one.summarise() for side, one in counted.items() if one.lengths}
    _check_splits(sides, statistics, left_out, max_sequence_length)
    if on_too_long == "Refuse":
        most = max((side.p95 for side in statistics.values()), default=0)
        long.refuse(total, max_sequence_length, most_need=most)
    return statistics


def _check_splits(
    sides: Mapping[Side, Rows],
    statistics: Mapping[Side, TokenStatistics],
    left_out: Mapping[Side, _Counted],
    max_sequence_length: int,
) -> None:
    for side, words in ((Side.TRAIN, "training"), (Side.VALIDATION, "validation")):
        if side in left_out and left_out[side].lengths and side not in statistics:
            _refuse_all_too_long(left_out[side].summarise(), words, max_sequence_length)
        elif side in statistics and statistics[side].num_without_answer == len(sides[side]):
            _refuse_all_too_long(statistics[side], words, max_sequence_length)


def prepare_work(
    settings: tuple[ChatTokenizerSettings | None, str],
) -> Callable[[_Piece], _EncodedPiece]:
    """Return the function that encodes a piece, in a process of its own."""
    encoder_settings, on_too_long = settings
    assert encoder_settings is not None
    return _make_work(encoder_settings.build(), on_too_long)


def _make_work(encoder: ChatTokenizer, on_too_long: str) -> Callable[[_Piece], _EncodedPiece]:
    def work(piece: _Piece) -> _EncodedPiece:
        result = _EncodedPiece(side=piece.side, num_rows=len(piece.rows))
        for position, given in enumerate(piece.rows, start=piece.start):
            row = json.loads(given) if isinstance(given, bytes) else given
            is_captured = RESPONSE_ID in row.get("metadata", ())
            try:
                examples = encoder.encode_row(row)
                beside = encoder.encode_row(other_answer(row)) if "rejected" in row else ()
            except DataError as error:
                if is_captured:
                    result.long.append(_leave_out(row, piece.side, position, reason=error.reason))
                else:
                    result.refused.append((_place_of(row), error))
                continue
            length = max(map(_length_of, (*examples, *beside)))
            # Plain text has no answer: it may be cut anywhere.
            is_long = "text" not in row and any(one.num_cut for one in (*examples, *beside))
            goes = is_long and (on_too_long == "Drop" or (is_captured and on_too_long == "Refuse"))
            if is_long:
                long = _leave_out(row, piece.side, position, num_tokens=length)
                result.long.append(replace(long, is_left_out=goes))
            _count(result.left_out if goes else result.counted, length, examples, beside)
            if piece.side in TRAINED_SPLITS and not goes:
                for one in examples:
                    if one.has_answer:
                        result.examples.add(one.input_ids, one.labels)
        return result

    return work


def _leave_out(
    row: Row, side: Side, position: int, *, num_tokens: int = 0, reason: str = "TooLong"
) -> LongRow:
    return LongRow(
        file=row["metadata"]["source"],
        line=row["metadata"]["line"],
        side=side,
        position=position,
        num_tokens=num_tokens,
        is_left_out=True,
        reason=reason,
    )


def _cut_pieces(sides: Mapping[Side, Rows]) -> Iterator[_Piece]:
    for side, rows in sides.items():
        # The lines of a file; workers parse them.
        entries: Iterable[Row | bytes] = rows.lines() if isinstance(rows, RowFile) else rows
        piece = _Piece(side=side, start=0, rows=[])
        num_bytes = 0
        for entry in entries:
            piece.rows.append(entry)
            num_bytes += len(entry)
            if len(piece.rows) == PIECE_ROWS or num_bytes >= PIECE_BYTES:
                yield piece
                piece = _Piece(side=side, start=piece.start + len(piece.rows), rows=[])
                num_bytes = 0
        if piece.rows:
            yield piece


def _count(
    counted: _Counted,
    length: int,
    examples: Sequence[TokenizedExample],
    beside: Sequence[TokenizedExample],
) -> None:
    """Count one row; the other answer of a pair makes it as long as the longer of its two."""
    counted.lengths.append(length)
    counted.num_tokens += sum(map(_length_of, (*examples, *beside)))
    counted.num_examples += len(examples)
    counted.num_truncated += any(example.num_cut for example in examples)
    counted.num_without_answer += not any(example.has_answer for example in examples)
    counted.num_thoughtless += any(one.num_thoughts_lost for one in (*examples, *beside))


def _length_of(example: TokenizedExample) -> int:
    return len(example.input_ids) + example.num_cut


def _refuse_rows(refused: Sequence[tuple[str, DataError]], number: int, total: int) -> None:
    if not refused:
        return
    first = refused[0][1]
    places = ", ".join(place for place, _ in refused)
    more = ", ..." if number > len(refused) else ""
    raise DataError(
        first.reason,
        f"{places}{more}: {first.message} ({number} of {total} rows cannot be trained as they are)",
    ) from first


def _place_of(row: Row) -> str:
    return f"{row['metadata']['source']}:{row['metadata']['line']}"


def _refuse_all_too_long(side: TokenStatistics, words: str, max_sequence_length: int) -> None:
    before = "before their answer begins" if side.num_without_answer else "in their answer"
    raise DataError(
        "AllRowsTooLong",
        f"all {side.num_rows} {words} rows are cut at hyperparameters.maxSequenceLength "
        f"{max_sequence_length} {before}, so there is nothing to learn; set it "
        f"to {side.p95} to keep 95 % of the rows whole, or to {side.longest} for all (median "
        f"{side.p50})",
    )
