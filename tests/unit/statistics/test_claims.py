"""Claims that stay honest in numbers."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.statistics.claims import correct_for_many, count_ahead


@pytest.mark.parametrize(
    ("doubts", "corrected"),
    # R 4.3, p.adjust(..., method = "holm")
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.2], [0.2]),
        ([0.5, 0.9, 0.001], [1.0, 1.0, 0.003]),
        ([], []),
    ],
)
def test_many_claims_are_corrected(doubts: list[float], corrected: list[float]) -> None:
    assert correct_for_many(doubts) == pytest.approx(corrected)


def test_claims_without_ground_are_seldom_believed_however_many_there_are() -> None:
    rng = np.random.default_rng(7)
    plain = corrected = 0
    for _ in range(1000):
        doubts = rng.random(8).tolist()
        plain += min(doubts) <= 0.05
        corrected += min(correct_for_many(doubts)) <= 0.05
    assert plain > 250
    assert corrected < 75


def test_the_doubt_that_the_others_leave_a_claim_is_what_holm_lets_it_have() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        others = (rng.random(int(rng.integers(0, 8))) ** 3).tolist()
        left = 0.05 / (len(others) + 1 - count_ahead(others, 0.05))
        for doubt, is_held in ((left * 0.999, True), (left * 1.001, False)):
            assert (correct_for_many([doubt, *others])[0] <= 0.05) is is_held
