"""Rows of a sheet of an Excel workbook, as the text that a CSV file of it would hold."""

from __future__ import annotations

import datetime
import zipfile
from collections.abc import Iterator
from pathlib import Path

from finetune_trainer.data.rows import RowError, make_snippet
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.header import TableRow

MAX_BYTES = 1024 * 1024 * 1024
"""Largest workbook, unpacked: the library holds a sheet whole."""


def read_sheet(path: Path, *, file: str, sheet: str | None) -> Iterator[TableRow | RowError]:
    """Yield the rows of a sheet, the header first; rows without any value are left out.

    ``sheet`` None takes the first.

    Raises:
        DataError: ``UnreadableFile``: it is no workbook, or too large. ``SheetNotFound``: names the
            existing sheets.
    """
    # Imported here: other files do not need it.
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        _check_size(path, file)
        with CalamineWorkbook.from_path(str(path)) as workbook:
            names = workbook.sheet_names
            if not names:
                raise DataError("EmptyDataset", f"{file} is empty: it has no sheet")
            if sheet is not None and sheet not in names:
                raise DataError(
                    "SheetNotFound",
                    f"{file} has no sheet {sheet!r}; its sheets are {', '.join(names)}: correct "
                    "sheet of the source, or leave it out to read the first",
                )
            rows = workbook.get_sheet_by_name(sheet or names[0]).iter_rows()
            yield from _trim(
                ((n, [_as_text(v) for v in row]) for n, row in enumerate(rows, 1)), file
            )
    except PasswordError as error:
        raise DataError(
            "UnreadableFile", f"{file} is locked with a password; save it without one"
        ) from error
    except (CalamineError, zipfile.BadZipFile, NotImplementedError) as error:  # of an odd zip file
        raise DataError(
            "UnreadableFile",
            f"{file} is not a readable Excel workbook: {error}; save it again as .xlsx, or as CSV",
        ) from error


def _check_size(path: Path, file: str) -> None:
    with zipfile.ZipFile(path) as archive:
        num_bytes = sum(part.file_size for part in archive.infolist())
    if num_bytes > MAX_BYTES:
        raise DataError(
            "UnreadableFile",
            f"{file} holds {num_bytes:,} bytes unpacked, more than the {MAX_BYTES:,} that are read "
            "of a workbook; save it as CSV, which is read row by row",
        )


def _trim(rows: Iterator[TableRow], file: str) -> Iterator[TableRow | RowError]:
    """Leave out empty rows, and the columns after the last one that has a name."""
    width: int | None = None
    for line, values in rows:
        if not any(values):
            continue
        if width is None:
            width = max(index for index, value in enumerate(values, start=1) if value)
        if any(values[width:]):
            yield RowError(
                file=file,
                line=line,
                reason="WrongFieldCount",
                message=f"has a value to the right of the {width} columns of the header",
                snippet=make_snippet(" | ".join(values)),
            )
        else:
            yield line, values[:width]


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        # Excel computes in 15 digits and knows no integers.
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime.datetime | datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    return "" if value is None else str(value)
