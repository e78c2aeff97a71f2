"""What the best constant answer scores on held-out rows, before there is a model. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune_api.v1alpha1.evaluation.scoring import ANSWER_METRICS, FORM_METRICS
from finetune_trainer.evaluate.metrics.answers import Answers, Measured, References
from finetune_trainer.evaluate.metrics.catalog import Settings, measure
from finetune_trainer.evaluate.scores.comparing import Ints
from finetune_trainer.evaluate.scores.constants import (
    best_constant,
    expect_at_random,
    list_constants,
)


def foresee_constant(
    metric: str, references: References, trained: Sequence[str], settings: Settings
) -> float | None:
    """Return what a model must be better than by a metric.

    Args:
        metric: The metric.
        references: Accepted answers of each held-out question.
        trained: Answers of the train side.
        settings: What the job tells metrics.

    Returns:
        The score; None for metrics that no constant is held against by themselves, and for the
        user's own, which is not run here.
    """
    if metric not in ANSWER_METRICS - FORM_METRICS - {"custom"} or not references:
        return None

    def score(text: str, places: Ints) -> Measured:
        some = [references[place] for place in places.tolist()]
        nothing = np.zeros(len(some))
        said = Answers(texts=[text] * len(some), nll_sums=nothing, num_tokens=nothing)
        return measure(metric, said, some, settings=settings)

    best = best_constant(list_constants(references, [], trained), score, len(references), [])
    scored = best[1].over(np.arange(len(references))) if best else 0.0
    return max(scored, expect_at_random(references)) if metric == "macroF1" else scored
