"""What the best answers to the held-out questions could show of a hypothesis. Pure.

In the best case every answer of the tuned model is right, and none of the base model's. The bounds
are those that the evaluation would compute on the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.probing import FACT_METRICS, NUM_PROBES
from finetune_api.v1alpha1.evaluation.scoring import CORPUS_METRICS
from finetune_api.v1alpha1.evaluation.spec import MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSplit
from finetune_trainer.statistics.bounded import NUM_DRAWS, bounds_of_best, lowest_bound_of_best
from finetune_trainer.statistics.confidence import SLACK, Confidence, Floats
from finetune_trainer.statistics.needed import count_for_best
from finetune_trainer.verdict.hypotheses import Hypothesis

ADD = "add examples, raise dataset.split.testPercent, give a source with side: Test"
LEAST_UNBOUNDED = 2
"""Independent prompts below which what has no limits has no bounds."""
Share = TypeVar("Share", float, Floats)


def count_least(hypothesis: Hypothesis, certainty: float) -> int | None:
    """Return the least prompts whose answers could show a hypothesis; None where no number does.

    Args:
        hypothesis: What is asked.
        certainty: How sure it must be.
    """
    if not hypothesis.is_bounded:
        return LEAST_UNBOUNDED
    least = hypothesis.least
    if hypothesis.metric in CORPUS_METRICS:
        return count_for_best(least / (2 - least), certainty)
    return count_for_best((1 + least) / 2 if hypothesis.is_gain else least, certainty)


def best_bound(hypothesis: Hypothesis, number: int, certainty: float) -> float:
    """Return the lower bound of the best score, or gain, on so many independent prompts."""
    return _score_of(hypothesis, lowest_bound_of_best(number, certainty))


def _score_of(hypothesis: Hypothesis, share: Share) -> Share:
    """Return the bound that follows from the bound of a share of right answers."""
    if hypothesis.metric in CORPUS_METRICS:
        return 2 * share / (1 + share)  # a gain of it is no greater
    return 2 * share - 1 if hypothesis.is_gain else share


@dataclass(frozen=True, kw_only=True)
class BestCase:
    """The best of answers to the held-out questions that a hypothesis looks at.

    Attributes:
        spec: The job's spec.
        side: The held-out side, read with the job's gates.
        hypothesis: What is asked.
        num_questions: Held-out questions that are asked at most.
    """

    spec: FineTuneJobSpec
    side: HeldOutSplit
    hypothesis: Hypothesis
    num_questions: int

    @cached_property
    def num_prompts(self) -> int:
        """Independent prompts that are scored at most: questions of one group count once."""
        metric = self.hypothesis.metric
        if metric in NUM_PROBES:
            return NUM_PROBES[metric]
        groups = self.side.groups(self.num_questions, self.hypothesis.sees)
        return most_scored(self.spec.evaluation, metric, len(groups))

    @property
    def wanted(self) -> int | None:
        """The least independent prompts that could show it; None where no number does."""
        return count_least(self.hypothesis, float(self.hypothesis.certainty))

    @property
    def bound(self) -> float:
        """The lower bound of the best score, or gain."""
        return best_bound(self.hypothesis, self.num_prompts, float(self.hypothesis.certainty))

    @property
    def is_open(self) -> bool:
        """Whether more held-out prompts could lower its doubt."""
        asked = self.hypothesis
        return asked.is_bounded and "." not in asked.metric and asked.least < 1

    def doubt(self, levels: int, *, has_more: bool = False) -> float:
        """Return the smallest p-value that any answers leave.

        Args:
            levels: Bounds that a resampled score has.
            has_more: Assume that there is no limit to the held-out prompts.
        """
        metric = self.hypothesis.metric
        if metric in FACT_METRICS:
            return 0.0  # its probes are all that there are
        if not self.hypothesis.is_bounded:
            return 1 / levels
        if (has_more and self.is_open) or ("." in metric and metric not in NUM_PROBES):
            return 1 / NUM_DRAWS  # of how many is not known
        lower = _score_of(self.hypothesis, bounds_of_best(self.num_prompts))
        best = Confidence(value=1.0, lower=lower, upper=np.ones(len(lower)))
        return best.doubt_above(self.hypothesis.least - SLACK)

    def word_more(self, wanted: int) -> str:
        """Return how it gets the independent prompts that it wants."""
        side, sees, most = self.side, self.hypothesis.sees, self.num_questions
        enough = side.number_with(wanted, sees)
        if enough is None or enough > MOST_SAMPLES:
            return ADD
        remedies = []
        if enough > most:
            is_chosen = self.spec.evaluation.max_samples == "auto"
            remedies.append(
                f"set evaluation.maxSamples to {enough}, where auto chose {most}"
                if is_chosen
                else f"raise evaluation.maxSamples from {most} to {enough}"
            )
        judged = most_scored(self.spec.evaluation, self.hypothesis.metric, MOST_SAMPLES)
        if judged < wanted:
            remedies.append(f"raise evaluation.judge.sample and maxCalls from {judged}")
        return ", ".join(remedies)
