"""Reads plain text or Markdown: one row for a short file, else rows of whole paragraphs.

A row has at most :data:`PIECE_CHARACTERS` characters. A longer paragraph is cut at line ends or
between words.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path, PurePath

from finetune_trainer.data.answers.values import read_json_value
from finetune_trainer.data.rows import RawRow
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.encodings import TextEncoding
from finetune_trainer.prepare.reading.files.opening import open_utf8

PIECE_CHARACTERS = 4000
"""About a thousand tokens of English."""

NUM_LOOKED_LINES = 20
"""Lines that must not all look like rows of another kind."""

MAX_FRONT_LINES = 500
"""Longest front matter; more lines after the mark are text."""

_FRONT_ENDS = {"---": ("---", "..."), "+++": ("+++",)}
"""Ends of front matter, by its beginning: YAML's and TOML's."""

Line = tuple[int, str]


def read_text_rows(
    path: Path, *, file: str, encoding: TextEncoding, is_markdown: bool
) -> Iterator[RawRow]:
    """Yield the rows of a file, each with its text in `text`; none for an empty file.

    ``is_markdown`` leaves out front matter.

    Raises:
        DataError: ``UnreadableFile``: it is a damaged archive, or a table or JSON Lines under the
            name of a text.
    """
    lines = _read_lines(path, file, encoding)
    if not is_markdown:
        head = list(islice(lines, NUM_LOOKED_LINES))
        _refuse_rows([text for _, text in head if text.strip()], file)
        lines = chain(head, lines)
    piece, start = "", 1
    for number, paragraph in _paragraphs(_skip_front(lines) if is_markdown else lines):
        joined = f"{piece}\n\n{paragraph}" if piece else paragraph
        if len(joined) <= PIECE_CHARACTERS:
            start = start if piece else number
            piece = joined
            continue
        if piece:
            yield RawRow(line=start, fields={"text": piece})
        *whole, piece = _cut(paragraph)
        start = number
        for text in whole:
            yield RawRow(line=start, fields={"text": text})
    if piece:
        yield RawRow(line=start, fields={"text": piece})


def _refuse_rows(lines: list[str], file: str) -> None:
    """Refuse rows of another kind, of which even the names and marks would be learned."""
    num_tabs = {text.count("\t") for text in lines}
    if lines and all(isinstance(read_json_value(text), dict) for text in lines):
        kind, ending = "JSON Lines", ".jsonl"
    elif len(lines) > 2 and len(num_tabs) == 1 and num_tabs != {0}:
        kind, ending = "a table with tabs", ".tsv"
    else:
        return
    other = re.sub(r"\.txt", ending, PurePath(file).name, flags=re.IGNORECASE)
    raise DataError("UnreadableFile", f"{file} seems to hold {kind} and no text; call it {other}")


def _read_lines(path: Path, file: str, encoding: TextEncoding) -> Iterator[Line]:
    """Yield the lines with their numbers, a very long one in parts.

    Undecodable bytes become surrogates, which are refused with their row.
    """
    number = 1
    with open_utf8(path, encoding.codec, file=file) as stream:
        texts = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape")
        while text := texts.readline(PIECE_CHARACTERS):
            yield number, text
            number += text.endswith("\n")


def _skip_front(lines: Iterable[Line]) -> Iterator[Line]:
    stream = iter(lines)
    first = next(stream, None)
    if first is None:
        return
    ends = _FRONT_ENDS.get(first[1].rstrip())
    if ends is None:
        yield from chain([first], stream)
        return
    front = list(islice(stream, MAX_FRONT_LINES))
    at = next((n for n, (_, text) in enumerate(front) if text.rstrip() in ends), None)
    yield from chain([first, *front] if at is None else front[at + 1 :], stream)


def _paragraphs(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield paragraphs with the number of their first line, and no more of one than is needed."""
    held: list[str] = []
    start, num_characters = 1, 0
    for number, text in lines:
        if text.strip() and not held:
            start = number
        if text.strip():
            held.append(text)
            num_characters += len(text)
        if held and (not text.strip() or num_characters > 16 * PIECE_CHARACTERS):
            yield start, "".join(held).rstrip()
            held, num_characters = [], 0
    if held:
        yield start, "".join(held).rstrip()


def _cut(text: str) -> list[str]:
    pieces = []
    while len(text) > PIECE_CHARACTERS:
        head = text[:PIECE_CHARACTERS]
        at = head.rfind("\n") + 1 or head.rfind(" ") + 1 or PIECE_CHARACTERS
        pieces.append(head[:at].rstrip())
        text = text[at:].lstrip()
    return [piece for piece in (*pieces, text) if piece]
