"""Files of plain text and Markdown become rows of whole paragraphs, and no word is lost."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.data.rows import Example, RawRow, RowError
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.files.files import read_rows
from finetune_trainer.prepare.reading.files.plain_text import PIECE_CHARACTERS
from finetune_trainer.prepare.reading.sources import describe_file

FRONT = "---\ntitle: Notes\ntags: [a]\n---\n"


def read(path: Path) -> list[tuple[int, str]]:
    rows = [row for row in read_rows(path, file=path.name) if isinstance(row, RawRow)]
    return [(row.line, row.fields["text"]) for row in rows]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("text", ["One.\n\nTwo.\n", "\ufeffOne.\r\n\r\nTwo.", "One.\n\n\n \nTwo."])
def test_a_short_file_is_one_row(text: str, tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.txt", text)) == [(1, "One.\n\nTwo.")]


def test_a_long_file_gives_rows_of_whole_paragraphs_with_their_lines(tmp_path: Path) -> None:
    paragraphs = [f"{n} " + "x" * (PIECE_CHARACTERS // 3) for n in range(5)]
    rows = read(write(tmp_path, "a.txt", "\n\n".join(paragraphs)))
    assert [line for line, _ in rows] == [1, 5, 9]
    assert [text.split("\n\n") for _, text in rows] == [
        paragraphs[:2],
        paragraphs[2:4],
        paragraphs[4:],
    ]


@settings(deadline=None, max_examples=30)
@given(
    words=st.lists(st.sampled_from(["stone", "r\u00e9ponse", "\u6c34" * 3000, "\n", "\n\n", "."])),
    times=st.integers(1, 3000),
)
def test_no_word_is_lost_and_no_row_is_too_long(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], times: int
) -> None:
    text = " ".join(words * times)[:50_000]
    rows = read(write(tmp_path_factory.mktemp("text"), "a.txt", text))
    assert all(0 < len(row) <= PIECE_CHARACTERS for _, row in rows)
    assert "".join("".join(row.split()) for _, row in rows) == "".join(text.split())


def test_front_matter_of_markdown_is_left_out(tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.md", FRONT + "# Head\n\nText.")) == [(5, "# Head\n\nText.")]
    assert read(write(tmp_path, "b.md", "+++\na = 1\n+++\nText.")) == [(4, "Text.")]
    assert read(write(tmp_path, "c.md", "---\nA rule, and text.")) == [
        (1, "---\nA rule, and text.")
    ]
    assert read(write(tmp_path, "d.txt", FRONT + "Text.")) == [(1, FRONT + "Text.")]


@pytest.mark.parametrize("text", ["", " \n\t\n", FRONT])
def test_a_file_without_text_has_no_rows(text: str, tmp_path: Path) -> None:
    assert read(write(tmp_path, "a.md", text)) == []


def test_compressed_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"One."))
    assert read(path) == [(1, "One.")]


def test_texts_are_examples_of_plain_text_and_broken_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Voil\u00e0.\n".encode() * 9)
    (tmp_path / "b.txt").write_bytes("Voil\u00e0.\n".encode() * 9 + b"\xff\n")
    files = [describe_file(tmp_path / name, name=name) for name in ("a.txt", "b.txt")]
    source = Source(uri="file:///data")
    opened = open_source(source, files, index=0, label="", conversational=True)
    assert opened.conversion is not None
    convert = opened.conversion.build()
    first, second = (convert(name, row) for name, row in opened.rows if isinstance(row, RawRow))
    assert isinstance(first, Example)
    assert first.row == {"text": ("Voil\u00e0.\n" * 9).rstrip()}
    assert isinstance(second, RowError)
    assert (second.file, second.line) == ("b.txt", 1)


@pytest.mark.parametrize(
    ("text", "name"),
    [('{"prompt": "a"}\n\n{"prompt": "b"}\n', "a.jsonl"), ("ham\tHi\n" * 3, "a.tsv")],
)
def test_rows_under_the_name_of_a_text_are_not_learned_as_one(
    text: str, name: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"call it {name}") as caught:
        read(write(tmp_path, "a.txt", text))
    assert caught.value.reason == "UnreadableFile"
    assert read(write(tmp_path, "b.txt", f"Text.\n{text}"))
