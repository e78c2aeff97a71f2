"""What the best answers to the held-out questions could show of a hypothesis. Pure.

In the best case every answer of the tuned model is right, and none of the base model's. The bounds
are those that the evaluation would compute on the same questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import (
    CORPUS_METRICS,
    JUDGE_METRICS,
    UNBOUNDED_METRICS,
)
from finetune_api.v1alpha1.evaluation.spec import MOST_SAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.data.held_out import HeldOutSplit
from finetune_trainer.statistics.bounded import confidence_of_mean, confidence_of_share
from finetune_trainer.statistics.confidence import SLACK, Confidence
from finetune_trainer.statistics.needed import Scale, count_for_best, count_for_gain, f1_of
from finetune_trainer.verdict.hypotheses import Hypothesis

ADD = "add examples, raise dataset.split.testPercent, give a source with side: Test"
MORE_GROUPS = "hold out rows of more groups, or fewer of the largest"
LEAST_UNBOUNDED = 2
"""Independent prompts below which what has no limits has no bounds."""
Groups = Counter[str]
"""Questions of each group: those of one group are not independent."""


def scale_of(metric: str) -> Scale:
    """Return the scale of a metric between 0 and 1: a mean of rows, or a score of the corpus."""
    return Scale(is_mean=metric not in CORPUS_METRICS)


def count_least(hypothesis: Hypothesis, certainty: float) -> int | None:
    """Return the least prompts whose answers could show a hypothesis; None where no number does.

    Args:
        hypothesis: What is asked.
        certainty: How sure it must be.
    """
    if not hypothesis.is_bounded:
        return LEAST_UNBOUNDED
    count = count_for_gain if hypothesis.is_gain else count_for_best
    return count(hypothesis.least, certainty, scale_of(hypothesis.metric))


def least_doubt(hypothesis: Hypothesis, sizes: Collection[int], *, seed: int) -> float:
    """Return the p-value that the best of answers leave.

    Args:
        hypothesis: One on scores between 0 and 1.
        sizes: Questions of each group, at least one group.
        seed: ``dataset.split.seed``.
    """
    return _best(hypothesis, sizes, seed).doubt_above(hypothesis.least - SLACK)


def _best(hypothesis: Hypothesis, sizes: Collection[int], seed: int) -> Confidence:
    """Return the bounds of a score, or of a gain, that is 1 on all questions."""
    if scale_of(hypothesis.metric).is_mean:
        clusters = np.repeat(np.arange(len(sizes)), list(sizes))
        lowest = -1.0 if hypothesis.is_gain else 0.0
        return confidence_of_mean(np.ones(len(clusters)), clusters, lowest=lowest, seed=seed)
    best = confidence_of_share(len(sizes), len(sizes))  # a gain of it is no greater
    return Confidence(value=1.0, lower=f1_of(best.lower), upper=f1_of(best.upper))


@dataclass(frozen=True, kw_only=True, slots=True)
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

    @property
    def groups(self) -> Groups:
        """Questions of each group that are asked and looked at."""
        return self.side.groups(self.num_questions, self.hypothesis.sees)

    @property
    def num_prompts(self) -> int:
        """Independent prompts that are scored at most."""
        return most_scored(self.spec.evaluation, self.hypothesis.metric, len(self.groups))

    @property
    def wanted(self) -> int | None:
        """The least independent prompts that could show it; None where no number does."""
        return count_least(self.hypothesis, float(self.hypothesis.certainty))

    @property
    def seed(self) -> int:
        """What the evaluation draws by."""
        return self.spec.dataset.split.seed

    def is_uneven(self, groups: Groups) -> bool:
        """Whether the sizes of groups say more than their number does."""
        return groups.total() > len(groups) and scale_of(self.hypothesis.metric).is_mean

    def low_bound(self, groups: Groups) -> float:
        """Return the lower bound of the best score on questions of these groups."""
        best = _best(self.hypothesis, groups.values(), self.seed)
        return best.interval(float(self.hypothesis.certainty)).low

    def is_enough(self, groups: Groups) -> bool:
        """Whether the sizes of groups allow it to be shown: a judge is asked about some of them."""
        hypothesis = self.hypothesis
        if hypothesis.metric in UNBOUNDED_METRICS | JUDGE_METRICS or not self.is_uneven(groups):
            return True
        if hypothesis.gate is None:
            return self.low_bound(groups) >= hypothesis.least - SLACK
        doubt = least_doubt(hypothesis, groups.values(), seed=self.seed)
        return doubt <= hypothesis.allowed + SLACK

    def word_groups(self) -> str:
        """Return how questions fall into groups, where that is what they lack."""
        groups = self.groups
        return (
            f"the {groups.total()} questions that are asked belong to {len(groups)} group(s), of "
            f"which the largest has {max(groups.values())}"
        )

    def word_more(
        self, wanted: int, *, is_enough: Callable[[Groups], bool] = lambda _: True
    ) -> str:
        """Return how it gets the independent prompts that it wants.

        Args:
            wanted: Independent prompts.
            is_enough: Whether those that are held out could show it, were all of them asked.
        """
        side, sees, most = self.side, self.hypothesis.sees, self.num_questions
        enough = side.number_with(wanted, sees)
        if enough is None or enough > MOST_SAMPLES:
            return ADD
        if not is_enough(side.groups(MOST_SAMPLES, sees)):
            return MORE_GROUPS
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
