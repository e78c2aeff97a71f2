"""What `make evidence` measures, on few simulations: intervals hold, and equals are not better."""

from __future__ import annotations

import pytest

from evidence import coverage, verdicts


@pytest.mark.parametrize("measured", [coverage.shares, coverage.gains], ids=["shares", "gains"])
def test_intervals_hold_the_truth(measured) -> None:
    cases = list(measured(60))
    assert all(case.coverage.held >= 0.90 for case in cases)  # 95 %, less what 60 tries vary
    assert sum(case.coverage.held for case in cases) / len(cases) >= 0.95
    alone = [case for case in cases if case.pattern == "rows alone"]
    assert all(case.coverage.low_wrong <= 0.07 for case in alone)


def test_no_interval_over_50_rows_at_a_rate_of_2_percent_covers_93_to_97() -> None:
    below, above = coverage.reachable(50, 0.02)
    assert below == pytest.approx(0.9216, abs=1e-3)
    assert above == pytest.approx(0.9822, abs=1e-3)


def test_a_model_equal_to_its_base_is_seldom_called_better() -> None:
    found = [share for _, _, _, share in verdicts.false_verdicts(40)]
    assert sum(found) / len(found) <= verdicts.LEVEL
    assert max(found) <= 0.15
