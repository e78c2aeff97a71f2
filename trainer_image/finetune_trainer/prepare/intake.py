"""Reads the rows of a source here; workers convert and screen them; the spool keeps the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from finetune_trainer.data.rows import Example, RawRow, RowError, RowErrors
from finetune_trainer.prepare.checks.screening import RowStep, Screening, Tally
from finetune_trainer.prepare.privacy.step import Shield
from finetune_trainer.prepare.reading.examples import (
    Conversion,
    OpenSource,
    RawRows,
    SourceRows,
)
from finetune_trainer.prepare.rows.spool import PackedRows, Spool, pack_rows
from finetune_trainer.prepare.workers import Workers

PIECE_ROWS = 500
PIECE_CHARACTERS = 4_000_000
"""A piece ends with the row that reaches one of the two."""

NUM_ROWS_ALONE = 10_000
"""So many rows are taken in before other processes are started."""

RawPiece = list[tuple[str, RawRow | RowError]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings of one source's intake; hashable and picklable.

    Attributes:
        conversion: How rows become examples; None where none of them can.
        steps: The row steps of the job.
        shield: Removes personal data from errors.
    """

    conversion: Conversion | None
    steps: tuple[RowStep, ...]
    shield: Shield


@dataclass(frozen=True, kw_only=True, slots=True)
class ScreenedPiece:
    """The result of one piece of rows.

    Attributes:
        rows: Kept rows, in their order.
        errors: Unusable rows, in their order.
        num_rows_of_file: Kept rows, by file label.
        num_rows_of_format: Kept rows, by format.
        tallies: Counts of each row step.
        num_read: All rows.
        num_unread: Rows with an unread field that looks like content, by its name.
    """

    rows: PackedRows
    errors: list[RowError]
    num_rows_of_file: Counter[str]
    num_rows_of_format: Counter[str]
    tallies: list[Tally]
    num_read: int
    num_unread: Counter[str]


def take_in(
    opened: OpenSource,
    workers: Workers,
    screening: Screening,
    spool: Spool,
    *,
    shield: Shield,
    on_error: Callable[[RowError], None] = lambda _: None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> SourceRows:
    """Read all rows of a source into the spool.

    Args:
        opened: The source.
        workers: Convert and screen.
        screening: The row steps, with counts.
        spool: Receives the kept rows.
        shield: Removes personal data from errors.
        on_error: Called with every unusable row, in their order.
        on_progress: Called now and then with the number of rows read.

    Raises:
        DataError: A file cannot be read at all.
        UserError: The source's settings do not fit its rows.
    """
    errors = RowErrors()
    num_rows: Counter[str] = Counter()
    num_of_format: Counter[str] = Counter()
    num_unread: Counter[str] = Counter()
    num_read = 0
    settings = Settings(conversion=opened.conversion, steps=screening.steps, shield=shield)
    for piece in workers.map_in_order(
        prepare_work,
        settings,
        cut_pieces(opened.rows),
        # At least one: settings that do not fit are then found before any process is started.
        num_alone=max(1, NUM_ROWS_ALONE // PIECE_ROWS),
    ):
        spool.add(piece.rows)
        for error in piece.errors:
            errors.add(error)
            on_error(error)
        num_rows.update(piece.num_rows_of_file)
        num_of_format.update(piece.num_rows_of_format)
        num_unread.update(piece.num_unread)
        screening.add_tallies(piece.tallies)
        num_read += piece.num_read
        on_progress(num_read)
    recognised = opened.recognised
    if recognised is not None and len(num_of_format) > 1:
        counts = ", ".join(f"{name} {number}" for name, number in num_of_format.most_common())
        recognised = replace(recognised, reason=f"{recognised.reason}; rows kept: {counts}")
    return SourceRows(
        errors=errors,
        recognised=recognised,
        num_rows_of_file=dict(num_rows),
        num_unread=dict(num_unread),
        identifiers=opened.identifiers,
    )


def cut_pieces(rows: RawRows) -> Iterator[RawPiece]:
    """Cut rows into pieces of bounded size."""
    piece: RawPiece = []
    num_characters = 0
    for entry in rows:
        piece.append(entry)
        if isinstance(entry[1], RawRow):
            num_characters += _count_characters(entry[1].fields)
        if len(piece) == PIECE_ROWS or num_characters >= PIECE_CHARACTERS:
            yield piece
            piece, num_characters = [], 0
    if piece:
        yield piece


def prepare_work(settings: Settings) -> Callable[[RawPiece], ScreenedPiece]:
    """Return the function that converts and screens a piece."""
    conversion = settings.conversion
    convert = conversion.build() if conversion is not None else None
    find_unread = conversion.find_unread() if conversion is not None else None

    def work(piece: RawPiece) -> ScreenedPiece:
        screening = Screening(settings.steps)
        kept: list[Example] = []
        errors: list[RowError] = []
        num_of_format: Counter[str] = Counter()
        num_unread: Counter[str] = Counter()
        for file, row in piece:
            outcome: Example | RowError | None
            if isinstance(row, RowError):
                outcome = row
            else:
                # Without a readable row in the probe there is none at all.
                assert convert is not None
                assert find_unread is not None
                outcome = convert(file, row)
                num_unread.update(find_unread(row.fields))
            if isinstance(outcome, Example):
                outcome = screening.screen(outcome)
            if isinstance(outcome, RowError):
                errors.append(settings.shield.shield(outcome))
            elif outcome is not None:
                kept.append(outcome)
                if conversion is not None and isinstance(row, RawRow):
                    num_of_format[conversion.format_of(row.fields)] += 1
        return ScreenedPiece(
            rows=pack_rows(kept),
            errors=errors,
            num_rows_of_file=Counter(example.file for example in kept),
            num_rows_of_format=num_of_format,
            tallies=screening.tallies,
            num_read=len(piece),
            num_unread=num_unread,
        )

    return work


def _count_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_count_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_count_characters, value))
    return 8
