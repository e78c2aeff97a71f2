"""Rows of a CSV file, or of one divided by tabs, semicolons or bars."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_trainer.data.rows import RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.encodings import TextEncoding
from finetune_trainer.prepare.reading.files.header import TableRow
from finetune_trainer.prepare.reading.files.opening import open_utf8

DELIMITERS = ",;\t|"
FIELD_CHARACTERS = 64 * 1024 * 1024
"""Longest field and longest line; the csv module's own 128 Ki is too short for documents."""

_HEAD_CHARACTERS = 65536
_TOLD_DELIMITER = re.compile(r"sep=([,;\t|])\r?\n")
"""First line that Excel may write to name the delimiter."""


def read_csv(
    path: Path, *, file: str, encoding: TextEncoding, delimiter: str = ""
) -> Iterator[TableRow | RowError]:
    """Yield the rows of a file with its header; lines without a value are left out.

    ``file`` is its name for messages. An empty ``delimiter`` is found from the first line.

    Raises:
        DataError: The archive that it is in is damaged.
    """
    csv.field_size_limit(FIELD_CHARACTERS)
    with _open_text(path, file, encoding) as stream:
        head = stream.read(_HEAD_CHARACTERS)
    told = _TOLD_DELIMITER.match(head)
    delimiter = told[1] if told else delimiter or _sniff_delimiter(head)
    with _open_text(path, file, encoding) as stream:
        reader = csv.reader(_read_lines(stream, file), delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"not CSV: {error} (up to line {reader.line_num})"
                yield RowError(file=file, line=start, reason="NotCsv", message=message, snippet="")
                continue
            if any(values) and not (told and start == 1):
                yield start, values


def _read_lines(stream: io.TextIOWrapper, file: str) -> Iterator[str]:
    """Yield lines; a small archive may unpack to one that no memory holds."""
    number = 0
    while line := stream.readline(FIELD_CHARACTERS + 1):
        number += 1
        if len(line) > FIELD_CHARACTERS:
            raise DataError(
                "UnreadableFile",
                f"{file}:{number}: the line is longer than {FIELD_CHARACTERS:,} characters; is "
                "this a CSV file?",
            )
        yield line


@contextmanager
def _open_text(path: Path, file: str, encoding: TextEncoding) -> Iterator[io.TextIOWrapper]:
    # Bytes that are not UTF-8 become surrogates, which the row's digest refuses: one bad row then
    # costs itself and not the file.
    with open_utf8(path, encoding.codec, file=file) as stream:
        yield io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


def _sniff_delimiter(head: str) -> str:
    """Return the delimiter that divides the header into most fields; a comma when none does."""

    def num_fields(delimiter: str) -> int:
        try:
            return len(next(csv.reader(head.splitlines(keepends=True), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_fields)
