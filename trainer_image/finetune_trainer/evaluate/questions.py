"""The held-out side as questions: one prompt with all its reference answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.asking import draw_questions, question_of
from finetune_trainer.data.rows import group_of, prompt_of

LARGE_GROUP = 0.05
"""Share of the questions above which the verdict names a group."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One prompt and what counts as an answer.

    Attributes:
        prompt: Message list or plain string; None for plain text, which is only scored by loss.
        tools: Tools that the prompt offers, in OpenAI's shape; None offers none.
        references: Accepted answers, in their order in the data.
        rows: The prepared rows behind it, for the loss.
        group: What keeps questions together: those of one group are not independent.
    """

    prompt: list[dict[str, Any]] | str | None
    tools: list[dict[str, Any]] | None = None
    references: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    group: str


def gather_questions(
    rows: Iterable[dict[str, Any]],
    *,
    max_questions: int,
    seed: int,
    read_answer: Callable[[dict[str, Any]], str] | None = None,
) -> list[Question]:
    """Group rows by prompt, so that several references of one prompt are one question.

    Args:
        rows: Prepared rows of the held-out side.
        max_questions: Keep at most this many, drawn by ``seed``.
        seed: Seed of the draw.
        read_answer: Returns the reference of a row; by default the text of its last answer.

    Returns:
        Questions in the order of their first row.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row.get("label") is False:
            continue  # an answer that nobody wants is no reference
        groups.setdefault(question_of(row), []).append(row)
    read = read_answer or read_reference
    several = list(groups.values())
    names = [group_of(together[0]) for together in several]
    drawn = draw_questions(names, most=max_questions, seed=seed)
    return [_make_question(several[index], read) for index in drawn]


def with_prompt(questions: Iterable[Question]) -> list[Question]:
    """Return the questions that are put to a model; plain text is only scored by its loss."""
    return [question for question in questions if question.prompt is not None]


def group_questions(questions: Sequence[Question]) -> list[NDArray[np.int64]]:
    """Return the indices of the questions of each group, in the order of the groups' first."""
    groups: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        groups.setdefault(question.group, []).append(index)
    return [np.array(indices) for indices in groups.values()]


def describe_groups(questions: Sequence[Question]) -> str:
    """Say how groups count where some have several questions; empty where none has."""
    sizes = [len(group) for group in group_questions(questions)]
    total = sum(sizes)
    if total == len(sizes):
        return ""
    words = (
        f"The {total:,} questions are of {len(sizes):,} groups, and each group counts once in "
        "scores between 0 and 1"
    )
    largest = max(sizes)
    if largest > LARGE_GROUP * total and largest > min(sizes):
        words += (
            f"; one group alone has {largest:,} of them, more than {LARGE_GROUP * 100:.0f} %: hold "
            "out rows of more groups if the score is to stand for others"
        )
    return words


def messages_of(prompt: list[dict[str, Any]] | str | None) -> list[tuple[str, str]]:
    """Return role and text of each message of a prompt; plain text is the user's."""
    if not isinstance(prompt, list):
        return [("user", prompt or "")]
    return [(str(turn["role"]), str(turn.get("content") or "")) for turn in prompt]


def text_of_prompt(prompt: list[dict[str, Any]] | str | None) -> str:
    """Return the texts of all messages of a prompt."""
    return "\n".join(text for _, text in messages_of(prompt))


def name_group(question: Question) -> str:
    """Return a short name of what keeps a question together with others; it quotes no row."""
    return hashlib.sha256(question.group.encode()).hexdigest()[:16]


def _make_question(
    rows: list[dict[str, Any]], read_answer: Callable[[dict[str, Any]], str]
) -> Question:
    first = rows[0]
    group = group_of(first)
    if "text" in first:
        return Question(prompt=None, references=(), rows=tuple(rows), group=group)
    references = dict.fromkeys(map(read_answer, rows))
    return Question(
        prompt=prompt_of(first),
        tools=first.get("tools"),
        references=tuple(references),
        rows=tuple(rows),
        group=group,
    )


def read_reference(row: dict[str, Any]) -> str:
    """Return the text of a prepared row's last answer."""
    answer = row["messages"][-1:] if "messages" in row else row["completion"]
    return str(answer if isinstance(answer, str) else answer[-1]["content"])
