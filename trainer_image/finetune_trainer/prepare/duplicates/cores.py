"""Prompts without markup and without frames that many prompts of one side share.

A test file may wrap the train file's questions in HTML or an instruction. Cores are compared once
more. A frame is removed if one of two prompts has one, or if most prompts of the side share it. Two
frames may be two tasks on a text: then near answers decide about a leak.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune_trainer.data.normal import normalise_text
from finetune_trainer.prepare.rows.prompt_file import PromptFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOT_FRAMED, MOST, SOME = range(3)
"""A prompt has no frame, one that most prompts of a side have, or one that some have."""

_SHARES = ((MOST, 0.5, 1, 512), (SOME, 0.1, 8, 64))
"""Share of a side that has a frame, its least texts, and its least and most words. A longer shared
beginning is a text that the questions are about."""
_MOST_WORDS = max(longest for *_, longest in _SHARES)
_LEAST_TEXTS = 10
_LEAST_CORE_WORDS = 3
_SAMPLED = 20_000
_TAGS = (
    "a|abbr|article|aside|b|blockquote|body|br|center|code|dd|div|dl|dt|em|figure|font|footer|form|"
    "h[1-6]|head|header|hr|html|i|img|label|li|main|mark|meta|nav|ol|p|pre|q|s|section|small|span|"
    "strong|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|tt|u|ul"
)
# Every gap is bounded: a text of only openings would cost the square of its length.
_HTML = re.compile(rf"<!--.{{0,2000}}?-->|<!doctype[^>]{{0,200}}>|</?(?:{_TAGS})(?:\s[^<>]*)?/?>")
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-f]{1,6});")
_MARKDOWN = re.compile(r"```[a-z]*(?=\s)|```|(?<!\S)#{1,6}(?=\s)|^>(?=\s)")
_STRESS = re.compile(r"(?<![A-Za-z0-9_)\]])(\*{2,3}|__)(?=\S)(.{1,300}?)(?<=\S)\1(?![A-Za-z0-9_])")
"""No powers, as `2**3**4`. Scripts without blanks have emphasis within a word."""
_MOST_STRESSES = 3
"""Nested emphasis marks."""


Words = tuple[str, ...]
Beginnings = dict[int, dict[Words, int]]
"""Beginnings of texts, with the kind of frame they are, by their length: the longest first."""


class Core(NamedTuple):
    """A text without its frame.

    ``kind`` is the kind of the removed frame. ``frame`` is its shortest beginning and end: longer
    ones are the same frame.
    """

    text: str
    kind: int
    frame: tuple[Words, Words]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """The cores of all prompts; other processes can receive it.

    Attributes:
        texts: Their texts, numbered as the prompts are.
        marks: File of an array in ``.npy``, shape ``(n, 3)``, int64: kind of frame, whether the
            text differs from the prompt, number of the frame.
    """

    texts: PromptFile
    marks: Path

    def open(self) -> Callable[[int, int], bool]:
        """Return a function that says whether two prompts may be compared by their cores."""
        import numpy as np

        kinds, is_other, _ = np.load(self.marks).T.tolist()

        def may_compare(a: int, b: int) -> bool:
            if not (is_other[a] or is_other[b]):
                return False
            return NOT_FRAMED in (kinds[a], kinds[b]) or kinds[a] == kinds[b] == MOST

        return may_compare

    def have_two_frames(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return the pairs with two different frames of most of their side."""
        import numpy as np

        kinds, _, frames = np.moveaxis(np.load(self.marks)[pairs], -1, 0)
        return np.asarray((kinds == MOST).all(axis=1) & (frames[:, 0] != frames[:, 1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Beginnings and ends of the prompts of one side; ends are in reverse order."""

    beginnings: Beginnings
    ends: Beginnings

    def cut(self, text: str) -> Core:
        """Take its frame from a text."""
        words = text.split(" ")
        room = len(words) - _LEAST_CORE_WORDS
        first, start = _longest(words, self.beginnings, room)
        backwards = words[: -_MOST_WORDS - 1 : -1]
        last, end = _longest(backwards, self.ends, room - start)
        core = words[start : len(words) - end]
        return Core(
            text=normalise_text(" ".join(core)),
            kind=max(first, last),
            frame=(_root(words[:start], self.beginnings), _root(backwards[:end], self.ends)),
        )


def strip_markup(text: str) -> str:
    """Return a normalised text without HTML tags, entities and marks of Markdown."""
    if "<" in text:
        text = _HTML.sub(" ", text)
    if "&" in text:
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    if "`" in text or "#" in text or ">" in text:
        text = _MARKDOWN.sub(" ", text)
    for _ in range(_MOST_STRESSES if "**" in text or "__" in text else 0):
        text = _STRESS.sub(r"\2", text)
    return normalise_text(text)


def find_frames(sides: Iterable[Sequence[str]]) -> Frames:
    """Find the beginnings and ends that many prompts of one side share."""
    beginnings: dict[Words, int] = {}
    ends: dict[Words, int] = {}
    for texts in sides:
        words = [text.split(" ") for text in texts]
        beginnings |= _kinds_of_shared(words)
        ends |= _kinds_of_shared([each[::-1] for each in words])
    return Frames(beginnings=_by_length(beginnings), ends=_by_length(ends))


def write_cores(
    num_prompts: int, prompts: PromptFile, sides: Sequence[NDArray[np.int64]], folder: Path
) -> Cores | None:
    """Write the cores of all prompts; None where each prompt is its own core.

    Args:
        num_prompts: Number of prompts.
        prompts: Their normalised texts.
        sides: Numbers of the prompts of each side, in an order that their content decides.
        folder: Where to.
    """
    import numpy as np

    read = prompts.open()

    def bare(index: int) -> str:
        return strip_markup(read(index).decode())

    frames = find_frames([bare(index) for index in side[:_SAMPLED].tolist()] for side in sides)
    numbers: dict[tuple[Words, Words], int] = {}
    marks = np.zeros((num_prompts, 3), dtype=np.int64)
    spans = np.zeros((num_prompts, 2), dtype=np.int64)
    cores = Cores(
        texts=PromptFile(path=folder / "cores.txt", spans=folder / "cores.npy"),
        marks=folder / "cores-marks.npy",
    )
    with cores.texts.path.open("wb") as stream:
        for index in range(num_prompts):
            text, kind, frame = frames.cut(bare(index))
            core = text.encode()
            marks[index] = kind, core != read(index), numbers.setdefault(frame, len(numbers))
            spans[index] = stream.tell(), stream.tell() + len(core)
            stream.write(core)
    np.save(cores.texts.spans, spans)
    np.save(cores.marks, marks)
    return cores if marks[:, 1].any() else None


def _kinds_of_shared(words: Sequence[Sequence[str]]) -> dict[Words, int]:
    """Return the beginnings that many texts share, with their kind."""
    kinds: dict[Words, int] = {}
    for kind, share, least, longest in _SHARES:
        needed = max(_LEAST_TEXTS, int(share * len(words)))
        for frame in _shared(words, needed, least, longest):
            goes_on = any(kinds.get(frame[:number]) == MOST for number in range(1, len(frame)))
            kinds.setdefault(frame, MOST if goes_on else kind)
    return kinds


def _by_length(kinds: dict[Words, int]) -> Beginnings:
    found: Beginnings = {}
    for frame in sorted(kinds, key=len, reverse=True):
        found.setdefault(len(frame), {})[frame] = kinds[frame]
    return found


def _shared(words: Sequence[Sequence[str]], needed: int, least: int, most: int) -> set[Words]:
    """Return the longest beginnings that enough texts share."""
    if len(words) < needed:
        return set()
    ordered = sorted(map(tuple, words))
    found = set()
    # Sorted texts with one beginning are adjacent.
    for first, last in zip(ordered, ordered[needed - 1 :], strict=False):
        number = 0
        for ours, theirs in zip(first[: most + 1], last, strict=False):
            if ours != theirs:
                break
            number += 1
        if least <= number <= most:
            found.add(tuple(first[:number]))
    return found


def _longest(words: Sequence[str], beginnings: Beginnings, room: int) -> tuple[int, int]:
    """Return kind and length of the longest frame that words begin with and that has room."""
    for number, frames in beginnings.items():
        kind = frames.get(tuple(words[:number])) if number <= room else None
        if kind is not None:
            return kind, number
    return NOT_FRAMED, 0


def _root(words: Sequence[str], beginnings: Beginnings) -> Words:
    for number, frames in reversed(beginnings.items()):
        if (root := tuple(words[:number])) in frames:
            return root
    return ()
