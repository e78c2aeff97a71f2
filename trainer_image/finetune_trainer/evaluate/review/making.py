"""Makes the review of an evaluation: which questions, and which answer on which side. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.trainer import ResolvedJob
from finetune_api.v1alpha1.review import Review
from finetune_api.v1alpha1.scoring import LOWER_IS_BETTER
from finetune_trainer.evaluate.answering import Comparison
from finetune_trainer.evaluate.goal import certainty_of
from finetune_trainer.evaluate.metrics.labels import looks_like_labels, normalize_label
from finetune_trainer.evaluate.review.blinding import Blind, Compared, KeyEntry, blind
from finetune_trainer.evaluate.review.sampling import (
    Candidate,
    DrawnAs,
    draw_questions,
)


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
    asked = comparison.asked
    strata = _strata_of([question.references for question in asked])
    goal = job.spec.goal.metric if job.spec.goal else ""
    candidates = [
        Candidate(
            base=comparison.base.texts[i],
            tuned=comparison.tuned.texts[i],
            score=score,
            gain=gain,
            stratum=strata[i],
        )
        for i, (score, gain) in enumerate(_score(scores, goal) for scores in row_scores)
    ]
    draw = draw_questions(candidates, number=review.sample, seed=job.spec.dataset.split.seed)
    clusters: dict[str, int] = {}
    numbers = [clusters.setdefault(question.group, len(clusters)) for question in asked]

    def compare(place: int, drawn_as: DrawnAs) -> Compared:
        question = asked[place]
        return Compared(
            prompt=question.prompt or "",
            tools=question.tools,
            base=candidates[place].base,
            tuned=candidates[place].tuned,
            drawn_as=drawn_as,
            cluster=numbers[place],
        )

    shown = [compare(place, "random") for place in draw.random]
    shown += [compare(place, "worst") for place in draw.worst]
    hidden, key = blind(shown, title=job.name, rubric=review.rubric, secret=secret)
    facts = {
        "job": f"{job.namespace}/{job.name}",
        "uid": job.uid,
        "reviewersWanted": review.reviewers,
        "required": review.required,
        "certainty": f"{certainty_of(job.spec.goal):g}",
        "questions": {
            "asked": len(asked),
            "answeredAlike": draw.num_equal,
            "random": len(draw.random),
            "worst": len(draw.worst),
        },
    }
    return hidden, key, facts


def _score(scores: Mapping[str, tuple[float, float]], goal: str) -> tuple[float, float]:
    """Return the tuned model's score and its gain by the goal's metric, else by the first."""
    name = goal if goal in scores else next(iter(scores), "")
    base, tuned = scores.get(name, (0.0, 0.0))
    sign = -1 if name in LOWER_IS_BETTER else 1
    return sign * tuned, sign * (tuned - base)


def _strata_of(references: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the label of each question, where answers are labels; else all are one stratum."""
    if not looks_like_labels(references):
        return [""] * len(references)
    return [normalize_label(group[0]) for group in references]
