"""Turn the fetched files of a source into examples and errors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Columns, Source
from finetune_trainer.data.rows import (
    ORIGIN,
    BadRow,
    Example,
    RawRow,
    RowError,
    RowErrors,
    Side,
    make_example,
    make_snippet,
)
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.columns.unread import Unread, find_written_identifiers
from finetune_trainer.prepare.reading.control import refuse_control_tokens
from finetune_trainer.prepare.reading.files.encodings import UTF8
from finetune_trainer.prepare.reading.files.files import read_rows
from finetune_trainer.prepare.reading.formats.formats import (
    Convert,
    are_lists_answers,
    build_convert,
    read_group,
    read_slices,
)
from finetune_trainer.prepare.reading.formats.recognition import (
    Recognised,
    format_of_row,
    recognise_format,
)
from finetune_trainer.prepare.reading.formats.verdicts import explain_unwanted, is_unwanted
from finetune_trainer.prepare.reading.sources import SourceFile
from finetune_trainer.prepare.reading.times import read_time

_SPLITS = {"Train": Side.TRAIN, "Validation": Side.VALIDATION, "Test": Side.TEST}


NUM_FIRST_ROWS = 200
"""Readable rows to look at; enough to recognise identifiers."""

NUM_ROWS_KEPT = 1000
"""So many unreadable rows are kept while a readable one is looked for; beyond, files are read anew:
a file of a million bad rows must not fill the memory."""

RawRows = Iterator[tuple[str, RawRow | RowError]]
"""Rows with the label of their file, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """How the rows of one source become examples, in any process.

    Attributes:
        source_json: The source as the user wrote it.
        format: The recognised format.
        by_fields: Single rows may have another format.
        about: The columns of the group, the time and the slices.
        where: Path of the source in the job, for messages.
        conversational: The model's tokenizer has a chat template.
        control_tokens: Texts that the tokenizer reads as control tokens.
        takes_empty_lists: An empty list is an answer.
    """

    source_json: str
    format: str
    by_fields: bool
    about: tuple[str, ...]
    where: str
    conversational: bool
    control_tokens: tuple[str, ...]
    takes_empty_lists: bool

    def build(self) -> Callable[[str, RawRow], Example | RowError]:
        """Return the function that converts a row, given the label of its file.

        Raises:
            UserError: The source's settings do not fit its format or the model.
        """
        source = Source.model_validate_json(self.source_json)

        @cache
        def convert_as(format_name: str) -> Convert:
            convert = build_convert(
                source,
                format_name,
                conversational=self.conversational,
                where=self.where,
                takes_empty_lists=self.takes_empty_lists,
            )
            return refuse_control_tokens(convert, self.control_tokens)

        def convert(fields: Mapping[str, Any]) -> dict[str, Any]:
            return convert_as(self.format_of(fields))(fields)

        convert_as(self.format)
        return lambda file, row: _convert(source, convert, file, row)

    def format_of(self, fields: Mapping[str, Any]) -> str:
        """Return the format of a row."""
        return format_of_row(fields, self.format, self.about) if self.by_fields else self.format

    def find_unread(self) -> Callable[[Mapping[str, Any]], list[str]]:
        """Return a finder of a row's unread fields."""
        source = Source.model_validate_json(self.source_json)
        finder = cache(partial(Unread, source))
        return lambda fields: finder(self.format_of(fields)).find(fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A source after a look at its first rows.

    Attributes:
        rows: All its rows.
        recognised: How they are read, or None when none is readable.
        conversion: How they become examples; None with ``recognised``.
        identifiers: Columns that its template writes and that differ in every row.
    """

    rows: RawRows
    recognised: Recognised | None
    conversion: Conversion | None
    identifiers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRows:
    """The result of one source.

    Attributes:
        errors: The unusable rows.
        recognised: How the rows were read, or None without rows.
        num_rows_of_file: Rows kept, by file label.
        num_unread: Rows with an unread field that looks like content, by its name.
        identifiers: Columns that its template writes and that differ in every row.
    """

    errors: RowErrors
    recognised: Recognised | None
    num_rows_of_file: dict[str, int]
    num_unread: dict[str, int] = field(default_factory=dict)
    identifiers: tuple[str, ...] = ()

    @property
    def num_rows(self) -> int:
        """Rows kept of all files."""
        return sum(self.num_rows_of_file.values())


def open_source(
    source: Source,
    files: Sequence[SourceFile],
    *,
    index: int,
    where: str = "",
    label: str,
    conversational: bool,
    control_tokens: Collection[str] = (),
    objective: str = "SFT",
) -> OpenSource:
    """Look at the first rows of a source and decide how all are read.

    Args:
        source: The source's settings.
        files: Its fetched files.
        index: Its position in ``spec.dataset.sources``, for messages.
        where: Its place in the spec, if it is none of these.
        label: Put before file names; empty for a single source.
        conversational: The model's tokenizer has a chat template.
        control_tokens: Texts that the tokenizer reads as control tokens.
        objective: ``method.objective``.

    Raises:
        DataError: A file cannot be read at all, or its format is not known; also while the rows are
            taken.
        UserError: The source's settings do not fit its rows.
    """
    where = where or f"dataset.sources[{index}]"
    raw_rows, rows = _look_at_first(source, files, label)
    if not raw_rows:
        return OpenSource(rows=rows, recognised=None, conversion=None)
    fields = [row.fields for row in raw_rows]
    columns = source.columns or Columns()
    recognised = recognise_format(source, fields, where=where, objective=objective)
    conversion = Conversion(
        source_json=recognised.settle(source).model_dump_json(by_alias=True, exclude_none=True),
        format=recognised.format,
        by_fields=recognised.by_fields,
        about=tuple(filter(None, (columns.group, columns.time, *(columns.slices or ())))),
        where=where,
        conversational=conversational,
        control_tokens=tuple(sorted(control_tokens)),
        takes_empty_lists=are_lists_answers(source, recognised.format, fields),
    )
    return OpenSource(
        rows=rows,
        recognised=recognised,
        conversion=conversion,
        identifiers=find_written_identifiers(source, fields),
    )


def _look_at_first(
    source: Source, files: Sequence[SourceFile], label: str
) -> tuple[list[RawRow], RawRows]:
    stream = _read_files(source, files, label)
    probe: list[tuple[str, RawRow | RowError]] = []
    raw_rows: list[RawRow] = []
    for file, row in stream:
        if len(probe) <= NUM_ROWS_KEPT:
            probe.append((file, row))
        if isinstance(row, RawRow):
            raw_rows.append(row)
            if len(raw_rows) == NUM_FIRST_ROWS:
                break
    if len(probe) > NUM_ROWS_KEPT:
        return raw_rows, _read_files(source, files, label)
    return raw_rows, chain(probe, stream)


def refuse_wrong_column(rows: SourceRows, *, index: int) -> None:
    """Refuse a source all of whose rows lack a column: the job names it wrongly."""
    if rows.num_rows or set(rows.errors.by_reason) != {"MissingColumn"}:
        return
    first = rows.errors.first[0]
    raise UserError(
        "MissingColumn",
        f"dataset.sources[{index}], {first.file}: {first.message}; correct the job",
    )


def refuse_unwanted_row(file: str, row: RawRow, format_name: str) -> RowError | None:
    """Return why a row with a verdict is no example for SFT; None for a wanted answer."""
    if not is_unwanted(row.fields):
        return None
    return RowError(
        file=file,
        line=row.line,
        reason="UnwantedAnswer",
        message=explain_unwanted(row.fields, format_name),
        snippet=make_snippet(row.fields),
    )


def file_label(label: str, name: str) -> str:
    """Name a file as messages and reports do."""
    return f"{label}/{name}" if label else name


def _read_files(source: Source, files: Sequence[SourceFile], label: str) -> RawRows:
    for file in files:
        name = file_label(label, file.name)
        rows = read_rows(
            file.path,
            file=name,
            encoding=file.encoding or UTF8,
            header=source.header,
            sheet=source.sheet,
        )
        for row in rows:
            yield name, row


def _convert(source: Source, convert: Convert, file: str, row: RawRow) -> Example | RowError:
    group_column = source.columns.group if source.columns else None
    time_column = source.columns.time if source.columns else None
    slice_columns = (source.columns.slices if source.columns else None) or ()
    try:
        return make_example(
            convert(row.fields),
            file=file,
            line=row.line,
            side=_SPLITS.get(source.side),
            group_value=read_group(row.fields, group_column),
            time=read_time(row.fields, time_column),
            slices=read_slices(row.fields, slice_columns),
            origin={name: row.fields[name] for name in ORIGIN} if source.is_traffic else None,
        )
    except (BadRow, UserError) as error:  # settings may not fit a format that few rows have
        return RowError(
            file=file,
            line=row.line,
            reason=error.reason,
            message=error.message,
            snippet=make_snippet(row.fields),
        )
