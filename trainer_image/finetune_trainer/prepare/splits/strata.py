"""Labels whose shares the split keeps, and the precision of the test side. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api.v1alpha1.evaluation.judging import most_scored
from finetune_api.v1alpha1.evaluation.scoring import CORPUS_METRICS, JUDGE_METRICS
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.data.answers.label_text import MAX_LABELS
from finetune_trainer.data.asking import most_asked
from finetune_trainer.statistics.needed import WANTED_HALF_WIDTH, count_wanted, widest_half

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finetune_trainer.prepare.rows.spool import RowKeys, RowMarks

MIN_ROWS_PER_LABEL = 5
_LABELLED_SHARE = 0.95


def find_strata(keys: RowKeys, marks: RowMarks) -> NDArray[np.int64] | None:
    """Return the number of each row's label if the data set has a few labels; else None.

    Nearly all answers are short, with at most 200 labels and five rows of each on average. Rows
    with another answer share a number.
    """
    import numpy as np

    is_label = marks.is_label[keys.positions]
    if not len(keys) or is_label.mean() < _LABELLED_SHARE:
        return None
    answers = np.where(is_label, marks.answers[keys.positions], np.uint64(0))
    labels, strata = np.unique(answers, return_inverse=True)
    if not 2 <= len(labels) <= min(MAX_LABELS, len(keys) // MIN_ROWS_PER_LABEL):
        return None
    return strata


def largest_deviation(strata: NDArray[np.int64], on_side: NDArray[np.bool_]) -> float:
    """Return by how much the share of a label on a side differs most from its share of all rows."""
    import numpy as np

    if not on_side.any():
        return 0.0
    num = int(strata.max()) + 1
    overall = np.bincount(strata, minlength=num) / len(strata)
    there = np.bincount(strata[on_side], minlength=num) / on_side.sum()
    return float(np.abs(there - overall).max())


def word_width(evaluation: Evaluation, metric: str, num_groups: int) -> str:
    """Say on how many held-out prompts a job's verdict rests, and what that is worth.

    Args:
        evaluation: The job's ``spec.evaluation``, which says how many are asked.
        metric: The goal's metric; empty without one.
        num_groups: Independent held-out prompts.
    """
    asked, wanted = most_asked(evaluation), count_wanted()
    most = most_scored(evaluation, metric, asked)
    number = min(num_groups, most)
    sentence = f"the verdict rests on {number} independent held-out prompts"
    if metric in CORPUS_METRICS:
        return sentence  # what is no mean of rows may vary more than a share does
    sentence += (
        ": the 95 % interval of a share of hits reaches at most "
        f"{widest_half(number):.3f} to either side"
    )
    if number >= wanted:
        return sentence
    remedy = "add examples, or raise dataset.split.testPercent"
    if num_groups >= wanted:
        is_judged = metric in JUDGE_METRICS and most < asked
        field = "evaluation.judge.sample and maxCalls" if is_judged else "evaluation.maxSamples"
        remedy = f"raise {field}"
    return f"{sentence}; {wanted} are wanted for {WANTED_HALF_WIDTH:.2f}: {remedy}"
