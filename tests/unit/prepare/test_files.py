"""Files of every type give their good rows and an error for each bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import QUOTED_CHARACTERS, RawRow, RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.encodings import UTF8, choose_encoding
from finetune_trainer.prepare.reading.files.file_types import is_text
from finetune_trainer.prepare.reading.files.files import read_rows

ROWS = [{"q": "one"}, {"q": "two, and\nthree"}, {"q": "vier \u00e4\u00f6 \U0001f600"}]


def read(path: Path) -> tuple[list[tuple[int, dict[str, object]]], list[RowError]]:
    rows, errors = [], []
    wanted = choose_encoding(path, file=path.name) if is_text(path.name) else UTF8
    for row in read_rows(path, file=path.name, encoding=wanted):
        if isinstance(row, RawRow):
            rows.append((row.line, row.fields))
        else:
            errors.append(row)
    return rows, errors


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def as_jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", as_jsonl(ROWS), [1, 2, 3]),
        ("crlf.jsonl", as_jsonl(ROWS).replace("\n", "\r\n"), [1, 2, 3]),
        ("blank.jsonl", "\n" + as_jsonl(ROWS).replace("\n", "\n\n"), [2, 4, 6]),
        ("bom.jsonl", "\ufeff" + as_jsonl(ROWS), [1, 2, 3]),
        ("upper.JSONL", as_jsonl(ROWS), [1, 2, 3]),
        ("a.ndjson", as_jsonl(ROWS), [1, 2, 3]),
        ("array.json", json.dumps(ROWS), [1, 2, 3]),
        ("data.json", "\ufeff" + json.dumps({"data": ROWS, "version": 1}), [1, 2, 3]),
        ("lines.json", as_jsonl(ROWS), [1, 2, 3]),
        ("a.csv", 'q\none\n"two, and\nthree"\nvier \u00e4\u00f6 \U0001f600\n', [2, 3, 5]),
        (
            "bom.csv",
            '\ufeffq\r\none\r\n"two, and\nthree"\r\nvier \u00e4\u00f6 \U0001f600',
            [2, 3, 5],
        ),
    ],
)
def test_text_files_give_their_rows_with_lines(
    tmp_path: Path, name: str, content: str, lines: list[int]
) -> None:
    rows, errors = read(write(tmp_path, name, content))
    assert errors == []
    assert rows == list(zip(lines, ROWS, strict=True))


def test_parquet_gives_nested_rows(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"{n}"}]} for n in range(3000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == (list(enumerate(rows, start=1)), [])


def test_parquet_with_text_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(
        1, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xc0a")
    )
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet is not a readable Parquet file"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    text = f'text{delimiter}label\n"a{delimiter} b"{delimiter}c\n'
    rows, errors = read(write(tmp_path, "a.csv", text))
    assert errors == []
    assert rows == [(2, {"text": f"a{delimiter} b", "label": "c"})]


def test_tsv_is_divided_by_tabs_whatever_else_its_header_holds(tmp_path: Path) -> None:
    text = '\ufefftext, or what, so\tlabel\na, b\t"c\td"\n'
    rows, errors = read(write(tmp_path, "a.tsv", text))
    assert errors == []
    assert rows == [(2, {"text, or what, so": "a, b", "label": "c\td"})]


@pytest.mark.parametrize(
    ("name", "content", "line", "reason", "message"),
    [
        ("a.tsv", b"q\tr\n1\t2\n3\n", 3, "WrongFieldCount", "has 1 fields, the header has 2"),
        ("a.jsonl", b'{"q": 1}\n{"q": \n', 2, "NotJson", "not JSON"),
        ("a.jsonl", b'{"q": 1}\n{"q": 2},\n', 2, "NotJson", "at character 9: the line ends in a"),
        ("a.jsonl", b'{"q": 1}\n[\n', 2, "NotJson", "a JSON array belongs in a .json file"),
        ("a.jsonl", b"{\"q\": 1}\n{'q': 2}\n", 2, "NotJson", "stand in double quotes"),
        ("a.jsonl", b'{"q": 1}\n[1]\n', 2, "NotAnObject", "the row is a list"),
        ("a.jsonl", b'{"q": "\xc3\xa4"}\n{"q": "\xff"}\n', 2, "NotUtf8", "byte 8"),
        ("a.jsonl", b"[" * 100000 + b"\n", 1, "NotJson", "not JSON"),
        ("a.json", b'[{"q": 1}, "two"]', 2, "NotAnObject", "the row is a string"),
        ("a.csv", b"q,r\n1,2\n3\n", 3, "WrongFieldCount", "has 1 fields, the header has 2"),
        ("a.csv", b'q,r\n1,2\n"3"x,4\n', 3, "NotCsv", "not CSV"),
        ("a.csv", b'q,r\n1,2\n"3,4\n5,6\n', 3, "NotCsv", "unexpected end of data"),
    ],
)
def test_a_bad_row_is_told_and_the_rest_is_read(
    tmp_path: Path, name: str, content: bytes, line: int, reason: str, message: str
) -> None:
    _, errors = read(write(tmp_path, name, content))
    assert [(error.line, error.reason) for error in errors] == [(line, reason)]
    assert message in errors[0].message
    assert len(errors[0].snippet) <= QUOTED_CHARACTERS
    assert errors[0].snippet.isprintable()
    assert str(errors[0]).startswith(f"{name}:{line}: ")


@pytest.mark.parametrize(
    ("name", "content", "reason", "message"),
    [
        ("a.json", b"{", "UnreadableFile", "not JSON"),
        ("a.json", b'"text"', "UnreadableFile", "holds a string"),
        ("a.json", b'{"rows": []}', "UnreadableFile", "holds an object"),
        ("a.csv", b"", "EmptyDataset", "is empty"),
        ("a.csv", b"a,b,a\n1,2,3\n", "InvalidHeader", "names a more than once"),
        ("a.parquet", b"PAR1 no", "UnreadableFile", "not a readable Parquet file"),
        ("a.jsonl.gz", b'{"q": 1}', "UnreadableFile", "no .gz archive; call it a.jsonl if"),
        (
            "a.jsonl.gz",
            b"\x28\xb5\x2f\xfd0",
            "UnreadableFile",
            "a .zst archive; call it a.jsonl.zst",
        ),
        (
            "a.jsonl",
            b"\x1f\x8b\x08\x00",
            "UnreadableFile",
            "a .gz archive, not text; call it a.jsonl.gz",
        ),
        ("a.csv", b"PK\x03\x04\x14", "UnreadableFile", "a .zip archive, not text; unpack it"),
        ("a.csv", b"a,b,a\n1,2,3\n", "InvalidHeader", "give each column a name of its own"),
        ("a.doc", b"x", "UnknownFileType", ".jsonl"),
        ("a.parquet.gz", b"x", "UnknownFileType", "text file with .gz or .zst"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, reason: str, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, name, content))
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert name in caught.value.message


ANY_NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv.gz", "a.json.zst", "a.xlsx", "a.parquet"]


@given(content=st.binary(max_size=300), name=st.sampled_from(ANY_NAMES))
def test_any_bytes_give_rows_or_errors_and_never_another_exception(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("any"), name, content)
    try:
        rows, errors = read(path)
    except DataError:
        return
    assert all(line >= 1 for line, _ in rows)
    assert all(error.snippet.isprintable() for error in errors)
