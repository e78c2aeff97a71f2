"""How sure the best of answers could make a claim. Pure.

Every answer right, and none of the base model's: the bounds are those that the evaluation would
compute of it on the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np

from finetune_trainer.statistics.bounded import confidence_of_mean, confidence_of_share
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.statistics.needed import Scale, f1_of


def best_confidence(
    sizes: Collection[int], scale: Scale, *, is_gain: bool, seed: int
) -> Confidence:
    """Return the bounds of a score, or of a gain, that is 1 on all questions.

    Args:
        sizes: Questions of each group; at least one group.
        scale: What is known of the scores; they are taken to be alike.
        is_gain: Whether a difference of two models is meant.
        seed: ``dataset.split.seed``, by which the evaluation draws.
    """
    if scale.is_mean:
        clusters = np.repeat(np.arange(len(sizes)), list(sizes))
        lowest = -1.0 if is_gain else 0.0
        return confidence_of_mean(np.ones(len(clusters)), clusters, lowest=lowest, seed=seed)
    best = confidence_of_share(len(sizes), len(sizes))  # a gain of it is no greater
    return Confidence(value=1.0, lower=f1_of(best.lower), upper=f1_of(best.upper))


def is_uneven(groups: Counter[str], scale: Scale) -> bool:
    """Return whether the sizes of groups say more than their number does.

    Args:
        groups: Questions of each group.
        scale: What is known of the scores.
    """
    return groups.total() > len(groups) and scale.is_mean


def word_groups(groups: Counter[str]) -> str:
    """Return how questions fall into groups, where that is what they lack."""
    return (
        f"the {groups.total()} questions that are asked belong to {len(groups)} group(s), of which "
        f"the largest has {max(groups.values())}"
    )
