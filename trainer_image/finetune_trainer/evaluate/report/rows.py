"""Which questions the page shows, in which order, and what became of each. Pure.

A page of twenty thousand rows opens nowhere. So it holds at most :data:`MAX_ROWS`, first of all
those that a reader must see: what the base model could do and the tuned one cannot, what both get
wrong, what changed. The rest lies in ``samples.jsonl`` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS, LOWER_IS_BETTER
from finetune_trainer.evaluate.metrics.labels import normalize_label
from finetune_trainer.evaluate.report.evidence import Sample

MAX_ROWS = 1000
MAX_CHARACTERS = 2_000_000
"""Of all rows together; a page of some megabytes still opens on a phone."""
MAX_TEXT = 4000
"""Characters of one text."""
SHARES = {"Regression": 0.5, "Wrong": 0.25, "Improvement": 0.125}
"""Of the rows that a page holds, where there are more: what is not used goes to the others."""


class Fate(StrEnum):
    """What became of a question, in the order in which rows are shown."""

    REGRESSION = "Regression"
    WRONG = "Wrong"
    """Both models score nothing."""
    IMPROVEMENT = "Improvement"
    SAME = "Same"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one model said, under its name.

    Attributes:
        label: Name of the model, and how it was asked.
        text: The answer.
        is_cut: Whether the limit of tokens cut it.
        is_right: None where answers are no labels.
    """

    label: str
    text: str
    is_cut: bool = False
    is_right: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One question on the page.

    Attributes:
        number: Its line in ``samples.jsonl``, from 1.
        fate: What became of it.
        change: By how much the tuned model scores better than the base, less than 0 where worse.
        score: What the tuned model scores, the greater the better.
        scored: Both scores in words; empty where nothing scored the row.
        turns: The prompt, each turn with its role and text.
        references: Accepted answers.
        answers: What the models said.
    """

    number: int
    fate: Fate
    change: float
    score: float
    scored: str
    turns: list[dict[str, str]]
    references: list[str]
    answers: list[Answer]


@dataclass(frozen=True, kw_only=True, slots=True)
class RowSection:
    """What the page shows of single rows.

    Attributes:
        rows: The rows on the page.
        total: How many there are in all.
        counts: How many of all have each fate, in words; fates that no row has are left out.
        metric: What the fate goes by; empty where nothing scored the rows.
    """

    rows: list[Row]
    total: int
    counts: Mapping[Fate, int]
    metric: str


def show_rows(samples: Sequence[Sample], *, metric: str, has_labels: bool) -> RowSection:
    """Return what the page shows of single rows.

    Args:
        samples: All questions that were answered, in their order.
        metric: The goal's; another one is taken where it scored none of them.
        has_labels: Whether answers are labels, of which one is right or wrong.
    """
    first = samples[0].scores if samples else {}
    # A judge may have scored some of them alone.
    scored = next((each.scores for each in samples if metric in each.scores), first)
    metric = metric if metric in scored else next(iter(scored), "")
    judged = [_judge(sample.scores.get(metric), metric) for sample in samples]
    chosen = _choose(samples, judged)
    rows = [_make_row(i, samples[i], judged[i], metric, has_labels) for i in chosen]
    fates = list(Fate)
    rows.sort(key=lambda row: (fates.index(row.fate), _urgency(row), row.number))
    counts = {fate: sum(each.fate is fate for each in judged) for fate in Fate}
    return RowSection(
        rows=rows,
        total=len(samples),
        counts={fate: count for fate, count in counts.items() if count},
        metric=metric,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Judged:
    fate: Fate
    change: float
    score: float


def _judge(scores: tuple[float, float] | None, metric: str) -> _Judged:
    if scores is None:
        return _Judged(fate=Fate.SAME, change=0.0, score=0.0)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    base, tuned = (sign * score for score in scores)
    change = tuned - base
    fate = Fate.SAME
    if change < 0:
        fate = Fate.REGRESSION
    elif change > 0:
        fate = Fate.IMPROVEMENT
    elif tuned == 0 and sign > 0:
        fate = Fate.WRONG
    return _Judged(fate=fate, change=round(change, 4), score=tuned)


def _urgency(row: Row | _Judged) -> tuple[float, float]:
    """Order rows of one fate: the greatest change first, of equal ones the lowest score."""
    return -abs(row.change), row.score


def _choose(samples: Sequence[Sample], judged: Sequence[_Judged]) -> list[int]:
    """Return the numbers of the rows on the page, within all bounds."""
    chosen: dict[int, None] = {}
    left = MAX_CHARACTERS
    for i in _in_turn(judged):
        size = sum(min(len(text), MAX_TEXT) for text in _texts_of(samples[i]))
        if len(chosen) >= MAX_ROWS or (chosen and size > left):
            break
        chosen[i] = None
        left -= size
    return list(chosen)


def _in_turn(judged: Sequence[_Judged]) -> Iterator[int]:
    """Yield each row once: a share of every fate that matters, then all others in their order."""
    order = sorted(range(len(judged)), key=lambda i: _urgency(judged[i]))
    seen: set[int] = set()
    for fate, share in SHARES.items():
        of_fate = [i for i in order if judged[i].fate == fate]
        taken = of_fate[: int(share * MAX_ROWS)]
        seen.update(taken)
        yield from taken
    yield from (i for i in range(len(judged)) if i not in seen)


def _texts_of(sample: Sample) -> Iterator[str]:
    yield from (turn["content"] for turn in _turns_of(sample.prompt))
    yield from sample.references
    yield from (text for _, text, _ in _said(sample))


def _said(sample: Sample) -> Iterator[tuple[str, str, bool]]:
    """Yield of each answer its label, its text and whether it was cut."""
    several = sample.prompted is not None or sample.likelihood is not None
    cut = sample.cut
    yield f"base {BASELINE_WORDS['AsIs']}" if several else "base", sample.base, "base" in cut
    if sample.prompted is not None:
        yield f"base {BASELINE_WORDS['Prompted']}", sample.prompted, "prompted" in cut
    if sample.likelihood is not None:
        yield f"base {BASELINE_WORDS['Likelihood']}", sample.likelihood, False
    if sample.published is not None:
        yield "published version", sample.published, "published" in cut
    yield "tuned", sample.tuned, "tuned" in cut


def _make_row(place: int, sample: Sample, judged: _Judged, metric: str, has_labels: bool) -> Row:
    right = {normalize_label(reference) for reference in sample.references}
    scored = ""
    if metric in sample.scores:
        base, tuned = sample.scores[metric]
        scored = f"{metric} base {base:g}, tuned {tuned:g}"
    return Row(
        number=place + 1,
        fate=judged.fate,
        change=judged.change,
        score=judged.score,
        scored=scored,
        turns=[{**turn, "content": _cut(turn["content"])} for turn in _turns_of(sample.prompt)],
        references=[_cut(text) for text in sample.references],
        answers=[
            Answer(
                label=label,
                text=_cut(text),
                is_cut=is_cut,
                is_right=normalize_label(text) in right if has_labels else None,
            )
            for label, text, is_cut in _said(sample)
        ],
    )


def _turns_of(prompt: list[dict[str, Any]] | str) -> list[dict[str, str]]:
    turns = [{"role": "", "content": prompt}] if isinstance(prompt, str) else prompt
    return [{"role": turn["role"], "content": _text_of(turn)} for turn in turns]


def _text_of(message: Mapping[str, Any]) -> str:
    """Return what a message says, with the tools that it calls."""
    calls = [
        f"{call['function']['name']}({_dump(call['function']['arguments'])})"
        for call in message.get("tool_calls", ())
    ]
    return "\n".join([*([message["content"]] if message["content"] else []), *calls])


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    told = f"(the first {MAX_TEXT:,} of {len(text):,} characters)"
    return f"{text[:MAX_TEXT]}\N{HORIZONTAL ELLIPSIS} {told}"
