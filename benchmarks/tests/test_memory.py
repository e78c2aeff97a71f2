"""The planner's estimate against tensors counted while the real trainer trains."""

from __future__ import annotations

import pytest
from benchmarks.trainer import answering
from benchmarks.trainer.memory import OVER, UNDER, Case, fast_cases, measure, read_recorded


@pytest.mark.parametrize("case", fast_cases(), ids=lambda case: f"{case.family} {case}")
@pytest.mark.filterwarnings("default")
def test_the_estimated_peak_is_the_measured_one(case: Case) -> None:
    outcome = measure(case)
    assert UNDER <= outcome.ratio <= OVER, (outcome.estimate, outcome.peak)


def test_the_estimate_holds_for_every_peak_that_was_ever_measured() -> None:
    recorded = read_recorded()
    assert len(recorded) >= 108
    wrong = [row for row in recorded if not UNDER <= row.ratio <= OVER]
    assert not wrong


@pytest.mark.parametrize("family", answering.FAMILIES)
@pytest.mark.filterwarnings("default")
def test_the_estimate_of_the_evaluation_is_the_measured_one(family: str) -> None:
    outcome = answering.measure(family)
    assert outcome.cache_ratio == pytest.approx(1, abs=0.01)
    if family not in answering.WITHOUT_KERNELS:
        assert answering.UNDER <= outcome.ratio <= answering.OVER, outcome


# One whose attention is plain, slides, or has no kernel here: answering.py measures all families.
@pytest.mark.parametrize("family", ["llama", "gemma3", "deepseek_v3"])
@pytest.mark.filterwarnings("default")
def test_the_estimate_of_many_rows_that_are_read_in_parts_is_the_measured_one(family: str) -> None:
    peak, estimate = answering.measure_parts(family)
    assert answering.UNDER <= estimate / peak <= answering.OVER, (estimate, peak)
