"""What `make evidence` measures, on few simulations: intervals hold, and equals are not better."""

from __future__ import annotations

from random import Random

import pytest
from benchmarks.evidence import (
    constants,
    copies,
    coverage,
    families,
    groups,
    jobs,
    leaks,
    looks,
    rare,
    verdicts,
)

pytestmark = pytest.mark.slow


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


def test_many_retrainings_are_published_by_luck_unless_looks_are_corrected() -> None:
    cases = list(looks.published_once(2000))
    for candidates in ("drawn alone", "drawn alone, one row changed each time"):
        found = {case.num_looks: case for case in cases if case.candidates == candidates}
        assert found[1].reported <= 0.03
        assert found[20].reported >= 0.2
        assert max(case.corrected for case in found.values()) <= 0.03


def test_bounds_hold_where_groups_have_unequal_sizes_and_would_not_by_rows() -> None:
    lines = list(groups.unequal_groups(60))
    assert max(max(line.tuned_wrong, line.gain_wrong) for line in lines) <= 0.1  # 6 of 60
    assert max(line.by_rows_wrong for line in lines) >= 0.2


def test_rare_losses_leave_a_bootstrap_wrong_and_the_bounds_right() -> None:
    lines = list(rare.rare_losses(40))
    assert any(
        line.resampled is None for line in lines
    )  # a loss has no limits, and no other bounds
    held = [line for line in lines if line.resampled]
    assert max(line.found.low_wrong for line in held) <= 0.125  # 2.5 % of 40 are 1
    assert max(line.resampled.low_wrong for line in held if line.resampled) >= 0.25


def test_bounds_of_macro_f1_hold_where_labels_are_rare() -> None:
    for line in rare.labels(30):
        ends = [line.tuned.low_wrong, line.tuned.high_wrong, line.gain.low_wrong]
        assert max(ends) <= 0.2, line.words


def test_many_gates_are_met_by_luck_no_more_often_than_one() -> None:
    lines = list(families.wrongly_met(40))
    assert all(line.corrected <= min(line.alone, 0.125) for line in lines)


def test_alarms_ring_where_harm_is_large_and_nowhere_else() -> None:
    none, *harmed = families.rung_alarms(60)
    assert none.any_rings <= 0.2
    rings = {line.words: line.its_rings for line in harmed}
    assert rings["forgetting.bitsPerByte +30%"] == 1.0
    assert (rings["forgetting.instructions -40%"] or 0.0) >= 0.75


def test_secrets_that_were_not_learned_are_hardly_ever_told() -> None:
    lines = list(families.exposed_secrets(100))
    assert all(line.by_secret <= 0.004 for line in lines[:3])
    assert lines[3].by_secret > 0.3


def test_jobs_that_prove_nothing_are_not_published_and_are_told_what_would_be_enough() -> None:
    told = {job.job: job for job in jobs.tell_all()}
    published = {name for name, job in told.items() if job.is_published}
    assert published == {"the same, goal 0.80"}
    for words in (
        "three rows, all answered ok",
        "the same, with minPrompts: 1",
        "60 rows, all answered ok",
        "1 % fraud, never found",
        "60 rows with one prompt",
        "30 rows, goal 0.95",
    ):
        assert told[words].stage == "prepare", words
    assert "0 of 60 held-out rows have another label" in told["60 rows, all answered ok"].words
    assert "36 are the least" in told["the same, with minPrompts: 1"].words
    assert "5 of 500 held-out rows have another label" in told["1 % fraud, never found"].words
    assert "over always giving the most frequent label" in told["2 % fraud, never found"].words
    assert "held-out prompts more" in told["60 rows of two labels, 57 right"].words


@pytest.mark.slow
def test_no_constant_answer_meets_a_goal_and_a_good_model_does() -> None:
    found = list(constants.met_shares(3))
    assert not any(met for case, met in found if case.foreseen is None)
    assert any(met for case, met in found if case.foreseen is not None)


@pytest.mark.slow
def test_no_copy_and_no_constant_meets_a_goal_and_a_good_model_meets_all() -> None:
    for task in (copies._prices, copies._labels):
        *others, model = copies.judge_task(task(Random(1)), Random(2))
        assert not any(told.met for told in others)
        assert model.met == model.goals


@pytest.mark.slow
def test_leaks_publish_by_luck_what_looks_alone_do_not() -> None:
    last = {line.share: line for line in leaks.published_by_leaks(2000) if line.num_cycles == 10}
    assert last[0.0].published <= 0.03
    assert last[1.0].published >= 0.05
    assert last[0.0].optimism == pytest.approx(0, abs=1e-9)
    assert last[1.0].optimism >= 0.05
