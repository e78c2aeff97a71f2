"""Reads rows from one local file: JSON, a table, Parquet, plain text or Markdown.

A bad row becomes a :class:`RowError` between the good ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from finetune_trainer.data.rows import RawRow, RowError, make_snippet
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.csv_table import read_csv
from finetune_trainer.prepare.reading.files.encodings import UTF8, TextEncoding
from finetune_trainer.prepare.reading.files.file_types import KNOWN_ENDINGS, extension_of
from finetune_trainer.prepare.reading.files.header import check_counts, name_columns
from finetune_trainer.prepare.reading.files.json_text import JsonParser, find_repeated_key
from finetune_trainer.prepare.reading.files.opening import open_utf8
from finetune_trainer.prepare.reading.files.plain_text import read_text_rows
from finetune_trainer.prepare.reading.files.workbook import read_sheet

MAX_LINE_BYTES = 64 * 1024 * 1024
MAX_DOCUMENT_BYTES = 1024 * 1024 * 1024
"""Longest line of JSON Lines, and longest JSON document: both are held whole."""

_UTF8_MARK = b"\xef\xbb\xbf"

Rows = Iterator[RawRow | RowError]


def read_rows(
    path: Path,
    *,
    file: str,
    encoding: TextEncoding = UTF8,
    header: str = "Auto",
    sheet: str | None = None,
) -> Rows:
    """Yield the rows of a file by the extension of its name.

    Args:
        path: The local file.
        file: Its name for messages.
        encoding: How it is decoded, if it is text.
        header: ``Auto``, ``Present`` or ``Absent``.
        sheet: Sheet of a workbook; None takes the first.

    Raises:
        DataError: The file is damaged, empty, or in another encoding.
    """
    match extension_of(path.name):
        case ".jsonl" | ".ndjson":
            yield from _read_jsonl(path, file, encoding)
        case ".json":
            yield from _read_json(path, file, encoding)
        case ".csv":
            rows = read_csv(path, file=file, encoding=encoding)
            yield from name_columns(check_counts(rows, file=file), header=header, file=file)
        case ".tsv":
            rows = read_csv(path, file=file, encoding=encoding, delimiter="\t")
            yield from name_columns(check_counts(rows, file=file), header=header, file=file)
        case ".xlsx":
            rows = read_sheet(path, file=file, sheet=sheet)
            yield from name_columns(rows, header=header, file=file)
        case ".parquet":
            yield from _read_parquet(path, file)
        case ".txt" | ".md" as ending:
            yield from read_text_rows(
                path, file=file, encoding=encoding, is_markdown=ending == ".md"
            )
        case _:
            raise DataError(
                "UnknownFileType",
                f"cannot read {file}: extension {path.suffix or 'missing'}; use {KNOWN_ENDINGS}",
            )


def _read_jsonl(path: Path, file: str, encoding: TextEncoding) -> Rows:
    parser = JsonParser()
    with open_utf8(path, encoding.codec, file=file) as stream:
        for number, raw in _read_lines(stream):
            if number == 1:
                raw = raw.removeprefix(_UTF8_MARK)
            if not raw.strip():
                continue
            if len(raw) > MAX_LINE_BYTES:
                message = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                yield _error(file, number, "RowTooLong", message, "")
                continue
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                quoted = raw.decode("utf-8", "backslashreplace").strip()
                message = f"byte {error.start + 1} is not UTF-8"
                yield _error(file, number, "NotUtf8", message, quoted)
                continue
            try:
                value = parser.parse(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield _error(file, number, "NotJson", _explain_json(error, line), line.strip())
                continue
            yield _as_row(value, file, number, parser)


def _explain_json(error: json.JSONDecodeError | RecursionError, line: str) -> str:
    """Describe the fault of a line, by the file's line number."""
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"
    what = f"not JSON: {error.msg} at character {error.pos + 1}"
    text = line.strip()
    if text.endswith(",") and error.msg == "Extra data":
        return f"{what}: the line ends in a comma; in JSON Lines each line is a value of its own"
    if text in ("[", "]", "{", "}") or error.pos >= len(text):
        return f"{what}: each line must be a whole value; a JSON array belongs in a .json file"
    if text.startswith("{'"):
        return f"{what}: names and text stand in double quotes"
    return what


def _read_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their number; of one that is too long, no more than shows that it is."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, raw
        while len(raw) > MAX_LINE_BYTES and not raw.endswith(b"\n"):
            raw = stream.readline(MAX_LINE_BYTES + 1) or b"\n"


def _read_json(path: Path, file: str, encoding: TextEncoding) -> Rows:
    opened: AbstractContextManager[BinaryIO] = open_utf8(path, encoding.codec, file=file)
    with opened as stream:
        raw = stream.read(MAX_DOCUMENT_BYTES + 1)
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise DataError(
            "UnreadableFile",
            f"{file} is longer than {MAX_DOCUMENT_BYTES:,} bytes, and a JSON document is read as a "
            "whole; write one row per line and call it .jsonl",
        )
    parser = JsonParser()
    try:
        document = parser.parse(raw.removeprefix(_UTF8_MARK).decode())
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            # One object per line under the name .json is common on the Hub.
            del raw
            yield from _read_jsonl(path, file, encoding)
            return
        raise DataError(
            "UnreadableFile", f"{file} is not JSON: {error}; correct the file at this place"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError("UnreadableFile", f"{file} is not JSON in UTF-8: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        if parser.num_repeating and not find_repeated_key(document["data"]):
            raise DataError(
                "UnreadableFile",
                f"{file} has {find_repeated_key(document)} more than once beside its rows, and "
                "only the last value would be read; keep one of them",
            )
        document = document["data"]
    if not isinstance(document, list):
        raise DataError(
            "UnreadableFile",
            f"{file} holds {_kind(document)}; a .json file must be an array of rows, or an object "
            'with the rows under "data"',
        )
    for position, value in enumerate(document, start=1):
        yield _as_row(value, file, position, parser)


def _read_parquet(path: Path, file: str) -> Rows:
    # Imported here: it costs 0.1 s and 40 MB that the other file types need not pay.
    import pyarrow as pa
    import pyarrow.parquet as pq

    position = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    position += 1
                    yield RawRow(line=position, fields=fields)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(
            "UnreadableFile",
            f"{file} is not a readable Parquet file"
            + (f" (after row {position})" if position else "")
            + f": {error}; write or upload it again",
        ) from error


def _as_row(value: Any, file: str, line: int, parser: JsonParser) -> RawRow | RowError:
    if parser.num_repeating and (key := find_repeated_key(value)):
        message = f"an object has {key} more than once, and only its last value would be read"
        return _error(file, line, "RepeatedKey", f"{message}; keep one of them", value)
    if isinstance(value, dict):
        return RawRow(line=line, fields=value)
    message = f"the row is {_kind(value)}; expected an object with named fields"
    return _error(file, line, "NotAnObject", message, value)


def _error(file: str, line: int, reason: str, message: str, raw: object) -> RowError:
    return RowError(file=file, line=line, reason=reason, message=message, snippet=make_snippet(raw))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
