"""What a sweep reports of its winner, and what stopping early saves, on simulated sweeps."""

from __future__ import annotations

import pytest
from benchmarks.sweep_evidence.optimism import WAYS, optimism
from benchmarks.sweep_evidence.stopping import savings

pytestmark = pytest.mark.slow


def test_the_score_of_a_winner_is_not_its_luck() -> None:
    found = {line.way: line for line in optimism(3000)}
    test_once, best_of_three, on_test, validation, mean, replicates = (found[way] for way in WAYS)
    for honest in (test_once, replicates):
        assert abs(honest.mean) < 2 * honest.half_width
    for flattering in (best_of_three, on_test, validation, mean):
        assert flattering.mean > 0.01


def test_stopping_early_saves_and_seldom_costs() -> None:
    for line in savings(8):
        assert line.share_trained < 0.95, line
        assert line.loss_lost < line.spread / 2, line
