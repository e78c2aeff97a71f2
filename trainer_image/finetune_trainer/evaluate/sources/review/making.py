"""Makes the review of an evaluation: which questions, and which answer on which side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.review import Review
from finetune_api.v1alpha1.evaluation.scoring import LOWER_IS_BETTER
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.labels import looks_like_labels, normalize_label
from finetune_trainer.evaluate.scores.prompt_choice import likest_way, ways_of
from finetune_trainer.evaluate.sources.review.blinding import Blind, Compared, KeyEntry, blind
from finetune_trainer.evaluate.sources.review.sampling import (
    Candidate,
    Draw,
    DrawnAs,
    draw_questions,
)
from finetune_trainer.verdict.goal import certainty_of


def make_review(
    job: ResolvedJob,
    review: Review,
    comparison: Comparison,
    row_scores: Sequence[Mapping[str, tuple[float, float]]],
    *,
    secret: bytes,
) -> tuple[Blind, dict[str, KeyEntry], dict[str, Any]]:
    """Draw the questions that people are shown, and hide which answer is whose.

    Args:
        job: The job.
        review: Its ``spec.evaluation.review``.
        comparison: What both models said.
        row_scores: What the two scored on each question that was asked, by metric.
        secret: Random bytes that decide the sides.

    Returns:
        What reviewers get, the key, and the facts that the panel's file tells.
    """
    way = likest_way(comparison, range(len(comparison.asked)))
    base = ways_of("chrF", comparison)[way].texts
    candidates = _gather_candidates(job, comparison, base, row_scores)
    draw = draw_questions(candidates, number=review.sample, seed=job.spec.dataset.split.seed)
    shown = _compare(comparison, base, draw)
    hidden, key = blind(shown, title=job.name, rubric=review.rubric, secret=secret)
    facts = {
        "job": f"{job.namespace}/{job.name}",
        "uid": job.uid,
        "reviewersWanted": review.reviewers,
        "required": review.required,
        "baseline": way,
        "certainty": f"{certainty_of(job.spec.goal):g}",
        "questions": {
            "asked": len(candidates),
            "answeredAlike": draw.num_equal,
            "random": len(draw.random),
            "worst": len(draw.worst),
        },
    }
    return hidden, key, facts


def _gather_candidates(
    job: ResolvedJob,
    comparison: Comparison,
    base: Sequence[str],
    row_scores: Sequence[Mapping[str, tuple[float, float]]],
) -> list[Candidate]:
    """Return what may be drawn: every question that was asked, in its order."""
    strata = _strata_of([question.references for question in comparison.asked])
    metric = _choose_metric(row_scores, job.spec.goal.metric if job.spec.goal else "")
    return [
        Candidate(
            base=base[i], tuned=comparison.tuned.texts[i], score=score, gain=gain, stratum=strata[i]
        )
        for i, (score, gain) in enumerate(_score(scores, metric) for scores in row_scores)
    ]


def _compare(comparison: Comparison, base: Sequence[str], draw: Draw) -> list[Compared]:
    """Return both answers to each question that was drawn, the random ones first."""
    asked = comparison.asked
    clusters: dict[str, int] = {}
    numbers = [clusters.setdefault(question.group, len(clusters)) for question in asked]
    places: list[tuple[int, DrawnAs]] = [(place, "random") for place in draw.random]
    places += [(place, "worst") for place in draw.worst]
    return [
        Compared(
            prompt=asked[place].prompt or "",
            tools=asked[place].tools,
            base=base[place],
            tuned=comparison.tuned.texts[place],
            drawn_as=drawn_as,
            cluster=numbers[place],
        )
        for place, drawn_as in places
    ]


def _choose_metric(row_scores: Sequence[Mapping[str, tuple[float, float]]], goal: str) -> str:
    """Return the goal's metric if all questions have a score by it, else the first that all have.

    A judge scores some of the questions alone.
    """
    first = row_scores[0] if row_scores else {}
    shared = [name for name in first if all(name in scores for scores in row_scores)]
    return goal if goal in shared else next(iter(shared), "")


def _score(scores: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    """Return the tuned model's score by a metric, and its gain."""
    base, tuned = scores.get(name, (0.0, 0.0))
    sign = -1 if name in LOWER_IS_BETTER else 1
    return sign * tuned, sign * (tuned - base)


def _strata_of(references: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the label of each question, where answers are labels; else all are one stratum."""
    if not looks_like_labels(references):
        return [""] * len(references)
    return [normalize_label(group[0]) for group in references]
