"""What `make data-quality` prints of personal data holds on a smaller sample."""

from __future__ import annotations

import pytest
from benchmarks.data_quality import measure_privacy


@pytest.mark.slow
def test_planted_values_are_found_and_clean_rows_left() -> None:
    rows = measure_privacy(num_of_kind=24, num_clean=1000)
    planted = [row for row in rows if not row[0].startswith("clean")]
    clean = [row for row in rows if row[0].startswith("clean")]
    assert len(planted) > 45
    assert [row for row in planted if row[2] < 0.95 or row[3] < 0.95] == []
    assert sum(number for _, number, _, _ in clean) == 1000
    assert [row for row in clean if row[2]] == []
