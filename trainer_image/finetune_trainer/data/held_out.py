"""The held-out side as far as the number of questions depends on it; no text is kept."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.evaluation.gates import Gate, GateSlice
from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.data.answers.label_text import is_short_label, normalize_label
from finetune_trainer.data.asking import order_questions, question_of
from finetune_trainer.data.rows import Side, answer_of, group_of, is_in_slice


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """One held-out question.

    Attributes:
        group: Group of dependent questions.
        gates: Names of the gates whose slice it belongs to.
        label: Digest of its first answer, where that may be a label.
        has_prompt: Whether models answer it; plain text is scored by its loss alone.
    """

    group: str
    gates: frozenset[str] = frozenset()
    label: bytes | None = None
    has_prompt: bool = True


IsSeen = Callable[[HeldOut], bool]
"""Whether a claim looks at a question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutSplit:
    """The held-out side of a prepared data set, read once.

    Attributes:
        questions: The questions, in the order of their first row.
        order: Their places in the order in which they are drawn.
        sources: The files of the rows, in the order of their first row.
        num_rows: All rows.
        num_unwanted: Rows with an unwanted answer, which is no reference.
    """

    questions: Sequence[HeldOut]
    order: Sequence[int]
    sources: Sequence[str] = ()
    num_rows: int = 0
    num_unwanted: int = 0

    def drawn(self, most: int) -> list[HeldOut]:
        """Return the asked questions, at most so many, in order of their draw."""
        return [self.questions[place] for place in self.order[:most]]

    def number(self, most: int, is_seen: IsSeen) -> int:
        """Return the number of asked questions that a claim looks at."""
        return sum(map(is_seen, self.drawn(most)))

    def groups(self, most: int, is_seen: IsSeen) -> Counter[str]:
        """Count the questions of each group that are asked and looked at."""
        return Counter(question.group for question in self.drawn(most) if is_seen(question))

    def number_with(self, num_groups: int, is_seen: IsSeen) -> int | None:
        """Return the questions needed for so many groups; None if there are too few."""
        groups: set[str] = set()
        for number, place in enumerate(self.order, start=1):
            question = self.questions[place]
            if is_seen(question):
                groups.add(question.group)
            if len(groups) >= num_groups:
                return number
        return None


def has_prompt(question: HeldOut) -> bool:
    """Return whether models answer a question; all metrics but likelihoods look at these."""
    return question.has_prompt


def counts_for(goal: Goal | None) -> IsSeen:
    """Return which held-out questions count for ``evaluation.minPrompts``.

    The goal's metric must score them, and it does not score plain text; without a goal all count.
    """
    takes_all = goal is None or goal.metric in LIKELIHOOD_METRICS

    def counts(question: HeldOut) -> bool:
        return takes_all or question.has_prompt

    return counts


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the held-out rows of a prepared data set."""
    with (folder / f"{Side.TEST}.jsonl").open(encoding="utf-8") as rows:
        yield from map(json.loads, rows)


def read_held_out(folder: Path, gates: Sequence[Gate], *, seed: int) -> HeldOutSplit:
    """Return the held-out side of a prepared data set; ``seed`` is ``dataset.split.seed``."""
    return gather_held_out(read_rows(folder), gates, seed=seed)


def gather_held_out(
    rows: Iterable[dict[str, Any]], gates: Sequence[Gate] = (), *, seed: int
) -> HeldOutSplit:
    """Return the held-out side of rows; see :func:`read_held_out`."""
    found: dict[bytes, _Question] = {}
    sources: dict[str, None] = {}
    num_rows = num_unwanted = 0
    for row in rows:
        num_rows += 1
        sources[source_of(row)] = None
        if row.get("label") is False:
            num_unwanted += 1
            continue  # an answer that nobody wants is no reference
        question = found.setdefault(digest_of(row), _Question(row))
        question.add(row, gates)
    return HeldOutSplit(
        questions=[
            HeldOut(
                group=question.group,
                gates=frozenset(question.gates),
                label=question.label,
                has_prompt=question.has_prompt,
            )
            for question in found.values()
        ],
        order=order_questions([question.group for question in found.values()], seed=seed),
        sources=list(sources),
        num_rows=num_rows,
        num_unwanted=num_unwanted,
    )


def digest_of(row: Mapping[str, Any]) -> bytes:
    """Return the digest of a question: equal for its rows."""
    return hashlib.blake2b(question_of(dict(row)).encode(), digest_size=16).digest()


def is_row_inside(row: Mapping[str, Any], part: GateSlice) -> bool:
    """Return whether a row belongs to a slice."""
    if part.column is not None and part.value is not None:
        return is_in_slice(row, part.column, part.value)
    if part.label is None:
        return source_of(row) == part.source
    answer = answer_of(row)
    return answer is not None and normalize_label(answer) == normalize_label(part.label)


def source_of(row: Mapping[str, Any]) -> str:
    """Return the file that a row came from."""
    return str(row.get("metadata", {}).get("source", ""))


@dataclass(kw_only=False, slots=True)
class _Question:
    """A question whose rows are being read."""

    group: str
    label: bytes | None
    has_prompt: bool
    gates: set[str] = field(default_factory=set)

    def __init__(self, row: Mapping[str, Any]) -> None:
        answer = answer_of(row)
        self.group = group_of(dict(row))
        self.has_prompt = "text" not in row
        self.label = None
        self.gates = set()
        if answer is not None and is_short_label(answer):
            self.label = hashlib.blake2b(normalize_label(answer).encode(), digest_size=8).digest()

    def add(self, row: Mapping[str, Any], gates: Sequence[Gate]) -> None:
        self.gates.update(
            gate.name for gate in gates if gate.slice is None or is_row_inside(row, gate.slice)
        )
