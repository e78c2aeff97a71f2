"""How the held-out rows are divided to see where a model is weak, and its score on each part. Pure.

Parts are those that any data has: whether a row was sealed by ``dataset.anchor`` or came since,
where it comes from, how long its question is, how many turns it has. Their intervals hold for all
parts together (Bonferroni): who looks at eight parts must not find a weak one by chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS, LIKELIHOOD_METRICS
from finetune_trainer.data.rows import is_sealed
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.catalog import NO_SETTINGS, Settings
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.measuring import compare_by
from finetune_trainer.evaluate.scores.slices import take_judged, take_questions
from finetune_trainer.verdict.figures import make_score
from finetune_trainer.verdict.goal import certainty_of

MAX_SOURCES = 8
"""The largest; the others are one part together."""
MIN_QUESTIONS = 40
"""Fewer are not divided by their length."""
NUM_LENGTHS = 4
MAX_TURNS = 6
"""Numbers of turns that are told apart; longer conversations are one part together: the more parts,
the less each of them can show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Some of the questions: what they are told apart by, which these are, and their places."""

    by: str
    name: str
    inside: Sequence[bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScore:
    """One metric on some of the questions, with intervals that hold for all parts together."""

    by: str
    name: str
    num_questions: int
    score: Score


def divide(questions: Sequence[Question]) -> list[Part]:
    """Return the parts of questions; none where all would be one.

    Args:
        questions: The questions.
    """
    return [
        *_label("held out", [_name_sealed(each) for each in questions]),
        *_label("source", _name_sources(questions)),
        *_label("length of the question", _name_lengths(questions)),
        *_label("turns before the answer", _name_turns(questions)),
    ]


def score_parts(
    job: ResolvedJob, comparison: Comparison, metric: str, settings: Settings = NO_SETTINGS
) -> list[PartScore]:
    """Score both models on each part of the held-out rows.

    Args:
        job: The effective job.
        comparison: What both models said.
        metric: What they are scored by.
        settings: What the job tells some metrics.

    Raises:
        UserError: A metric of the user's own, or a pattern of theirs, failed.
    """
    parts = [(part, take_questions(comparison, part.inside)) for part in _parts_of(comparison)]
    is_likelihood = metric in LIKELIHOOD_METRICS
    parts = [(part, some) for part, some in parts if is_likelihood or some.asked]
    if metric in JUDGE_METRICS:
        parts = [(part, some) for part, some in parts if take_judged(some, metric)[1]]
    certainty = 1 - (1 - certainty_of(job.spec.goal)) / max(1, len(parts))
    scores = []
    for part, some in parts:
        compared, num_prompts, _ = compare_by(job, some, metric, settings)
        score = make_score(
            metric,
            base=compared.base.interval(certainty),
            tuned=compared.tuned.interval(certainty),
            gain=compared.gain.interval(certainty),
        )
        scores.append(PartScore(by=part.by, name=part.name, num_questions=num_prompts, score=score))
    return scores


def _parts_of(comparison: Comparison) -> list[Part]:
    return divide(comparison.questions)


def _label(by: str, names: Sequence[str]) -> Iterator[Part]:
    """Yield a part for each name, in the order of their first; nothing where all are one."""
    distinct = list(dict.fromkeys(names))
    if len(distinct) > 1:
        for name in sorted(distinct, key=_natural):
            yield Part(by=by, name=name, inside=[each == name for each in names])


def _natural(name: str) -> tuple[float, str]:
    """Sort names that begin with a number by it, all others by the alphabet."""
    first = name.split(" ", 1)[0].replace(",", "")
    return (float(first) if first.isdecimal() else float("inf"), name)


def _name_sealed(question: Question) -> str:
    return "sealed (dataset.anchor)" if is_sealed(question.rows[0]) else "new since it was sealed"


def _name_sources(questions: Sequence[Question]) -> list[str]:
    sources = [str(each.rows[0].get("metadata", {}).get("source", "")) for each in questions]
    counts = {source: sources.count(source) for source in dict.fromkeys(sources)}
    if len(counts) <= MAX_SOURCES:
        return sources
    kept = sorted(counts, key=lambda source: (-counts[source], source))[: MAX_SOURCES - 1]
    others = f"{len(counts) - len(kept)} others"
    return [source if source in kept else others for source in sources]


def _name_lengths(questions: Sequence[Question]) -> list[str]:
    """Name a question by the quarter that its length, in characters, falls in."""
    if len(questions) < MIN_QUESTIONS:
        return [""] * len(questions)
    lengths = [_length_of(each) for each in questions]
    ordered = sorted(lengths)
    ends = [ordered[len(ordered) * i // NUM_LENGTHS] for i in range(1, NUM_LENGTHS)]
    starts = [ordered[0], *ends]
    stops = [*(end - 1 for end in ends), ordered[-1]]
    if any(stop < start for start, stop in zip(starts, stops, strict=True)):
        return [""] * len(questions)  # most are of one length
    names = [f"{a:,} to {b:,} characters" for a, b in zip(starts, stops, strict=True)]
    return [names[sum(length >= end for end in ends)] for length in lengths]


def _length_of(question: Question) -> int:
    prompt = question.prompt
    if prompt is None or isinstance(prompt, str):
        text = prompt if prompt is not None else str(question.rows[0].get("text", ""))
        return len(text)
    return sum(len(turn.get("content") or "") for turn in prompt)


def _name_turns(questions: Sequence[Question]) -> list[str]:
    turns = [
        sum(turn["role"] != "system" for turn in each.prompt)
        if isinstance(each.prompt, list)
        else 1
        for each in questions
    ]
    several = sorted(set(turns))
    last = several[MAX_TURNS - 1] if len(several) > MAX_TURNS else None
    return [_turns_words(number, last) for number in turns]


def _turns_words(number: int, last: int | None) -> str:
    if last is not None and number >= last:
        return f"{last} turns or more"
    return "1 turn" if number == 1 else f"{number} turns"
