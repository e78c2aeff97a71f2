"""Intervals hold at 0 and 1, at small counts, and for rows that belong together, by any metric."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1.evaluation.scoring import LIKELIHOOD_METRICS
from finetune_trainer.evaluate.metrics.answers import Answers, Measured, mean_of
from finetune_trainer.evaluate.metrics.catalog import measure
from finetune_trainer.evaluate.scores.comparing import compare, number_clusters
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.statistics.sums import compare_sums


def singles(count: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(count)]


def said(*texts: str, loss: float = 1.0) -> Answers:
    number = len(texts)
    return Answers(
        texts=texts,
        nll_sums=loss + np.arange(number) / number,
        num_tokens=np.ones(number),
        preferred=np.array([float(text == "yes") for text in texts]),
    )


def compared(
    name: str, base: Answers, tuned: Answers, groups: list[np.ndarray] | None = None
) -> Compared:
    references = [["yes"]] * len(base.texts)
    return compare(
        measure(name, base, references),
        measure(name, tuned, references),
        groups or singles(len(base.texts)),
        is_bounded=name not in LIKELIHOOD_METRICS,
        num_samples=200,
        seed=1,
    )


def test_a_rare_label_leaves_the_doubt_of_its_few_rows() -> None:
    truth = ["fine"] * 93 + ["fraud"] * 4 + ["theft"] * 3
    references = [[label] for label in truth]
    right = measure("macroF1", said(*truth), references)
    never = measure("macroF1", said(*["fine"] * 100), references)
    result = compare(never, right, singles(100), is_bounded=True, num_samples=200, seed=1)
    # Clopper and Pearson's bounds of 4 and of 3 rows are at 0.40 and 0.29, of which F1 is more.
    assert 0.7 < result.tuned.interval().low < 0.8
    assert result.base.interval().high > 0.6
    assert result.gain.interval().low < 0.15


def test_bounds_of_macro_f1_hold_where_a_label_is_rare() -> None:
    rng = np.random.default_rng(0)
    wrong = {"low": 0, "high": 0}
    for seed in range(150):
        counts = 1 + rng.multinomial(97, (0.9, 0.06, 0.04))
        truth = np.repeat(["a", "b", "c"], counts)
        is_right = rng.random(100) < np.repeat([0.99, 0.9, 0.9], counts)
        # What is wrong is none of the labels: each label's F1 is that of its recall.
        answers = measure("macroF1", said(*np.where(is_right, truth, "?")), [[t] for t in truth])
        assert answers.sums is not None
        bounds = compare_sums(answers.sums, answers.sums, np.arange(100), seed=seed, num_draws=400)
        recall = np.array([0.99, 0.9, 0.9])
        interval, expected = bounds.tuned.interval(), np.mean(2 * recall / (1 + recall))
        wrong["low"] += interval.low > expected
        wrong["high"] += interval.high < expected
    assert max(wrong.values()) <= 9  # 2.5 % are 4; a bootstrap's lower end is wrong in 23


BOUNDED = ("exactMatch", "macroF1", "rougeL", "bleu", "preferenceAccuracy")


@pytest.mark.parametrize("name", BOUNDED)
def test_a_perfect_score_on_few_rows_is_not_certain(name: str) -> None:
    result = compared(name, said(*["no"] * 20), said(*["yes"] * 20))
    assert result.tuned.value == pytest.approx(1.0)
    # 17 right of 20 are an F1 of 0.92: what is given no other label is missed, and nothing else.
    assert result.tuned.interval().low < (1.7 / 1.85 if name == "macroF1" else 0.85)
    assert result.base.interval().high > 0.15
    assert result.gain.interval().low < 0.8


@pytest.mark.parametrize("name", BOUNDED)
def test_one_cluster_of_many_rows_proves_nothing(name: str) -> None:
    result = compared(name, said(*["no"] * 40), said(*["yes"] * 40), [np.arange(40)])
    assert result.tuned.interval().low < 0.1
    assert result.gain.interval().low < 0


@pytest.mark.parametrize("name", [*BOUNDED, "loss", "perplexity"])
def test_a_model_is_not_better_than_itself(name: str) -> None:
    answers = said(*["yes", "no", "yes"] * 10)
    gain = compared(name, answers, answers).gain.interval()
    assert gain.value == 0
    assert gain.low <= 0 <= gain.high
    if name in BOUNDED:
        assert gain.low < -0.05


def test_losses_are_compared_row_by_row() -> None:
    answers = said(*["yes"] * 40)
    better = said(*["yes"] * 40, loss=0.9)
    gain = compared("loss", answers, better).gain.interval()
    assert gain.value == pytest.approx(-0.1)
    assert (gain.low, gain.high) == pytest.approx((-0.1, -0.1))
    one = compared("loss", answers, better, [np.arange(40)]).gain.interval()
    assert (one.low, one.high) == (-np.inf, np.inf)


@pytest.mark.slow
def test_intervals_over_groups_cover_the_truth_where_those_over_rows_do_not() -> None:
    rng = np.random.default_rng(5)
    covered = {"groups": 0, "rows": 0}
    for _ in range(100):
        truth = rng.random(20) < 0.7  # every row of a group is right, or none is
        hits = mean_of(np.repeat(truth, 10).astype(float))
        groups = list(np.arange(200).reshape(20, 10))
        for name, units in (("groups", groups), ("rows", singles(200))):
            found = compare(hits, hits, units, is_bounded=True, num_samples=200, seed=3)
            interval = found.tuned.interval()
            covered[name] += interval.low <= 0.7 <= interval.high
    assert covered["groups"] >= 90
    assert covered["rows"] < 60


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.booleans(), min_size=5, max_size=40), st.sampled_from(["exactMatch", "macroF1"]))
def test_intervals_hold_the_score_and_repeat(hits: list[bool], name: str) -> None:
    answers = said(*["yes" if hit else "no" for hit in hits])
    first, again = (compared(name, answers, answers).tuned.interval() for _ in range(2))
    assert first == again
    assert 0 <= first.low <= first.value <= first.high <= 1
    if name == "exactMatch":
        assert first.value == pytest.approx(sum(hits) / len(hits))


def test_rows_get_the_number_of_their_cluster() -> None:
    groups = [np.array([0, 3]), np.array([2]), np.array([1, 4])]
    assert number_clusters(groups).tolist() == [0, 2, 1, 0, 2]
    rows = np.array([1.0, 0.0])
    assert Measured(rows=rows, over=lambda indices: 0.0).is_mean is False
