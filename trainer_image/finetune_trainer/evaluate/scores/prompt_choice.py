"""Which of the base model's answers the tuned model is compared with. Pure.

Of each metric it is the best that the base came to, in whichever way it was asked. The best is
chosen on the rows that both models are scored on, so chance favours the base: a gain over the best
of several is rather too small than too large, and a goal that is met is not met because a prompt
was unlucky.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune_api.v1alpha1.evaluation.scoring import (
    DIRECTION_UNKNOWN,
    JUDGE_METRICS,
    LIKELIHOOD_METRICS,
    LOWER_IS_BETTER,
    BaselineName,
)
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.overlap import chrf


def ways_of(name: str, comparison: Comparison) -> dict[BaselineName, Answers]:
    """Return the base model's answers that a metric can be computed of, by how it was asked.

    Args:
        name: The metric.
        comparison: What the models said.
    """
    ways: dict[BaselineName, Answers] = {"AsIs": comparison.base}
    prompted = comparison.prompted
    if name in JUDGE_METRICS:
        # A judge was shown the answers of one way alone.
        ways |= {"Prompted": prompted} if prompted else {}
        ways |= {"Likelihood": comparison.likelihood} if comparison.likelihood else {}
        return {way: said for way, said in ways.items() if said.judged is not None}
    # Where nothing is better or worse, the base as it is stands beside the tuned model.
    if prompted is None or name in DIRECTION_UNKNOWN:
        return ways
    if name in LIKELIHOOD_METRICS:
        # Losses compare over the same tokens alone.
        is_same = np.array_equal(prompted.num_tokens, comparison.base.num_tokens)
        return {**ways, "Prompted": prompted} if is_same else ways
    if name == "preferenceAccuracy":
        return {**ways, "Prompted": prompted} if prompted.preferred is not None else ways
    ways["Prompted"] = prompted
    if comparison.likelihood is not None:
        ways["Likelihood"] = comparison.likelihood
    return ways


def best_of(name: str, scores: Mapping[BaselineName, float]) -> BaselineName:
    """Return the way of asking with the best score; of equal ones the first."""
    sign = -1 if name in LOWER_IS_BETTER else 1
    return max(scores, key=lambda way: sign * scores[way])


def likest_way(comparison: Comparison, places: Sequence[int]) -> BaselineName:
    """Return the way of asking whose answers are most like the references, by chrF.

    Where somebody reads answers, a judge or a person, one way alone is shown: all would take three
    times as long, and nobody must be shown the worse ones.

    Args:
        comparison: What the models said.
        places: Questions that are shown, by their number among those that were asked.
    """
    ways = ways_of("chrF", comparison)
    if len(ways) < 2 or not places:
        return "AsIs"
    asked = comparison.asked
    references = [asked[i].references for i in places]
    scores = {
        way: chrf([said.texts[i] for i in places], references).over(np.arange(len(places)))
        for way, said in ways.items()
    }
    return best_of("chrF", scores)
