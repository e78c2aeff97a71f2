"""Text in any encoding is read right, told, or refused with the place; never guessed wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_api.v1alpha1.spec.dataset import Source, TextEncodingName
from finetune_trainer.data.rows import RawRow
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files import encodings
from finetune_trainer.prepare.reading.files.encodings import BINARY_MARKS, CODECS, choose_encoding
from finetune_trainer.prepare.reading.files.files import read_rows
from finetune_trainer.prepare.reading.files.opening import ARCHIVE_MARKS
from finetune_trainer.prepare.reading.sources import describe_file
from finetune_trainer.prepare.report.summary import report_encodings

GERMAN = "text,label\nIch h\u00e4tte gern eine neue Karte f\u00fcr \u00fcbermorgen,karte\n"
FRENCH = (
    "text,label\nO\u00f9 est ma carte\u00a0? D\u00e9j\u00e0 d\u00e9bit\u00e9 \u2013 bizarre,carte\n"
)
POLISH = (
    "text,label\n"
    "Dzi\u015b z\u0142o\u017c\u0119 reklamacj\u0119 i prosz\u0119 o kart\u0119 \u015bwie"
    "\u017c\u0105,karta\n"
)
RUSSIAN = (
    "text,label\n"
    "\u0413\u0434\u0435 \u043c\u043e\u044f \u043d\u043e\u0432\u0430\u044f \u043a\u0430"
    "\u0440\u0442\u0430? \u042f \u0445\u043e\u0447\u0443 \u0437\u043d\u0430\u0442\u044c "
    "\u043a\u043e\u0433\u0434\u0430 \u043e\u043d\u0430 \u043f\u0440\u0438\u0434\u0451"
    "\u0442,a\n"
)
JAPANESE = "text,label\n\u79c1\u306e\u30ab\u30fc\u30c9\u306f\u3069\u3053\u3067\u3059\u304b,a\n"


def write(folder: Path, content: bytes, name: str = "rows.csv") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_the_api_names_what_can_be_decoded() -> None:
    assert set(TextEncodingName.__args__) == {"Auto", *CODECS}


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (GERMAN, "utf-8", "UTF-8"),
        (GERMAN, "utf-8-sig", "UTF-8"),
        (GERMAN, "utf-16", "UTF-16"),
        (GERMAN, "utf-16-le", "UTF-16LE"),
        (GERMAN, "utf-16-be", "UTF-16BE"),
        (GERMAN, "utf-32", "UTF-32"),
        (GERMAN, "cp1252", "Windows-1252"),
        (GERMAN, "mac_roman", "Macintosh"),
        (FRENCH, "cp1252", "Windows-1252"),
        ("text,label\nvoil\u00e0,b\n", "cp1252", "Windows-1252"),
        ("text,label\nIt\u2019s \u201cfine\u201d,b\n", "cp1252", "Windows-1252"),
        (POLISH, "cp1250", "Windows-1250"),
        (RUSSIAN, "cp1251", "Windows-1251"),
        (RUSSIAN, "koi8_r", "KOI8-R"),
        (JAPANESE, "cp932", "Shift_JIS"),
    ],
)
def test_auto_finds_the_encoding_and_the_rows_are_right(
    text: str, codec: str, name: str, tmp_path: Path
) -> None:
    num_rows = 2001
    path = write(tmp_path, (text + text.partition("\n")[2] * (num_rows - 1)).encode(codec))
    chosen = choose_encoding(path, file="rows.csv")
    assert chosen.name == name
    rows = list(read_rows(path, file="rows.csv", encoding=chosen))
    cell = text.splitlines()[1].rpartition(",")[0]
    assert [row.fields["text"] for row in rows if isinstance(row, RawRow)] == [cell] * num_rows


def test_text_that_may_be_one_of_several_is_refused_with_their_names(tmp_path: Path) -> None:
    path = write(tmp_path, POLISH.encode("iso8859_2"))
    with pytest.raises(DataError) as caught:
        choose_encoding(path, file="rows.csv")
    assert caught.value.reason == "WrongEncoding"
    assert "rows.csv is not UTF-8 and may be Windows-1250 or ISO-8859-2" in caught.value.message
    chosen = choose_encoding(path, file="rows.csv", wanted="ISO-8859-2")
    assert (chosen.name, chosen.codec) == ("ISO-8859-2", "iso8859_2")


def test_a_few_broken_lines_do_not_make_a_file_of_utf8_another(tmp_path: Path) -> None:
    path = write(tmp_path, GERMAN.encode() * 3 + b"voil\xe0,b\n")
    chosen = choose_encoding(path, file="rows.csv")
    assert chosen.name == "UTF-8"
    assert "lines that are not are bad rows" in chosen.reason


@pytest.mark.parametrize(
    ("content", "wanted", "message"),
    [
        (b"text\na\nb\n\x81\n", "Windows-1252", "rows.csv:4: byte 10 is not Windows-1252"),
        (b"text\n\x81\n", "Shift_JIS", "rows.csv:2: byte 6 is not Shift_JIS"),
        (b"\xff\xfea\x00\n\x00b", "Auto", "rows.csv:2: byte 7 is not UTF-16"),
        (b"\xff\xfea\x00\x00\xd8", "Auto", "rows.csv:1: byte 5 is not UTF-16"),
        (b"\xef\xbb\xbftext\n", "Windows-1252", "begins with the mark of UTF-8"),
        ("\ufefftext\n".encode("utf-16-le"), "UTF-8", "begins with the mark of UTF-16"),
    ],
)
def test_a_file_that_cannot_be_decoded_is_refused_with_the_place(
    content: bytes, wanted: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        choose_encoding(write(tmp_path, content), file="rows.csv", wanted=wanted)
    assert caught.value.reason == "WrongEncoding"
    assert message in caught.value.message
    assert "encoding" in caught.value.message


@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_the_place_is_right_across_pieces(
    where: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "CHUNK_BYTES", 4)
    content = "\u79c1\n".encode("cp932") * 3 + b"a" * where + b"\x81\n"
    with pytest.raises(DataError, match=f"rows.csv:4: byte {10 + where} is not Shift_JIS"):
        choose_encoding(write(tmp_path, content), file="rows.csv", wanted="Shift_JIS")


@pytest.mark.parametrize(
    ("codec", "wanted"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16")]
    + [(codec, name) for name, codec in CODECS.items() if name != "UTF-16"],
)
def test_every_encoding_of_the_api_is_read_as_it_says(
    codec: str, wanted: str, tmp_path: Path
) -> None:
    text = "text,label\nplain words,b\n"
    path = write(tmp_path, text.encode(codec))
    chosen = choose_encoding(path, file="rows.csv", wanted=wanted)
    assert chosen.name == wanted
    rows = list(read_rows(path, file="rows.csv", encoding=chosen))
    assert rows == [RawRow(line=2, fields={"text": "plain words", "label": "b"})]


def test_the_encoding_of_a_compressed_file_is_that_of_its_content(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(GERMAN.encode("cp1252")), "rows.csv.gz")
    file = describe_file(path, name="rows.csv.gz")
    assert file.encoding is not None
    assert file.encoding.name == "Windows-1252"


def test_what_is_no_utf8_is_told_once_for_all_files_alike(tmp_path: Path) -> None:
    files = [
        describe_file(write(tmp_path, text.encode(codec), name), name=name)
        for name, text, codec in [
            ("a.csv", GERMAN, "cp1252"),
            ("b.csv", FRENCH, "cp1252"),
            ("c.csv", GERMAN, "utf-8"),
            ("d.csv", GERMAN, "utf-16"),
        ]
    ]
    told: list[str] = []
    report_encodings(told.append, files)
    assert told == [
        "a.csv and 1 more read as Windows-1252: it is not UTF-8, and a sample of its lines reads "
        "like this",
        "d.csv read as UTF-16: the file begins with the mark of UTF-16",
    ]


@given(content=st.binary(max_size=200), wanted=st.sampled_from(["Auto", *CODECS]))
@example(content=b"PK\x03\x04", wanted="Auto")
@example(content=b"\x1f\x8b", wanted="Auto")
@example(content=b"\xff\xd8\xff", wanted="Auto")
def test_any_bytes_are_decoded_to_their_end_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, wanted: str
) -> None:
    path = write(tmp_path_factory.mktemp("any"), content, "rows.jsonl")
    Source.model_validate({"uri": "file:///a", "encoding": wanted})
    try:
        chosen = choose_encoding(path, file="rows.jsonl", wanted=wanted)
    except DataError as error:
        reason: str | None = error.reason
    else:
        reason = None
        list(read_rows(path, file="rows.jsonl", encoding=chosen))
    # An archive or a picture under a text's name is refused as one; nothing else is unreadable.
    is_binary = content.startswith((*ARCHIVE_MARKS, *BINARY_MARKS))
    assert (reason == "UnreadableFile") == is_binary
    assert is_binary or reason in (None, "WrongEncoding")
