"""Turn the fetched files of a source into examples and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from finetune_api.v1alpha1.dataset import Source
from finetune_trainer.data.rows import (
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
from finetune_trainer.prepare.reading.control import refuse_control_tokens
from finetune_trainer.prepare.reading.files import read_rows
from finetune_trainer.prepare.reading.formats import (
    NUM_PROBED_ROWS,
    Convert,
    Recognised,
    build_convert,
    read_group,
    recognise_format,
)
from finetune_trainer.prepare.reading.sources import SourceFile

_SIDES = {"Train": Side.TRAIN, "Validation": Side.VALIDATION, "Test": Side.TEST}


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRows:
    """What a source held.

    Attributes:
        errors: The rows that cannot be used.
        recognised: How the rows were read, or None when the source has none.
        num_rows_of_file: Usable rows by file label.
    """

    errors: RowErrors
    recognised: Recognised | None
    num_rows_of_file: dict[str, int]

    @property
    def num_rows(self) -> int:
        """Usable rows of all files."""
        return sum(self.num_rows_of_file.values())


def read_examples(
    source: Source,
    files: Sequence[SourceFile],
    *,
    index: int,
    label: str,
    conversational: bool,
    control_tokens: Collection[str] = (),
    objective: str = "SFT",
    screen: Callable[[Example], Example | RowError | None] = lambda example: example,
    keep: Callable[[Example], None],
) -> SourceRows:
    """Read all rows of a source, one at a time.

    Args:
        source: What the user says about it.
        files: Its fetched files.
        index: Its position in ``spec.dataset.sources``, for messages.
        label: Put before file names; empty when there is only one source.
        conversational: The model's tokenizer has a chat template.
        control_tokens: Texts that the model's tokenizer reads as control tokens.
        objective: ``method.objective``.
        screen: Takes each row that could be read through the row steps: the row to keep, an error,
            or None for one that is left out.
        keep: Given each usable row, in their order.

    Raises:
        DataError: A file cannot be read at all, or its format is not known.
        UserError: The source's settings do not fit its rows.
    """
    where = f"dataset.sources[{index}]"
    stream = _read_files(files, label)
    probe: list[tuple[str, RawRow | RowError]] = []
    raw_rows: list[RawRow] = []
    for file, row in stream:
        probe.append((file, row))
        if isinstance(row, RawRow):
            raw_rows.append(row)
            if len(raw_rows) == NUM_PROBED_ROWS:
                break
    errors = RowErrors()
    num_rows: Counter[str] = Counter()
    if not raw_rows:
        for _, row in probe:
            if isinstance(row, RowError):
                errors.add(row)
        return SourceRows(errors=errors, recognised=None, num_rows_of_file={})
    recognised = recognise_format(
        source, [row.fields for row in raw_rows], where=where, objective=objective
    )
    convert = refuse_control_tokens(
        build_convert(source, recognised.format, conversational=conversational, where=where),
        control_tokens,
    )
    for file, row in chain(probe, stream):
        outcome = row if isinstance(row, RowError) else _convert(source, convert, file, row)
        screened = screen(outcome) if isinstance(outcome, Example) else outcome
        if isinstance(screened, RowError):
            errors.add(screened)
        elif screened is not None:
            keep(screened)
            num_rows[file] += 1
    source_rows = SourceRows(errors=errors, recognised=recognised, num_rows_of_file=dict(num_rows))
    _refuse_wrong_column(source_rows, where)
    return source_rows


def file_label(label: str, name: str) -> str:
    """Name a file as messages and reports do."""
    return f"{label}/{name}" if label else name


def _read_files(files: Sequence[SourceFile], label: str) -> Iterator[tuple[str, RawRow | RowError]]:
    for file in files:
        name = file_label(label, file.name)
        for row in read_rows(file.path, file=name):
            yield name, row


def _convert(source: Source, convert: Convert, file: str, row: RawRow) -> Example | RowError:
    group_column = source.columns.group if source.columns else None
    try:
        return make_example(
            convert(row.fields),
            file=file,
            line=row.line,
            side=_SIDES.get(source.side),
            group_value=read_group(row.fields, group_column),
        )
    except BadRow as error:
        return RowError(
            file=file,
            line=row.line,
            reason=error.reason,
            message=error.message,
            snippet=make_snippet(row.fields),
        )


def _refuse_wrong_column(rows: SourceRows, where: str) -> None:
    """A column missing from every row is a slip in the job, not thousands of bad rows."""
    if rows.num_rows or set(rows.errors.by_reason) != {"MissingColumn"}:
        return
    first = rows.errors.first[0]
    raise UserError("MissingColumn", f"{where}, {first.file}: {first.message}; correct the job")
