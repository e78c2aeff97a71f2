"""Halving, simulated: the same trials go on, and few steps are trained."""

from __future__ import annotations

import numpy as np
from benchmarks.sweep_evidence.stopping import run_halving
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.finetunesweep.search.halving import Halving
from finetune_operator.finetunesweep.search.trials import Point, TrialState


@settings(max_examples=100, deadline=None)
@given(
    losses=st.lists(st.lists(st.floats(0, 9), min_size=18, max_size=18), min_size=1, max_size=12),
    parallelism=st.integers(1, 12),
    reduction=st.integers(2, 4),
    seed=st.integers(0, 2**32),
)
def test_the_same_trials_go_on_in_whatever_order_they_came(
    losses: list[list[float]], parallelism: int, reduction: int, seed: int
) -> None:
    rule = Halving(min_steps=20, reduction=reduction)
    curves = [tuple(Point(10 * (n + 1), loss) for n, loss in enumerate(each)) for each in losses]
    ended = run_halving(rule, curves, parallelism, np.random.default_rng(seed))
    left, rung, num_kept = list(range(len(curves))), 20, len(curves)
    while rung <= 180:
        num_kept = max(1, num_kept // reduction)
        left.sort(key=lambda n: (next(p.loss for p in curves[n] if p.step >= rung), n))
        left = left[:num_kept]
        for number in set(range(len(curves))) - set(left):
            assert ended[number].state is TrialState.PRUNED
        rung *= reduction
    assert {t.number for t in ended if t.state is TrialState.COMPLETE} == set(left)


def test_eight_trials_in_thirds_train_a_quarter_of_their_steps() -> None:
    curves = [tuple(Point(10 * (n + 1), 9 - n / 9 + t) for n in range(18)) for t in range(8)]
    ended = run_halving(Halving(min_steps=20, reduction=3), curves, 2, np.random.default_rng(1))
    trained = sum(t.curve[-1].step for t in ended)
    assert trained == 8 * 20 + 2 * 40 + 120
    assert trained / (8 * 180) == 0.25
