"""Read rows from one local file: JSON Lines, JSON, CSV (or tab-separated) or Parquet.

A bad row never ends the reading: it comes out as a :class:`RowError` between the good ones, so that
all of them are told at once. Only a file that cannot be read at all raises.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import RawRow, RowError, make_snippet
from finetune_trainer.errors import DataError

EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
DELIMITERS = ",;\t|"
FIELD_CHARACTERS = 64 * 1024 * 1024
"""Longest CSV field; the csv module's own 128 Ki is too short for documents."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK = b"\xef\xbb\xbf"

Rows = Iterator[RawRow | RowError]


def read_rows(path: Path, *, file: str) -> Rows:
    """Yield the rows of a file by its extension.

    Args:
        path: The local file.
        file: Its name as the user knows it, for messages.

    Raises:
        DataError: The file is damaged, empty of structure, or in another encoding.
    """
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            yield from _read_jsonl(path, file)
        case ".json":
            yield from _read_json(path, file)
        case ".csv":
            yield from _read_csv(path, file)
        case ".tsv":
            yield from _read_csv(path, file, delimiter="\t")
        case ".parquet":
            yield from _read_parquet(path, file)
        case other:
            raise DataError(
                "UnknownFileType",
                f"cannot read {file}: extension {other or 'missing'}; use {', '.join(EXTENSIONS)}",
            )


def _read_jsonl(path: Path, file: str) -> Rows:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                _refuse_utf16(raw, file)
                raw = raw.removeprefix(_UTF8_MARK)
            if not raw.strip():
                continue
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                quoted = raw.decode("utf-8", "backslashreplace").strip()
                message = f"byte {error.start + 1} is not UTF-8"
                yield _error(file, number, "NotUtf8", message, quoted)
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                yield _error(file, number, "NotJson", f"not JSON: {error}", line.strip())
                continue
            yield _as_row(value, file, number)


def _read_json(path: Path, file: str) -> Rows:
    raw = path.read_bytes()
    _refuse_utf16(raw, file)
    try:
        document = json.loads(raw.removeprefix(_UTF8_MARK).decode())
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            # One object per line under the name .json is common on the Hub.
            yield from _read_jsonl(path, file)
            return
        raise DataError(
            "UnreadableFile", f"{file} is not JSON: {error}; correct the file at this place"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError("UnreadableFile", f"{file} is not JSON in UTF-8: {error}") from error
    if isinstance(document, dict) and isinstance(document.get("data"), list):
        document = document["data"]
    if not isinstance(document, list):
        raise DataError(
            "UnreadableFile",
            f"{file} holds {_kind(document)}; a .json file must be an array of rows, or an object "
            'with the rows under "data"',
        )
    for position, value in enumerate(document, start=1):
        yield _as_row(value, file, position)


def _read_csv(path: Path, file: str, *, delimiter: str = "") -> Rows:
    with path.open("rb") as stream:
        _refuse_utf16(stream.read(2), file)
    csv.field_size_limit(FIELD_CHARACTERS)
    # Bytes that are not UTF-8 become surrogates, which the row's digest refuses: one bad row then
    # costs itself and not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        delimiter = delimiter or _sniff_delimiter(stream.read(65536))
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise DataError(
                "InvalidHeader", f"cannot read the header of {file}: {error}"
            ) from error
        _check_header(header, file)
        while True:
            start = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                message = f"not CSV: {error} (up to line {reader.line_num})"
                yield _error(file, start, "NotCsv", message, "")
                continue
            if not values:
                continue
            if len(values) != len(header):
                message = f"has {len(values)} fields, the header has {len(header)}"
                yield _error(file, start, "WrongFieldCount", message, delimiter.join(values))
                continue
            yield RawRow(line=start, fields=dict(zip(header, values, strict=True)))


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
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            "UnreadableFile", f"{file} is not a readable Parquet file (row {position + 1}): {error}"
        ) from error


def _as_row(value: Any, file: str, line: int) -> RawRow | RowError:
    if isinstance(value, dict):
        return RawRow(line=line, fields=value)
    message = f"the row is {_kind(value)}; expected an object with named fields"
    return _error(file, line, "NotAnObject", message, value)


def _check_header(header: list[str], file: str) -> None:
    if not any(header):
        raise DataError("EmptyDataset", f"{file} is empty; its first line must name the columns")
    unnamed = [str(i) for i, name in enumerate(header, start=1) if not name]
    if unnamed:
        raise DataError(
            "InvalidHeader",
            f"{file}: column {', '.join(unnamed)} has no name; the first line must name them all",
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            "InvalidHeader", f"{file}: the header names {', '.join(repeated)} more than once"
        )


def _sniff_delimiter(head: str) -> str:
    """Return the delimiter that divides the header into most fields; a comma when none does."""

    def num_fields(delimiter: str) -> int:
        try:
            return len(next(csv.reader(head.splitlines(keepends=True), delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(DELIMITERS, key=num_fields)


def _refuse_utf16(head: bytes, file: str) -> None:
    if head.startswith(_UTF16_MARKS):
        raise DataError(
            "UnreadableFile",
            f"{file} is UTF-16; save it as UTF-8, for example: iconv -f UTF-16 -t UTF-8",
        )


def _error(file: str, line: int, reason: str, message: str, raw: object) -> RowError:
    return RowError(file=file, line=line, reason=reason, message=message, snippet=make_snippet(raw))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
