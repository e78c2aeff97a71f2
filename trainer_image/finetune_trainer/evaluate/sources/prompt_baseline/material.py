"""What the train side gives a prompt: its labels, and rows to show as examples. Pure.

Nothing of the held-out side goes into the prompt, not even which labels it has.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from finetune_trainer.data.answers.label_text import MAX_LABELS, is_short_label, normalize_label
from finetune_trainer.data.rows import prompt_of
from finetune_trainer.evaluate.questions import text_of_prompt

MAX_ANSWERS = 1000
"""That are drawn by chance, to know which are usual."""
MAX_EXAMPLES = 8
MAX_LABEL_EXAMPLES = 16
"""Where answers are labels there is one example of each, up to so many."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One row of the train side as it is shown.

    Attributes:
        turns: Its messages without a system message; None for plain text.
        text: Prompt and answer, where these are plain text.
    """

    turns: tuple[dict[str, str], ...] | None = None
    text: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What a prompt can be made of.

    Attributes:
        labels: Labels as they are written most often, the most frequent first; empty where answers
            are no labels. A prompt names these, and a likelihood is computed of each.
        num_labels: How many there are on the train side, also beyond :data:`MAX_LABELS`.
        examples: Rows to show, the first one first.
        answers: Prompts and answers of rows drawn by chance.
    """

    labels: tuple[str, ...] = ()
    num_labels: int = 0
    examples: tuple[Example, ...] = ()
    answers: tuple[tuple[str, str], ...] = ()


def gather_material(
    rows: Iterable[Mapping[str, Any]],
    *,
    are_labels: bool,
    seed: int,
    read_answer: Callable[[dict[str, Any]], str],
) -> Material:
    """Read the train side once and keep what a prompt needs.

    Args:
        rows: Prepared rows of the train side, in any number.
        are_labels: The held-out answers are labels, so those of the train side are.
        seed: Chooses the examples.
        read_answer: Returns the reference of a row, as the evaluation compares it.
    """
    labels, answers = _Labels(), list[tuple[str, str]]()
    chance = random.Random(seed)  # noqa: S311
    num_answers = 0
    drawn = _Draw(random.Random(seed), are_labels=are_labels)  # noqa: S311
    for row in rows:
        if row.get("label") is False or "text" in row:
            continue  # an answer that nobody wants, or no question
        answer = read_answer(dict(row))
        num_answers += 1
        pair = (text_of_prompt(prompt_of(dict(row))), answer)
        keep_drawn(answers, pair, num_answers, MAX_ANSWERS, chance)
        if are_labels:
            if not answer.strip() or not is_short_label(answer):
                continue
            labels.add(answer)
        example = example_of(row)
        if example is not None:
            drawn.offer(normalize_label(answer) if are_labels else "", example)
    return Material(
        labels=labels.most_frequent(MAX_LABELS),
        num_labels=len(labels.counts),
        examples=drawn.take(),
        answers=tuple(answers),
    )


def keep_drawn(kept: list[Item], item: Item, number: int, most: int, chance: random.Random) -> None:
    """Keep an item of a stream, or not: each has the same chance (reservoir sampling).

    Args:
        kept: What is kept so far.
        item: The item.
        number: Which one it is, counted from 1.
        most: How many are kept.
        chance: What draws.

    Source: Vitter 1985, "Random Sampling with a Reservoir", algorithm R.
    """
    if len(kept) < most:
        kept.append(item)
        return
    place = chance.randrange(number)
    if place < most:
        kept[place] = item


def example_of(row: Mapping[str, Any]) -> Example | None:
    """Return a row as an example; None where it cannot stand before another question.

    Tools belong to one conversation, and turns that do not alternate between user and assistant
    are refused by many chat templates.
    """
    if isinstance(row.get("prompt"), str):
        return Example(text=(str(row["prompt"]), str(row["completion"])))
    messages = row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]]
    turns = [message for message in messages if message["role"] not in ("system", "developer")]
    if row.get("tools") or len(turns) < 2 or len(turns) % 2:
        return None
    for place, turn in enumerate(turns):
        is_right = turn["role"] == ("assistant" if place % 2 else "user")
        if not is_right or not isinstance(turn.get("content"), str) or turn.get("tool_calls"):
            return None
    return Example(
        turns=tuple({"role": str(t["role"]), "content": str(t["content"])} for t in turns)
    )


@dataclass(kw_only=True, slots=True)
class _Labels:
    """Counts labels and how each is written."""

    counts: Counter[str] = field(default_factory=Counter)
    spellings: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, answer: str) -> None:
        label = normalize_label(answer)
        self.counts[label] += 1
        self.spellings.setdefault(label, Counter())[answer.strip()] += 1

    def most_frequent(self, limit: int) -> tuple[str, ...]:
        ordered = sorted(self.counts, key=lambda label: (-self.counts[label], label))
        return tuple(
            min(self.spellings[label], key=lambda text: (-self.spellings[label][text], text))
            for label in ordered[:limit]
        )


@dataclass(slots=True)
class _Draw:
    """Keeps rows of each label drawn by chance out of a stream."""

    chance: random.Random
    are_labels: bool = field(kw_only=True)
    _kept: dict[str, list[Example]] = field(default_factory=dict)
    _seen: Counter[str] = field(default_factory=Counter)

    def offer(self, label: str, example: Example) -> None:
        """Keep an example, or not."""
        kept = self._kept.setdefault(label, [])
        self._seen[label] += 1
        keep_drawn(kept, example, self._seen[label], MAX_EXAMPLES, self.chance)

    def take(self) -> tuple[Example, ...]:
        """Return the examples to show: of labels one of each in turn, in an order by chance."""
        limit = MAX_EXAMPLES
        if self.are_labels:
            limit = max(limit, min(MAX_LABEL_EXAMPLES, len(self._kept)))
        labels = sorted(self._kept)
        self.chance.shuffle(labels)
        for label in labels:
            self.chance.shuffle(self._kept[label])
        rounds = (
            self._kept[label][number]
            for number in range(MAX_EXAMPLES)
            for label in labels
            if number < len(self._kept[label])
        )
        return tuple(example for example, _ in zip(rounds, range(limit), strict=False))
