"""Tables without names, workbooks and archives give the rows that a plain CSV file gives."""

from __future__ import annotations

import csv
import datetime
import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import Example, RawRow, RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.files import csv_table, workbook
from finetune_trainer.prepare.reading.files import files as reading_files
from finetune_trainer.prepare.reading.files.files import read_rows
from finetune_trainer.prepare.reading.sources import describe_file
from kit.processes.spreadsheet import ErrorCell, make_workbook

DAY = datetime.date(2024, 5, 1)
NOON = datetime.datetime(2024, 5, 1, 12, 30)


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def fields(path: Path, **settings: str) -> list[dict[str, object]]:
    rows = list(read_rows(path, file=path.name, **settings))  # type: ignore[arg-type]
    assert all(isinstance(row, RawRow) for row in rows), rows
    return [row.fields for row in rows if isinstance(row, RawRow)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ",text,label\n0,a,b\n1,c,d\n"),
        ("a.csv", "text;label;\r\na;b;\r\nc;d;\r\n"),
        ("a.csv", "sep=;\r\ntext;label\r\na;b\r\nc;d\r\n"),
        ("a.csv", "\ufeffsep=\t\ntext\tlabel\na\tb\nc\td\n"),
        ("a.xlsx", make_workbook({"S": [["text", None, "label"], ["a", 7, "b"], ["c", 8, "d"]]})),
    ],
)
def test_what_exports_put_beside_the_columns_is_left_out(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    rows = fields(write(tmp_path, name, content))
    assert rows == [{"text": "a", "label": "b"}, {"text": "c", "label": "d"}]


HEADERLESS = {
    "a value of the first row comes again": "Where is it?,lost\nIt broke,broken\nGone,lost\n",
    "numbers above numbers": "5,It broke\n3,Gone\n",
    "dates above dates": "2024-01-01;It broke\n2024-01-02;Gone\n",
    "a whole text": f"{'long ' * 40},lost\nGone,broken\n",
    "whole sentences": "Where is my new card?,It is on its way.\nAm I late?,No you are not.\n",
}
WITH_HEADER = {
    "known names": "text,lost\na,lost\nb,lost\n",
    "new names": "Anfrage,Kategorie\nKarte weg,verloren\nWeg,verloren\n",
    "a number above text": "2024,2025\nfew,many\n",
    "the header again": "frage,antwort\na,b\nfrage,antwort\nc,d\n",
    "one long name": "How satisfied are you with us?,Name\nvery,Ann\n",
}


@pytest.mark.parametrize("name", HEADERLESS)
def test_a_first_row_of_data_is_refused_and_read_by_position_when_asked(
    name: str, tmp_path: Path
) -> None:
    text = HEADERLESS[name]
    path = write(tmp_path, "a.csv", text)
    with pytest.raises(DataError) as caught:
        fields(path)
    assert caught.value.reason == "NoHeader"
    assert "set header: Absent" in caught.value.message
    assert "{prompt: column1, completion: column2}" in caught.value.message
    for value in text.splitlines()[0].replace(";", ",").split(","):
        assert value.strip() not in caught.value.message, "a row's text is in the message"
    rows = fields(path, header="Absent")
    assert len(rows) == text.count("\n")
    assert set(rows[0]) == {"column1", "column2"}
    assert len(fields(path, header="Present")) == text.count("\n") - 1


@pytest.mark.parametrize("name", WITH_HEADER)
def test_a_row_of_names_is_taken_for_one(name: str, tmp_path: Path) -> None:
    text = WITH_HEADER[name]
    rows = fields(write(tmp_path, "a.csv", text))
    assert list(rows[0]) == text.splitlines()[0].split(",")


def test_one_column_without_a_name_is_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns: \{text: column1\}"):
        fields(write(tmp_path, "a.csv", "The court held it void.\nAn appeal was dismissed.\n"))


def test_columns_by_position_become_examples(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", HEADERLESS["a value of the first row comes again"])
    columns = {"prompt": "column1", "completion": "column2"}
    uri = "file:///a.csv"
    source = Source.model_validate({"uri": uri, "header": "Absent", "columns": columns})
    files = [describe_file(path, name="a.csv")]
    opened = open_source(source, files, index=0, label="", conversational=False)
    assert opened.conversion is not None
    convert = opened.conversion.build()
    kept = [convert(file, row) for file, row in opened.rows if isinstance(row, RawRow)]
    assert len(kept) == 3
    assert isinstance(kept[0], Example)
    assert kept[0].row == {"prompt": "Where is it?", "completion": "lost"}
    assert kept[0].line == 1


def test_a_sheet_is_read_as_the_csv_file_of_it_would_be(tmp_path: Path) -> None:
    book = make_workbook(
        {
            "Rows": [
                [],
                ["id", "when", "text", "ok"],
                [1, DAY, "l1\nl2", True],
                [None, None, None, None],
                [2.5, NOON, ErrorCell("#N/A"), False],
                [123456789012, None, "0.1 is ", 0.1 + 0.2],
            ],
            "Other": [["text"], ["x"]],
        }
    )
    path = write(tmp_path, "a.xlsx", book)
    assert list(read_rows(path, file="a.xlsx")) == [
        RawRow(line=3, fields={"id": "1", "when": "2024-05-01", "text": "l1\nl2", "ok": "TRUE"}),
        RawRow(
            line=5, fields={"id": "2.5", "when": "2024-05-01 12:30:00", "text": "", "ok": "FALSE"}
        ),
        RawRow(line=6, fields={"id": "123456789012", "when": "", "text": "0.1 is ", "ok": "0.3"}),
    ]
    assert fields(path, sheet="Other") == [{"text": "x"}]


def test_a_value_beside_the_named_columns_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path, "a.xlsx", make_workbook({"S": [["text", "label"], ["a", "b", "c"]]}))
    (error,) = read_rows(path, file="a.xlsx")
    assert isinstance(error, RowError)
    assert (error.line, error.reason) == (2, "WrongFieldCount")


@pytest.mark.parametrize(
    ("content", "settings", "reason", "message"),
    [
        (b"no workbook", {}, "UnreadableFile", "not a readable Excel workbook"),
        (make_workbook({"S": []})[:200], {}, "UnreadableFile", "not a readable Excel workbook"),
        (make_workbook({"S": []}), {}, "EmptyDataset", "is empty"),
        (make_workbook({}), {}, "EmptyDataset", "it has no sheet"),
        (make_workbook({"S": [["a"]], "T & U": []}), {"sheet": "R"}, "SheetNotFound", "S, T & U"),
        (make_workbook({"S": [["a", "b", "a"], [1, 2, 3]]}), {}, "InvalidHeader", "names a more"),
    ],
)
def test_a_workbook_that_cannot_be_read_is_refused(
    content: bytes, settings: dict[str, str], reason: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        fields(write(tmp_path, "a.xlsx", content), **settings)
    assert caught.value.reason == reason
    assert message in caught.value.message
    assert "a.xlsx" in caught.value.message


def test_a_workbook_too_large_to_hold_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workbook, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="save it as CSV"):
        fields(write(tmp_path, "a.xlsx", make_workbook({"S": [["a"], ["b"]]})))


JSONL = '{"q": "one"}\n{"q": "vier \u00e4"}\n'
CSV = "q\none\nvier \u00e4\n"


def compress(content: str, ending: str) -> bytes:
    raw = content.encode()
    if ending == ".gz":
        return gzip.compress(raw)
    packed: bytes = pa.Codec("zstd").compress(raw, asbytes=True)
    return packed


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize(("name", "content"), [("a.jsonl", JSONL), ("a.csv", CSV)])
def test_archives_are_read_also_in_several_parts(
    name: str, content: str, ending: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name + ending, compress(content, ending))
    assert fields(path) == [{"q": "one"}, {"q": "vier \u00e4"}]
    head, tail = content[:7], content[7:]
    path = write(tmp_path, name + ending, compress(head, ending) + compress(tail, ending))
    assert fields(path) == [{"q": "one"}, {"q": "vier \u00e4"}]


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        *((ending, damage) for ending in (".gz", ".zst") for damage in ("cut", "other", "end")),
        (".gz", "changed"),  # in zstd a checksum is an option that not all writers take
    ],
)
def test_a_damaged_archive_is_refused_when_its_source_is_fetched(
    ending: str, damage: str, tmp_path: Path
) -> None:
    whole = compress("".join(f'{{"q": "{n * 7919}"}}\n' for n in range(5000)), ending)
    content = {
        "cut": whole[: len(whole) // 2],
        "changed": whole[:200] + bytes(50) + whole[250:],
        "other": b"no archive at all",
        "end": whole + b"xx",
    }[damage]
    path = write(tmp_path, f"a.jsonl{ending}", content)
    with pytest.raises(DataError) as caught:
        describe_file(path, name=path.name)
    assert caught.value.reason == "UnreadableFile"
    what = f"holds no {ending} archive" if damage == "other" else f"is no complete {ending} file"
    assert f"a.jsonl{ending} {what}" in caught.value.message


def test_a_line_longer_than_memory_allows_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_files, "MAX_LINE_BYTES", 20)
    path = write(tmp_path, "a.jsonl", '{"q": 1}\n' + "x" * 100 + '\n{"q": 2}\n')
    rows = list(read_rows(path, file="a.jsonl"))
    assert [row.line for row in rows] == [1, 2, 3]
    assert isinstance(rows[1], RowError)
    assert rows[1].reason == "RowTooLong"


def test_a_line_of_a_table_longer_than_memory_allows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_table, "FIELD_CHARACTERS", 20)
    before = csv.field_size_limit()
    try:
        with pytest.raises(DataError, match=r"a.csv:2: the line is longer than 20 characters"):
            fields(write(tmp_path, "a.csv", "question,answer\n" + "x" * 100))
    finally:
        csv.field_size_limit(before)  # it holds for the whole process


def test_a_document_longer_than_memory_allows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_files, "MAX_DOCUMENT_BYTES", 20)
    with pytest.raises(DataError, match="one row per line and call it"):
        fields(write(tmp_path, "a.json", '[{"q": "much text here"}]'))
