"""The planner's estimate against tensors counted while the real trainer trains."""

from __future__ import annotations

import pytest
from benchmarks.trainer.memory import OVER, UNDER, Case, fast_cases, measure


@pytest.mark.parametrize("case", fast_cases(), ids=lambda case: f"{case.family} {case}")
@pytest.mark.filterwarnings("default")
def test_the_estimated_peak_is_the_measured_one(case: Case) -> None:
    outcome = measure(case)
    assert UNDER <= outcome.ratio <= OVER, (outcome.estimate, outcome.peak)
