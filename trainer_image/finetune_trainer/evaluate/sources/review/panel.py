"""What all reviewers together have said. Pure; needs numpy and scipy for the intervals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.sources.review.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    share_of_agreement,
)
from finetune_trainer.evaluate.sources.review.blinding import KeyEntry
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY, Interval

KIND = "ReviewPanel"
OVERALL = "overall"
POINTS = {"tuned": 1.0, "same": 0.5, "base": 0.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What came out by one criterion.

    Attributes:
        name: The criterion; ``overall`` for all together.
        random: How often each of ``tuned``, ``same`` and ``base`` was chosen, over all reviewers,
            of the items drawn at random.
        worst: The same of those drawn for their bad score.
        win_rate: Share of wins of the tuned model over the items drawn at random, a tie counting
            one half, each reviewer alike; None without such items.
        agreement: Share of pairs of reviewers who chose the same, over all items.
        cohen: Cohen's kappa, of two reviewers.
        fleiss: Fleiss' kappa, of more than two.
        alpha: Krippendorff's alpha.
    """

    name: str
    random: Counter[str]
    worst: Counter[str]
    win_rate: Interval | None
    agreement: float | None
    cohen: float | None
    fleiss: float | None
    alpha: float | None

    def to_wire(self) -> dict[str, Any]:
        """Return it with decimals as texts."""
        rate = self.win_rate
        measured = {
            "winRate": rate and rate.value,
            "winRateLow": rate and rate.low,
            "winRateHigh": rate and rate.high,
            "agreement": self.agreement,
            "cohenKappa": self.cohen,
            "fleissKappa": self.fleiss,
            "krippendorffAlpha": self.alpha,
        }
        return {
            "name": self.name,
            "random": {name: self.random[name] for name in POINTS},
            "worst": {name: self.worst[name] for name in POINTS},
            **{name: f"{value:.4f}" for name, value in measured.items() if value is not None},
        }


def judge(
    files: Sequence[ReviewFile],
    key: Mapping[str, KeyEntry],
    *,
    rubric: Sequence[str],
    certainty: float = DEFAULT_CERTAINTY,
) -> list[Judged]:
    """Count what whole files of different reviewers say, by each criterion and overall.

    Overall a reviewer prefers the model that more criteria speak for. Agreement is that on left,
    same and right, which is what reviewers saw: the sides are random, so that chance agrees as
    often whichever model is better.

    Args:
        files: Verdicts, complete, one of each reviewer.
        key: Which model is where.
        rubric: The criteria.
        certainty: Of the intervals.
    """
    return [_judge_by(name, files, key, rubric, certainty) for name in (OVERALL, *rubric)]


def choose_overall(choices: Mapping[str, str], rubric: Sequence[str]) -> str:
    """Return the side that more criteria speak for, or ``same``."""
    counts = Counter(choices[criterion] for criterion in rubric)
    if counts["left"] == counts["right"]:
        return "same"
    return "left" if counts["left"] > counts["right"] else "right"


def panel_to_json(
    judged: Sequence[Judged],
    files: Sequence[ReviewFile],
    key: Mapping[str, KeyEntry],
    *,
    facts: Mapping[str, Any],
) -> str:
    """Return the file that the panel's decision names by digest: figures and every verdict.

    Args:
        judged: What :func:`judge` has counted.
        files: The verdicts.
        key: Which model is where.
        facts: What the review is of: job, run, evaluation, review, certainty, questions.
    """
    body = {
        "kind": KIND,
        **facts,
        "reviewers": [file.reviewer for file in files],
        "judged": [each.to_wire() for each in judged],
        "verdicts": [
            {
                "item": name,
                "drawnAs": entry.compared.drawn_as,
                "by": [_said(file, name, entry) for file in files],
            }
            for name, entry in key.items()
        ],
    }
    return json.dumps(body, ensure_ascii=False, sort_keys=True, indent=1) + "\n"


def _judge_by(
    name: str,
    files: Sequence[ReviewFile],
    key: Mapping[str, KeyEntry],
    rubric: Sequence[str],
    certainty: float,
) -> Judged:
    def choice(file: ReviewFile, item: str) -> str:
        choices = file.items[item].choices
        return choose_overall(choices, rubric) if name == OVERALL else choices[name]

    ratings = [[choice(file, item) for item in key] for file in files]
    counts: dict[str, Counter[str]] = {"random": Counter(), "worst": Counter()}
    scores, clusters = [], []
    for place, entry in enumerate(key.values()):
        models = [entry.model_of(rated[place]) for rated in ratings]
        counts[entry.compared.drawn_as].update(models)
        if entry.compared.drawn_as == "random":
            scores.append(sum(POINTS[model] for model in models) / len(models))
            clusters.append(entry.compared.cluster)
    return Judged(
        name=name,
        random=counts["random"],
        worst=counts["worst"],
        win_rate=_rate_of(scores, clusters, certainty),
        agreement=share_of_agreement(ratings),
        cohen=cohen_kappa(*ratings) if len(ratings) == 2 else None,
        fleiss=fleiss_kappa(ratings) if len(ratings) > 2 else None,
        alpha=krippendorff_alpha(ratings),
    )


def _rate_of(scores: Sequence[float], clusters: Sequence[int], certainty: float) -> Interval | None:
    import numpy as np

    from finetune_trainer.statistics.bounded import confidence_of_mean

    if not scores:
        return None
    _, numbers = np.unique(np.array(clusters), return_inverse=True)
    return confidence_of_mean(np.array(scores), numbers).interval(certainty)


def _said(file: ReviewFile, name: str, entry: KeyEntry) -> dict[str, Any]:
    verdict = file.items[name]
    said: dict[str, Any] = {
        "reviewer": file.reviewer,
        "choices": {each: entry.model_of(side) for each, side in verdict.choices.items()},
    }
    if verdict.comment:
        said["comment"] = verdict.comment
    return said
