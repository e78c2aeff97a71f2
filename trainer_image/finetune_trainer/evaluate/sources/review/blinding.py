"""What a reviewer sees, and the key that says which model it is from. Pure.

Neither page nor file of the reviewers holds anything that came from knowing the models: the side of
an answer, the name of an item and the order of all are made from a secret of 32 random bytes, which
is not kept. The key lists what came of it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_trainer.evaluate.sources.review.sampling import DrawnAs

Model = Literal["base", "tuned"]
SECRET_BYTES = 32
ID_DIGITS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One question with both answers, as the evaluation has them.

    Attributes:
        prompt: What was asked: messages, or text.
        base: The base model's answer.
        tuned: The tuned model's.
        drawn_as: Why it is shown.
        cluster: Number of the group of questions that are not independent of each other.
        tools: Tools that the prompt offers.
    """

    prompt: list[dict[str, Any]] | str
    base: str
    tuned: str
    drawn_as: DrawnAs
    cluster: int = 0
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question as a reviewer sees it.

    Attributes:
        id: Random name.
        turns: Role and text of what was asked.
        left: One answer.
        right: The other.
    """

    id: str
    turns: tuple[tuple[str, str], ...]
    left: str
    right: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Blind:
    """A review as its reviewers get it.

    Attributes:
        title: Name of the job.
        rubric: What is judged of each pair.
        items: What is shown, in the order in which it is shown.
    """

    title: str
    rubric: tuple[str, ...]
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """Names the review: verdicts on another one do not count."""
        return hashlib.sha256(_canonical(self._body()).encode()).hexdigest()

    def to_wire(self) -> dict[str, Any]:
        """Return the content of ``items.json``."""
        return {"kind": "ReviewItems", "review": self.digest, **self._body()}

    def _body(self) -> dict[str, Any]:
        items = [
            {
                "id": item.id,
                "turns": [{"role": role, "text": text} for role, text in item.turns],
                "left": item.left,
                "right": item.right,
            }
            for item in self.items
        ]
        return {"title": self.title, "rubric": list(self.rubric), "items": items}


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyEntry:
    """Which model is on which side of an item.

    Attributes:
        left: The model whose answer is on the left.
        compared: The question behind it.
    """

    left: Model
    compared: Compared

    def model_of(self, choice: str) -> str:
        """Return ``tuned``, ``base`` or ``same`` for what a reviewer chose."""
        if choice not in ("left", "right"):
            return "same"
        other: Model = "base" if self.left == "tuned" else "tuned"
        return self.left if choice == "left" else other


def blind(
    questions: Sequence[Compared], *, title: str, rubric: Sequence[str], secret: bytes
) -> tuple[Blind, dict[str, KeyEntry]]:
    """Hide which answer is whose.

    Args:
        questions: What is shown.
        title: Name of the job.
        rubric: What is judged.
        secret: :data:`SECRET_BYTES` random bytes, used once and thrown away.

    Returns:
        What reviewers get, and the key by item.
    """
    items: dict[str, Item] = {}
    key: dict[str, KeyEntry] = {}
    for number, question in enumerate(questions):
        drawn = hmac.digest(secret, str(number).encode(), "sha256")
        name = drawn.hex()[:ID_DIGITS]
        is_tuned_left = bool(drawn[-1] & 1)  # the name shows the first bytes only
        answers = question.base.strip(), question.tuned.strip()
        left, right = reversed(answers) if is_tuned_left else answers
        items[name] = Item(
            id=name, turns=_turns_of(question.prompt, question.tools), left=left, right=right
        )
        key[name] = KeyEntry(left="tuned" if is_tuned_left else "base", compared=question)
    # Names are random, so their order is one.
    order = sorted(items)
    hidden = Blind(title=title, rubric=tuple(rubric), items=tuple(items[name] for name in order))
    return hidden, {name: key[name] for name in order}


def _turns_of(
    prompt: list[dict[str, Any]] | str, tools: list[dict[str, Any]] | None
) -> tuple[tuple[str, str], ...]:
    if isinstance(prompt, str):
        return (("prompt", prompt),)
    turns = [(str(turn.get("role", "")), _text_of(turn)) for turn in prompt]
    if tools:
        turns.insert(0, ("tools", json.dumps(tools, ensure_ascii=False, indent=1)))
    return tuple(turns)


def _text_of(turn: dict[str, Any]) -> str:
    content = turn.get("content")
    parts = [content if isinstance(content, str) else _pretty(content)] if content else []
    if turn.get("tool_calls"):
        parts.append(_pretty(turn["tool_calls"]))
    return "\n".join(parts)


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


def _canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
