"""The part of the report on how the base model was asked, and with which prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_trainer.evaluate.sources.prompt_baseline.fitting import Prompted
from finetune_trainer.evaluate.sources.source import Place


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineSection:
    """What the page shows of the base model.

    Attributes:
        words: What the prompt is made of; or why there is none.
        told: What was left out of it, in sentences.
        turns: The prompt, turn by turn; empty where there is none.
    """

    template: ClassVar[str] = "sources/prompt_baseline/section.html.j2"
    anchor: ClassVar[str] = ""
    title: ClassVar[str] = ""
    place: ClassVar[Place] = "scores"

    words: str
    told: tuple[str, ...]
    turns: list[dict[str, str]]


def describe_baseline(prompted: Prompted | None, reason: str) -> BaselineSection:
    """Return what the page shows.

    Args:
        prompted: The questions behind their prompt; None where the base got none.
        reason: Why it got none.
    """
    return BaselineSection(
        words=prompt_words(prompted, reason),
        told=prompted.told if prompted else (),
        turns=prompted.prompt.shown() if prompted else [],
    )


def prompt_words(prompted: Prompted | None, reason: str) -> str:
    """Say what the base model was asked with, without a word of the data."""
    if prompted is None:
        return f"The base model was asked the questions alone: {reason}."
    prompt = prompted.prompt
    parts = ["an instruction"]
    if prompt.labels:
        parts.append(_count(len(prompt.labels), "label"))
    if prompt.examples:
        number = _count(len(prompt.examples), "example")
        parts.append(f"{number} of the train side, drawn by the seed")
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    also = ""
    if prompted.labels:
        also = f", and behind it for the likeliest of {_count(len(prompted.labels), 'label')}"
    return f"The base model was asked as is, and behind a prompt of {listed}{also}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def to_json(prompted: Prompted | None, reason: str) -> dict[str, Any]:
    """Return what ``report.json`` says of the prompt."""
    return {
        "words": prompt_words(prompted, reason),
        "told": list(prompted.told) if prompted else [],
        "prompt": prompted.prompt.shown() if prompted else [],
        "numLabels": len(prompted.labels) if prompted else 0,
        "numExamples": len(prompted.prompt.examples) if prompted else 0,
        "numPromptTokensShared": prompted.encoded.num_shared if prompted else 0,
    }
