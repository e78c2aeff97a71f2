"""What the benchmarks of the control plane count, and how they lay it out."""

from __future__ import annotations

import os

import pytest
from benchmarks.control_plane.flood import forge, longest_gap
from benchmarks.control_plane.measure import CpuMeter, usage_of
from benchmarks.control_plane.queued import curve_table


def sample(seconds, **phases):
    return {"seconds": seconds, "phases": phases, "operator_rss_mib": 80 + seconds}


@pytest.mark.parametrize("num_samples", [1, 2, 15, 16, 17, 100, 161])
def test_a_curve_is_laid_out_in_a_few_rows_from_the_first_sample_to_the_last(num_samples):
    curve = [sample(10 * n, Queued=num_samples - n, Succeeded=n) for n in range(num_samples)]
    head, _, *rows = curve_table(curve, num_rows=16)
    assert head == "| seconds | Queued | Succeeded | operator rss mib |"
    assert rows[0].startswith("| 0 |")
    assert rows[-1].startswith(f"| {10 * (num_samples - 1)} |")
    assert len(rows) <= min(num_samples, 17)


def test_phases_that_come_later_have_a_column_from_the_start():
    rows = curve_table([sample(0, New=2), sample(10, Succeeded=2)])
    assert rows[0].startswith("| seconds | New | Succeeded |")
    assert rows[2].startswith("| 0 | 2 | 0 |")
    assert rows[3].startswith("| 10 | 0 | 2 |")


def test_a_meter_counts_from_when_it_was_made():
    meter = CpuMeter({"this": lambda: usage_of(os.getpid())})
    sum(range(10_000_000))
    used = meter.seconds()
    assert list(used)[-2:] == ["idle", "all cores"]
    assert used["this"] == used["benchmark"]
    assert 0 < used["this"] < 60
    assert used["all cores"] >= used["idle"]


def renewal(moment, *, code=200):
    return {
        "verb": "update",
        "objectRef": {"resource": "leases"},
        "responseStatus": {"code": code},
        "stageTimestamp": f"2026-11-26T00:00:{moment:06.3f}Z",
    }


def test_a_renewal_that_was_refused_is_none():
    entries = [renewal(1.0), renewal(3.0), renewal(5.0, code=409), renewal(6.5)]
    assert longest_gap(entries) == pytest.approx(3.5)
    assert longest_gap(entries[:1]) == float("inf")


def test_no_two_forged_tokens_are_the_same():
    token = "e30.e30." + 342 * "x"
    sent = [each for maker in range(3) for each in forge("/p", token, count=50, maker=maker)]
    assert len(set(sent)) == 150
    assert len({len(each) for each in sent}) == 1
