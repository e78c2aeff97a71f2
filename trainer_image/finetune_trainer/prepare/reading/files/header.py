"""Give the values of a table's rows their names: from its first row, or by position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from finetune_trainer.data.rows import RawRow, RowError, make_snippet
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.columns.names import COMMON_NAMES

NUM_COMPARED_ROWS = 200
"""Rows that the first one is compared with."""

MAX_NAME_CHARACTERS = 128
"""Longest name of a column that a job can hold."""

_NUMBER = re.compile(r"[-+]?[0-9][0-9.,:/ -]*")
_NUM_WORDS_OF_TEXT = 4

TableRow = tuple[int, list[str]]
"""Line a row starts on, and its values as text."""


def position_name(index: int) -> str:
    """Return the name of a column without one, counted from 0: ``column1`` is the first."""
    return f"column{index + 1}"


def name_columns(
    rows: Iterable[TableRow | RowError], *, header: str, file: str
) -> Iterator[RawRow | RowError]:
    """Turn the rows of a table into rows with named fields.

    Columns without a name are left out: data frames export a row number so. ``header`` is ``Auto``,
    ``Present`` or ``Absent``.

    Raises:
        DataError: ``EmptyDataset``, ``InvalidHeader``; ``NoHeader``: ``Auto``, and the first row
            reads like data.
    """
    stream = iter(rows)
    first = next(stream, None)
    if isinstance(first, RowError):
        raise DataError("InvalidHeader", f"cannot read the header of {file}: {first.message}")
    if header == "Absent":
        names = [position_name(index) for index in range(len(first[1]) if first else 0)]
        return _name(chain([first] if first else [], stream), names)
    names = [name.strip() for name in first[1]] if first else []
    if not any(names):
        raise DataError("EmptyDataset", f"{file} is empty; its first line must name the columns")
    compared = list(islice(stream, NUM_COMPARED_ROWS))
    if header == "Auto" and (why := find_no_header(names, compared)):
        first_name, last_name = position_name(0), position_name(len(names) - 1)
        example = f"{{prompt: {first_name}, completion: {last_name}}}"
        if len(names) == 1:
            example = f"{{text: {first_name}}}"
        raise DataError(
            "NoHeader",
            f"{file}: the first row does not seem to name the columns: {why}. If it is data, set "
            f"header: Absent and name the columns by position, for example columns: {example}; "
            "if it does name them, set header: Present",
        )
    _check_names(names, file)
    return _name(chain(compared, stream), names)


def find_no_header(names: Sequence[str], rows: Iterable[TableRow | RowError]) -> str:
    """Return why the first row is not the table's header; empty if it may be.

    ``names`` are its values; ``rows`` follow it.
    """
    if any(name.lower() in COMMON_NAMES for name in names):
        return ""
    others = [
        [value.strip() for value in row[1]]
        for row in rows
        if not isinstance(row, RowError) and len(row[1]) == len(names)
    ]
    others = [values for values in others if values != list(names)]  # a header may be repeated
    for index, name in enumerate(names):
        column = [values[index] for values in others if values[index]]
        if name and name in column:
            return f"the value in column {index + 1} occurs again below it"
        if _NUMBER.fullmatch(name) and column and all(map(_NUMBER.fullmatch, column)):
            return f"column {index + 1} holds only numbers"
        if len(name) > MAX_NAME_CHARACTERS:
            return f"column {index + 1} has a text of {len(name)} characters"
    if all(len(name.split()) >= _NUM_WORDS_OF_TEXT for name in names):
        return "it holds whole sentences"
    return ""


def _name(rows: Iterable[TableRow | RowError], names: list[str]) -> Iterator[RawRow | RowError]:
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        line, values = row
        fields = {name: value for name, value in zip(names, values, strict=True) if name}
        yield RawRow(line=line, fields=fields)


def check_counts(
    rows: Iterable[TableRow | RowError], *, file: str
) -> Iterator[TableRow | RowError]:
    """Replace rows that have more or fewer values than the first one by errors."""
    num_fields: int | None = None
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        line, values = row
        num_fields = len(values) if num_fields is None else num_fields
        if len(values) == num_fields:
            yield row
        else:
            message = f"has {len(values)} fields, the header has {num_fields}"
            yield RowError(
                file=file,
                line=line,
                reason="WrongFieldCount",
                message=message,
                snippet=make_snippet(" | ".join(values)),
            )


def _check_names(names: list[str], file: str) -> None:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise DataError(
            "InvalidHeader",
            f"{file}: the header names {', '.join(repeated)} more than once; give each column a "
            "name of its own, or none to leave it out",
        )
