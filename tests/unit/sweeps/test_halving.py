"""Who waits, ends and goes on at a rung: all are compared there, whoever came first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.finetunesweep.search.halving import Halving, Verdict, judge_rungs
from finetune_operator.finetunesweep.search.trials import Point, Trial, TrialState

RULE = Halving(min_steps=10, reduction=2)
RUNNING, COMPLETE = TrialState.RUNNING, TrialState.COMPLETE
NAN = float("nan")


def trial(number: int, *losses: float, state: TrialState = RUNNING) -> Trial:
    curve = tuple(Point(10 * (n + 1), loss) for n, loss in enumerate(losses))
    return Trial(number=number, assignment={}, state=state, curve=curve)


@pytest.mark.parametrize(
    ("what", "trials", "num_trials", "expected"),
    [
        ("nobody has come", [trial(0), trial(1)], 2, {}),
        ("the first waits", [trial(0, 1), trial(1)], 2, {"waiting": {0}, "rung": 10}),
        ("the worst end", [trial(n, n) for n in range(4)], 4, {"ending": {2, 3}}),
        ("the rest of them end", [trial(n, n) for n in range(3)], 4, {"ending": {2}}),
        ("those that are left go on", [trial(0, 1), trial(1, 2)], 4, {}),
        ("the next rung", [trial(0, 1, 1), trial(1, 2)], 4, {"waiting": {0}, "rung": 20}),
        ("the better of two goes on", [trial(0, 1, 1), trial(1, 2, 0)], 4, {"ending": {0}}),
        ("the last one never waits", [trial(0, 1, 1, 1, 1)], 4, {}),
        ("of equals the earlier goes on", [trial(0, 1), trial(1, 1)], 2, {"ending": {1}}),
        ("NaN ends at once", [trial(0, 1), trial(1, NAN), trial(2)], 3, {"ending": {1}}),
        ("one that failed is out",
         [trial(0, 1), trial(1, 2), trial(2, state=TrialState.FAILED)], 3, {"ending": {1}}),
        ("one trained to its end is compared",
         [trial(0, 1), trial(1, 2, state=COMPLETE), trial(2, 3), trial(3, 0)], 4,
         {"ending": {1, 2}}),
        ("one trained to its end does not wait", [trial(0, 1, state=COMPLETE), trial(1)], 2, {}),
    ],
)  # fmt: skip
def test_verdicts(what: str, trials: list[Trial], num_trials: int, expected: Any) -> None:
    found = judge_rungs(RULE, trials, num_trials=num_trials, is_complete=True)
    assert found == Verdict(**expected)


def test_rungs_before_the_same_measurement_are_one_and_halve_once() -> None:
    coarse = [replace(trial(n), curve=(Point(300, n),)) for n in range(9)]
    rule = Halving(min_steps=50, reduction=3)
    ending = judge_rungs(rule, coarse, num_trials=9, is_complete=True).ending
    assert ending == set(range(3, 9))
    left = [t for t in coarse if t.number not in ending]
    assert judge_rungs(rule, left, num_trials=9, is_complete=True) == Verdict()


def test_one_whose_curve_is_thinned_is_compared_at_the_same_step() -> None:
    long = replace(trial(0, state=COMPLETE), curve=(Point(10, 9), Point(170, 1)))
    fresh = trial(1, 8, 7, 6, 5, 4)
    rule = Halving(min_steps=50, reduction=2)
    assert judge_rungs(rule, [long, fresh], num_trials=2, is_complete=True).ending == {0}


def test_whoever_comes_before_all_are_created_waits() -> None:
    found = judge_rungs(RULE, [trial(0, 1), trial(1)], num_trials=2, is_complete=False)
    assert found == Verdict(waiting=frozenset({0}), rung=10)


@pytest.mark.parametrize(("steps", "reduction"), [(0, 2), (10, 1)])
def test_rules_that_make_no_sense_are_refused(steps: int, reduction: int) -> None:
    with pytest.raises(ValueError, match="is to be at least"):
        Halving(min_steps=steps, reduction=reduction)
