"""Judges in the terminal: one question at a time, one key for each criterion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_trainer.evaluate.sources.review.blinding import Blind, Item
    from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, Verdict

KEYS = {"1": "left", "a": "left", "2": "same", "s": "same", "3": "right", "b": "right"}
HELP = "1 A is better · 2 no difference · 3 B is better · c comment · u back · q save and leave"

ReadKey = Callable[[], str]
"""Returns one key in small letters; empty at the end of the input."""
Write = Callable[[str], None]


def read_key_of_terminal() -> str:
    """Return a key as it is pressed; where input is no terminal, the first letter of a line."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip()[:1].lower() or ("" if not line else " ")
    import typer

    try:
        return typer.getchar().lower()
    except (EOFError, KeyboardInterrupt):
        return ""


def read_comment() -> str:
    """Return a line of text."""
    return sys.stdin.readline().strip()


def judge_in_terminal(
    blind: Blind,
    verdicts: ReviewFile,
    file: Path,
    *,
    read_key: ReadKey = read_key_of_terminal,
    read_line: Callable[[], str] = read_comment,
    write: Write = print,
) -> ReviewFile:
    """Ask for all missing verdicts; the file is complete after each question.

    Returns:
        The verdicts as they are in the file.
    """
    names = [item.id for item in blind.items]
    write(HELP)
    place = _first_open(blind, verdicts)
    while place < len(names):
        item = blind.items[place]
        _show(item, place, len(names), write)
        verdict = _judge(blind, item, verdicts, read_key, read_line, write)
        if verdict == "back":
            place = max(0, place - 1)
            continue
        if verdict is None or isinstance(verdict, str):
            break
        verdicts = replace(verdicts, items={**verdicts.items, item.id: verdict})
        save(verdicts, file)
        place += 1
    save(verdicts, file)
    return verdicts


def save(verdicts: ReviewFile, file: Path) -> None:
    """Write the file whole or not at all."""
    part = file.with_name(f".{file.name}.part")
    part.write_text(verdicts.to_json(), encoding="utf-8")
    os.replace(part, file)


def _first_open(blind: Blind, verdicts: ReviewFile) -> int:
    for place, item in enumerate(blind.items):
        if verdicts.count_missing([item.id], blind.rubric):
            return place
    return len(blind.items)


def _judge(
    blind: Blind,
    item: Item,
    verdicts: ReviewFile,
    read_key: ReadKey,
    read_line: Callable[[], str],
    write: Write,
) -> Verdict | str | None:
    """Return the verdict on an item, ``back``, or None to leave."""
    from finetune_trainer.evaluate.sources.review.verdicts import MAX_COMMENT_CHARACTERS, Verdict

    comment = verdicts.items[item.id].comment if item.id in verdicts.items else ""
    choices: dict[str, str] = {}
    for criterion in blind.rubric:
        write(f"{criterion}? [1 2 3 c u q]")
        while (key := read_key()) not in KEYS:
            if key in ("", "q", "\x03", "\x04"):
                return None
            if key == "u":
                return "back"
            if key == "c":
                write("comment, to the end of the line:")
                comment = read_line()[:MAX_COMMENT_CHARACTERS]
            elif key.strip():
                write(HELP)
        choices[criterion] = KEYS[key]
        write(f"  {criterion}: {({'left': 'A', 'same': 'no difference', 'right': 'B'})[KEYS[key]]}")
    return Verdict(choices=choices, comment=comment)


def _show(item: Item, place: int, number: int, write: Write) -> None:
    write(f"\n--- question {place + 1} of {number} " + "-" * 40)
    for role, text in item.turns:
        write(f"[{role}] {_printable(text)}")
    for name, answer in (("A", item.left), ("B", item.right)):
        write(f"\n--- answer {name}\n{_printable(answer) or '(nothing)'}")
    write("")


def _printable(text: str) -> str:
    """Return text whose control characters are written out: an answer cannot move the cursor."""
    return "".join(
        character if character.isprintable() or character in "\n\t" else f"\\x{ord(character):02x}"
        for character in text
    )
