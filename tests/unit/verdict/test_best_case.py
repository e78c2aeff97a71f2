"""What the best of answers show is what the verdict's own bounds of them say."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.evaluate.metrics.labels import macro_f1
from finetune_trainer.evaluate.scores.comparing import compare
from finetune_trainer.statistics.paired import compare_means
from finetune_trainer.verdict.best_case import best_bound, count_least
from finetune_trainer.verdict.hypotheses import Hypothesis


def asked(metric: str, field: str, bound: float) -> Hypothesis:
    return Hypothesis(metric=metric, field=field, bound=str(bound), certainty="0.95")


def test_the_greatest_gain_has_the_bound_that_pairs_give() -> None:
    gain = asked("contains", "overBase", 0.8)
    found = compare_means(np.zeros(30), np.ones(30), np.arange(30)).gain.interval()
    assert found.low == pytest.approx(best_bound(gain, 30, 0.95), abs=0.01)
    number = count_least(gain, 0.95)
    assert number is not None
    assert best_bound(gain, number, 0.95) >= 0.8 > best_bound(gain, number - 1, 0.95)


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_no_answers_show_in_macro_f1_what_is_refused(threshold: float) -> None:
    level = asked("macroF1", "atLeast", threshold)
    number = count_least(level, 0.95)
    assert number == count_least(asked("macroF1", "overBase", threshold), 0.95)
    assert number is not None
    for labels, rows in ((("yes",), number), (("yes",), number - 1), (("yes", "no"), number)):
        truth = [[labels[row % len(labels)]] for row in range(rows)]
        best = macro_f1([label for (label,) in truth], truth)
        groups = [np.array([row]) for row in range(rows)]
        found = compare(best, best, groups, is_bounded=True, num_samples=200, seed=0)
        low, highest = found.tuned.interval().low, best_bound(level, rows, 0.95)
        assert low <= highest + 0.01
        assert len(labels) > 1 or low == pytest.approx(highest, abs=0.01)
