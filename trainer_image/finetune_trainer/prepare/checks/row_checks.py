"""Checks of the text of one row: broken encoding, control characters, answers that say nothing.

A model repeats its training answers, so U+FFFD, C1 controls and UTF-8 read as CP1252
(``BrokenEncoding``), other control characters (``ControlCharacter``) and no visible character
(``EmptyAnswer``) make a row invalid in an answer or in plain text. In a prompt they are only
reported. Placeholders (``n/a``, ``TODO``, dots), repeated prompts and another script than that of
most answers are reported; a job is refused if nearly all answers repeat the prompt.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.rows import Example, RowError, refuse_row
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.checks.screening import Judgement, RowStep, Tally

BROKEN = re.compile(
    # The sign for bytes that were no text; C1 controls, which CP1252 uses for quotes and dashes.
    "\ufffd|[\x80-\x84\x86-\x9f]"
    # UTF-8 read as CP1252 or Latin-1: accents, signs, quotes, the byte-order mark, Cyrillic. Not
    # before a closing guillemet: a word in capitals may end there.
    "|[\xc2\xc3][\xa1-\xba\xbc-\xbf]|\xc3[\u0178\u2030]|\xe2\u20ac|\xef\xbb\xbf|\xef\xbf\xbd"
    "|(?:[\xd0\xd1][\xa0-\xbf\u0152-\u2122]){3}"
)
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
"""C0 controls but tab, line breaks, vertical tab and form feed."""

PLACEHOLDERS = frozenset(
    {"n/a", "na", "null", "none", "nil", "nan", "undefined", "todo", "tbd", "tba", "xxx", "-", "--"}
)
_ONLY_DOTS = re.compile(r"[.\u2026?_\s]+")
LABELS_SHARE = 20
"""From this share of the rows on, in percent, a placeholder is taken for a label."""

ECHO_CHARACTERS = 30
"""From this length on a prompt at the start of an answer is a repetition."""
ECHOES_REFUSED_PERCENT = 95
ECHOES_REFUSED_ROWS = 20

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("Latin", "A-Za-z\u00aa-\u024f\u1e00-\u1eff"),
    ("Greek", "\u0370-\u03ff\u1f00-\u1fff"),
    ("Cyrillic", "\u0400-\u052f"),
    ("Hebrew", "\u0590-\u05ff"),
    ("Arabic", "\u0600-\u06ff\u0750-\u077f"),
    ("Devanagari", "\u0900-\u097f"),
    ("Thai", "\u0e00-\u0e7f"),
    ("Chinese or Japanese", "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"),
    ("Korean", "\u1100-\u11ff\uac00-\ud7af"),
)
_SCRIPT_PATTERNS = tuple((name, re.compile(f"[{range_}]")) for name, range_ in _SCRIPTS)
SCRIPT_CHARACTERS = 400
"""So much of an answer is looked at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenText:
    """Refuses answers of broken encoding, with control characters, or with nothing to see."""

    def judge(self, example: Example) -> Judgement:
        """Look at all texts of a row."""
        for text in learned_texts(example.row):
            if error := _refuse_text(example, text):
                return Judgement(verdict=error)
        counts = Counter(
            fault
            for text in asked_texts(example.row)
            for fault, pattern in (("brokenEncoding", BROKEN), ("controlCharacter", CONTROL))
            if not _is_plain(text) and pattern.search(text)
        )
        return Judgement(verdict=example, counts=dict.fromkeys(counts, 1))

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        """Report how many prompts have faults that are only refused in answers."""
        what = {
            "brokenEncoding": "text of broken encoding (U+FFFD, or UTF-8 read as CP1252)",
            "controlCharacter": "control characters",
        }
        return [
            Finding(
                name=f"{fault}InPrompts",
                num_flagged=tally.counts[fault],
                message=f"the prompts of {tally.counts[fault]} rows hold {words}",
            )
            for fault, words in what.items()
            if tally.counts[fault]
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class WeakAnswers:
    """Counts answers that are placeholders, repeat their prompt, or are in another script."""

    def judge(self, example: Example) -> Judgement:
        """Look at the answers of a row."""
        answers = list(learned_texts(example.row))
        counts = Counter(
            {f"script {script}": 1 for script in set(map(_script_of, answers)) if script}
        )
        if "text" not in example.row and answers:
            answer = answers[-1].strip()
            if answer.lower() in PLACEHOLDERS or _ONLY_DOTS.fullmatch(answer):
                counts["placeholder"] = 1
            elif _repeats(answer, _last_question(example.row)):
                counts["echo"] = 1
        return Judgement(verdict=example, counts=counts)

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        """Report the counts. Raise ``AnswersRepeatPrompts`` if nearly all answers do."""
        findings = [_check_echoes(tally), _check_placeholders(tally), _check_scripts(tally)]
        return [finding for finding in findings if finding is not None]


TEXT_CHECKS: tuple[RowStep, ...] = (BrokenText(), WeakAnswers())
"""In their order."""


def learned_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a canonical row that are learned, in their order."""
    if "text" in row:
        yield row["text"]
    for name in ("messages", "rejected", "completion"):
        value = row.get(name, ())
        if isinstance(value, str):
            yield value
            continue
        for message in value:
            if message["role"] == "assistant" and message.get("weight") != 0:
                yield from _texts_of(message)


def asked_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a canonical row that are not learned, in their order."""
    if isinstance(row.get("prompt"), str):
        yield row["prompt"]
        return
    for message in (*row.get("prompt", ()), *row.get("messages", ())):
        if message["role"] != "assistant" or message.get("weight") == 0:
            yield from _texts_of(message)


def _texts_of(message: Mapping[str, Any]) -> Iterator[str]:
    for key in ("reasoning_content", "content"):
        if message.get(key):
            yield message[key]


def _is_plain(text: str) -> bool:
    """Whether a text can have neither fault, as nearly all texts in English."""
    return text.isascii() and text.isprintable()


def _refuse_text(example: Example, text: str) -> RowError | None:
    if _is_plain(text) and text.strip():
        return None
    what = "the text" if "text" in example.row else "an answer"
    if found := BROKEN.search(text):
        return refuse_row(
            example,
            "BrokenEncoding",
            f"{what} is of broken encoding at its character {found.start() + 1} "
            f"({_name_characters(found[0])}): the file was read or written in another encoding "
            "than its own at some time before; write it anew from its source",
        )
    if found := CONTROL.search(text):
        return refuse_row(
            example,
            "ControlCharacter",
            f"{what} has the control character {_name_characters(found[0])} at its character "
            f"{found.start() + 1}; remove it, or the model learns to write it",
        )
    if not any(map(_is_visible, text)):
        return refuse_row(
            example, "EmptyAnswer", f"{what} has no visible character: there is nothing to learn"
        )
    return None


def _is_visible(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) not in ("Cf", "Cc", "Cn")


def _name_characters(found: str) -> str:
    return " ".join(f"U+{ord(character):04X}" for character in found[:2])


def _last_question(row: Mapping[str, Any]) -> str:
    questions = list(asked_texts(row))
    return questions[-1] if questions else ""


def _repeats(answer: str, question: str) -> bool:
    if not question or len(answer) < len(question.strip()):
        return False
    first, second = " ".join(answer.split()).lower(), " ".join(question.split()).lower()
    if first == second:
        return True
    return len(second) >= ECHO_CHARACTERS and first.startswith(second)


def _script_of(text: str) -> str:
    """Return the script of most letters of a text's beginning, or an empty string."""
    head = text[:SCRIPT_CHARACTERS]
    if head.isascii():
        return "Latin" if any(map(str.isalpha, head)) else ""
    counts = {name: len(pattern.findall(head)) for name, pattern in _SCRIPT_PATTERNS}
    # The first of equals, by the order of the scripts: the same in every process.
    name = max(counts, key=lambda name: counts[name])
    return name if counts[name] else ""


def _check_echoes(tally: Tally) -> Finding | None:
    number = tally.counts["echo"]
    if not number:
        return None
    words = f"{number} of {tally.num_rows} rows answer with their own prompt"
    if number >= ECHOES_REFUSED_ROWS and 100 * number >= ECHOES_REFUSED_PERCENT * tally.num_rows:
        raise DataError(
            "AnswersRepeatPrompts",
            f"{words}, so the model would learn to repeat what it is asked; check which columns "
            "dataset.sources name for prompt and completion",
        )
    return Finding(name="answersRepeatPrompts", num_flagged=number, message=words)


def _check_placeholders(tally: Tally) -> Finding | None:
    number = tally.counts["placeholder"]
    if not number or 100 * number >= LABELS_SHARE * tally.num_rows:
        return None
    return Finding(
        name="placeholderAnswers",
        num_flagged=number,
        message=(
            f"{number} of {tally.num_rows} rows have a placeholder for an answer (n/a, null, TODO, "
            "dots or the like); if these are no labels, leave them out"
        ),
    )


def _check_scripts(tally: Tally) -> Finding | None:
    scripts = {
        name.removeprefix("script "): number
        for name, number in tally.counts.items()
        if name.startswith("script ")
    }
    if len(scripts) < 2:
        return None
    # By number, then by name: not in the order in which they were met.
    ordered = sorted(scripts.items(), key=lambda item: (-item[1], item[0]))
    (most, num_most), *others = ordered
    shown = ", ".join(f"{number} {name}" for name, number in others)
    return Finding(
        name="mixedScripts",
        num_flagged=sum(number for _, number in others),
        message=f"answers are in several scripts: {num_most} rows {most}, {shown}",
    )
