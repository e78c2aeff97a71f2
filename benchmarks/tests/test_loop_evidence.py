"""What `make loop-evidence` measures, on few simulations: rates hold, and changes are found."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from benchmarks.loop_evidence import alarms, degrading, looking, quality, sealing

pytestmark = pytest.mark.slow


def test_no_alarm_rings_where_nothing_changes_and_twenty_users_are_not_compared() -> None:
    small, *lines = alarms.quiet_years(1)
    assert (small.num_users, small.compared) == (20, 0)
    assert {line.compared for line in lines} == {1}
    # One a year is stated, over all lines together.
    assert sum(line.rang for line in lines) <= 2


def test_planted_changes_are_found_and_end_and_small_ones_of_few_users_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alarms, "SIZES", (100, 1000))
    lines = {(line.words, line.num_users): line for line in alarms.delays(2)}
    for words in alarms.CHANGES:
        assert lines[words, 100].smallest > lines[words, 1000].smallest
    half = lines["refusals from 1 to 50 %", 100]
    assert (half.found, lines["refusals from 1 to 5 %", 100].found) == (1, 0)
    assert half.ended is not None
    assert 0 < half.median < half.ended <= 7
    for (words, _), line in lines.items():
        if words.endswith("just the smallest"):
            assert line.found == 1, words


def test_the_interval_of_live_quality_holds_the_truth() -> None:
    for line in quality.coverages(100):
        assert line.held >= 0.89, line.words  # 95 %, less what 100 tries vary
        assert line.high_wrong <= 0.06, line.words


def test_endpoints_hold_their_truth_and_drops_are_found() -> None:
    for line in degrading.coverages(50):
        assert line.held >= 0.84, line  # 95 %, less what 50 endpoints vary
        assert line.high_wrong <= 0.1, line
    at_goal, _, above = (year.degraded for year in islice(degrading.years(4), 3))
    assert above <= at_goal
    for drop in degrading.drops(4):
        assert drop.found >= 0.5
        assert 1 < drop.median <= drop.late


def test_sealed_rows_wear_less_than_others_and_pass_no_more_by_luck() -> None:
    lines = {(line.words, line.cycle): line for line in sealing.optimisms(300)}
    sealed, alone, repeated, divided = (lines[arm.words, 10] for arm in sealing.ARMS)
    assert sealed.bias + 2 * sealed.error < alone.bias < repeated.bias < divided.bias
    assert sealed.refused < min(alone.refused, repeated.refused, divided.refused)
    for each in sealing.passed(1000):
        assert each.by_luck <= 0.025 + 0.01, each.num_cycles  # 1,000 loops vary by that
    assert each.by_luck_uncounted > 0.1


def test_a_look_in_its_own_process_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, header, line in (
        ("banking77/train.csv", "text,category", "where is my card?,card_arrival"),
        ("e2e/devset.csv", "mr,ref", "name[Alimentum],Alimentum is a place."),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{header}\n{line}\n")
    monkeypatch.setattr(looking, "DATA", tmp_path)
    cost = next(looking.costs(0.003, tmp_path))
    assert cost.num_answers == 300
    assert 0 < cost.cpu_seconds < cost.seconds * 64
    assert 30 < cost.peak_mib < 1024
