"""What `make loop-evidence` measures, on few simulations: rates hold, and changes are found."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
from benchmarks.loop_evidence import alarms, degrading, looking, quality, sealing

pytestmark = pytest.mark.slow
NUM_LOOKS = 200


def test_alarms_are_rare_where_the_monitor_counts_what_it_does_not_know() -> None:
    lines = list(alarms.quiet_years(30, NUM_LOOKS))
    promised = [line for line in lines if not line.words.startswith("beside it")]
    beside = [line for line in lines if line.words.startswith("beside it")]
    assert len(promised) == 4
    for line in promised:
        assert line.per_year <= alarms.FALSE_ALARMS_PER_YEAR + 2 * line.error, line.words
    for line in beside:
        assert line.per_year > 3 * alarms.FALSE_ALARMS_PER_YEAR, line.words


def test_planted_changes_are_found_and_named() -> None:
    lines = {line.words: line for line in alarms.delays(6, sizes=(3000,))}
    assert set(lines) == set(alarms.CHANGES)
    for line in lines.values():
        assert line.found == 1.0, line.words
        assert line.blamed >= 0.8, line.words
        assert 0 < line.median <= line.late < math.inf


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
