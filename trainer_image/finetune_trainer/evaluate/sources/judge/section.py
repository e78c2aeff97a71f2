"""The part of the report on what a judge said. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_api.protocol.evaluation_result import JudgeResult, JudgeShare
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_trainer.evaluate.sources.judge.concluding import Judgement
from finetune_trainer.evaluate.sources.source import Place

NUM_LOST = 12
MAX_CHARACTERS = 600
COLUMNS = (
    {"label": "criterion"},
    {"label": "base", "number": True},
    {"label": "tuned", "number": True},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lost:
    """A question on which the tuned model did worse.

    Attributes:
        prompt: What was asked.
        base: The base model's answer.
        tuned: The tuned model's.
        reason: What the judge said.
    """

    prompt: str
    base: str
    tuned: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSection:
    """What the page shows of a judge.

    Attributes:
        facts: Who judged, over how much, how steadily.
        columns: Headings of the points by criterion.
        criteria: These points; none where pairs were compared.
        notes: What to know of the verdicts.
        failure: Why there are none; empty if there are.
        lost: The first questions on which the tuned model did worse.
        num_lost: How many there are.
    """

    template: ClassVar[str] = "sources/judge/section.html.j2"
    anchor: ClassVar[str] = "judge"
    title: ClassVar[str] = "Judge"
    place: ClassVar[Place] = "answers"

    facts: Mapping[str, str]
    columns: Sequence[Mapping[str, object]]
    criteria: Sequence[Sequence[str]]
    notes: Sequence[str]
    failure: str
    lost: Sequence[Lost]
    num_lost: int


def describe_judge(
    result: JudgeResult,
    prompts: Sequence[Sequence[Mapping[str, Any]] | str],
    judgements: Sequence[Judgement],
) -> JudgeSection:
    """Return the section.

    Args:
        result: What is known of the judge.
        prompts: All questions that the models were asked.
        judgements: What the judge said of some of them.
    """
    lost = [each for each in judgements if each.is_lost]
    return JudgeSection(
        facts=judge_facts(result),
        columns=COLUMNS,
        criteria=[[each.name, each.base, each.tuned] for each in result.criteria],
        notes=[_sentence(note) for note in result.notes],
        failure=_sentence(result.failure) if result.failure else "",
        lost=[
            Lost(
                prompt=_cut(_text_of(prompts[each.place])),
                base=_cut(each.base),
                tuned=_cut(each.tuned),
                reason=_cut(f"{each.verdict}\n" + "\n".join(filter(None, each.reasons))),
            )
            for each in lost[:NUM_LOST]
        ],
        num_lost=len(lost),
    )


def judge_facts(result: JudgeResult) -> dict[str, str]:
    """Return who judged, over how much and how steadily, by label; for pages and cards."""
    rows = f"{result.num_judged:,} of {result.num_drawn:,} drawn"
    if result.num_alike:
        rows += f", of which {result.num_alike:,} have equal answers: ties"
    if result.num_unread:
        rows += f"; {result.num_unread:,} without a verdict that could be read"
    tokens = f"{result.num_input_tokens:,} tokens read, {result.num_output_tokens:,} written"
    cost = f"; {result.amount} by the job's price" if result.amount else ""
    agreed = f"{result.agreement} of the pairs get the same verdict in both orders"
    facts = {
        "Judge": f"{result.model} at {result.endpoint}",
        "Asked": "which of two answers is better, in both orders"
        if result.mode == "Pairwise"
        else "for 1 to 5 points by each criterion",
        "Base model": f"asked {BASELINE_WORDS[result.baseline]}",
        "Questions": rows,
        "Agreement with itself": agreed if result.agreement else "",
        "For the first answer": _share_words(result.first, "of its verdicts; one half is fair"),
        "For the longer answer": _share_words(result.longer, "of the decided pairs"),
        "Calls": f"{result.num_calls:,}; {tokens}{cost}",
    }
    return {label: text for label, text in facts.items() if text}


def _share_words(share: JudgeShare | None, of: str) -> str:
    return "" if share is None else f"{share.value} [{share.low}, {share.high}] {of}"


def _text_of(prompt: Sequence[Mapping[str, Any]] | str) -> str:
    if isinstance(prompt, str):
        return prompt
    turns = [turn.get("content") or "" for turn in prompt]
    return "\n\n".join(
        t if isinstance(t, str) else json.dumps(t, ensure_ascii=False) for t in turns
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}." if not words.endswith("?") else words


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"
