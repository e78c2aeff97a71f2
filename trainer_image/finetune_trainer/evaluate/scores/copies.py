"""Answers made of the prompt's own words: parts of it, and templates that they fill. Pure.

The frame of a side are the words that stand once in nearly all of its prompts, as ``Name`` in
"Name: Ada". A part of a prompt are the words behind one word of the frame. A template is an answer
whose words from such parts are slots; other prompts fill them with the words of the same places.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os.path import commonprefix
from statistics import median

from finetune_trainer.evaluate.questions import Question, messages_of

PROMPT, PUT_IN = "the prompt itself", ", with words of the prompt put in"
SLOT = "\ue000"
"""Begins a slot; a character for private use, which no text has."""

FRAME, USUAL = 0.9, 0.2
"""Share of the prompts that have a word of the frame, and share of the answers above which a word
belongs to the template, also where a prompt has it."""

_WORD = re.compile(r"\w+")
_SLOT = re.compile(SLOT + "(\\w*) (\\d+)( ?)\ue001")
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|[\u3002\uff01\uff1f]|$)", re.MULTILINE)
_FIRST = {"first": 0, "second": 1, "third": 2, "last but one": -2, "last": -1}

Parts = Mapping[str, Sequence[str]]


def list_copies(asked: Sequence[Question]) -> Iterator[tuple[str, Callable[[int], str]]]:
    """Yield what can be copied of prompts: in words, and the copy for a question by its number.

    What all texts begin with, as an instruction does, is left out of parts of them.
    """
    messages = [[text for _, text in messages_of(each.prompt)] for each in asked]
    length = int(median([len(text) for each in asked for text in each.references] or [0]))
    cuts = {
        "the first words": (re.compile(rf"(?s).{{0,{length}}}\w*"), slice(1)),
        "the first number": (re.compile(r"\d[\d.,]*"), slice(1)),
        "the first three sentences": (_SENTENCE, slice(3)),
    }
    for name, place in _FIRST.items():
        cuts[f"the {name} sentence"] = _SENTENCE, slice(place, place + 1 or None)
    sources = {tuple(map("\n".join, messages)): "all messages of the prompt"}
    for name, place in reversed(_FIRST.items()):
        texts = tuple("".join(each[place : place + 1 or None]) for each in messages)
        sources[texts] = f"the {name} message"
    sources[last_messages(asked)] = PROMPT
    for texts, what in reversed(sources.items()):
        yield what, texts.__getitem__
        begin = len(re.sub(r"\w+$", "", commonprefix(texts)))  # noqa: RUF071 - characters it is
        for name, (pattern, part) in cuts.items():
            yield f"{name} of {what}", partial(_cut, pattern, part, texts, begin)


def _cut(regex: re.Pattern[str], part: slice, texts: Sequence[str], begin: int, at: int) -> str:
    return " ".join(regex.findall(texts[at], begin)[part])


def last_messages(asked: Sequence[Question]) -> tuple[str, ...]:
    """Return the last user message of each question, as if it were the answer."""
    turns = (messages_of(each.prompt)[::-1] for each in asked)
    return tuple(next((text for role, text in each if role == "user"), "") for each in turns)


def find_frame(prompts: Sequence[str]) -> frozenset[str]:
    """Return the frame of a side."""
    having = Counter(w for p in prompts for w, n in Counter(_WORD.findall(p)).items() if n == 1)
    return frozenset(word for word, count in having.items() if count >= FRAME * len(prompts))


def divide(prompt: str, frame: frozenset[str]) -> Parts:
    """Return the words behind each word of the frame, and those before the first one."""
    parts: dict[str, list[str]] = {"": (here := [])}
    for word in _WORD.findall(prompt):
        if word in frame and word not in parts:
            here = parts[word] = []
        else:
            here.append(word)
    return parts


def make_templates(pairs: Sequence[tuple[str, str]], frame: frozenset[str]) -> list[str]:
    """Return answers with slots for the words that they have of their prompts.

    Args:
        pairs: Prompts and their answers.
        frame: The words that divide a prompt.
    """
    counts = Counter(word for _, answer in pairs for word in set(_WORD.findall(answer)))
    usual = {word for word, count in counts.items() if count > max(1, USUAL * len(pairs))}
    return [_with_slots(divide(prompt, frame), answer, usual) for prompt, answer in pairs]


def _with_slots(parts: Parts, answer: str, usual: set[str]) -> str:
    places: dict[str, list[tuple[str, int]]] = {}
    for word, at in ((w, (head, i)) for head, part in parts.items() for i, w in enumerate(part)):
        places.setdefault(word, []).append(at)
    wanted = ("", -1)  # where the prompt goes on behind the word before

    def put(found: re.Match[str]) -> str:
        nonlocal wanted
        known = places.get(found[0], [])
        if wanted not in known:
            wanted = known[0] if known and found[0] not in usual else ("", -1)
        head, offset = wanted
        wanted = head, offset + (offset >= 0)
        is_last = " " if wanted[1] == len(parts[head]) else ""
        return found[0] if offset < 0 else f"{SLOT}{head} {offset}{is_last}\ue001"

    return _WORD.sub(put, answer)


def fill(template: str, parts: Sequence[Parts], place: int) -> str:
    """Return a template filled with the words of a prompt; the last word of a part takes the rest.

    Args:
        template: Text with slots.
        parts: All prompts, divided by the same frame.
        place: The number of the prompt.
    """

    def words(slot: re.Match[str]) -> str:
        offset = int(slot[2])
        return " ".join(parts[place].get(slot[1], ())[offset : None if slot[3] else offset + 1])

    return _SLOT.sub(words, template)
