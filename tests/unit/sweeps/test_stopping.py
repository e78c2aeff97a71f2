"""Who is stopped early: the worse before the better, and nobody without others to compare with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.finetunesweep.search.stopping import (
    Asha,
    Median,
    Rule,
    rungs,
    should_prune,
)
from finetune_operator.finetunesweep.search.trials import Curve, Point, Trial, TrialState

ASHA = Asha(min_steps=10, reduction=3)
MEDIAN = Median(min_steps=10, min_trials=3)
NAN, INF = float("nan"), float("inf")
LOSSES = st.floats(0, 5, allow_nan=False)


def curve_of(*losses: float, interval: int = 10) -> Curve:
    return tuple(Point(interval * (n + 1), loss) for n, loss in enumerate(losses))


def trial_of(*losses: float, state: TrialState = TrialState.COMPLETE) -> Trial:
    return Trial(number=0, assignment={}, state=state, curve=curve_of(*losses))


def running(*losses: float) -> Trial:
    return trial_of(*losses, state=TrialState.RUNNING)


@pytest.mark.parametrize(
    ("rule", "num_steps", "steps"),
    [
        (Asha(min_steps=10, reduction=3), 100, (10, 30, 90)),
        (Asha(min_steps=10, reduction=3), 9, ()),
        (Asha(min_steps=1, reduction=2), 8, (1, 2, 4, 8)),
    ],
)
def test_rungs(rule: Asha, num_steps: int, steps: tuple[int, ...]) -> None:
    assert rungs(rule, num_steps) == steps


@pytest.mark.parametrize("rule", [ASHA, Median(min_steps=10, min_trials=1)])
def test_nobody_is_stopped_for_the_points_that_a_long_curve_leaves_out(rule: Rule) -> None:
    """The status keeps every 16th of 400 measurements; the loss at step 30 is not among them."""
    long = replace(trial_of(), curve=(Point(10, 9), Point(170, 1), Point(330, 0.5)))
    fresh = running(8, 7, 6)
    assert not should_prune(rule, fresh, [long], judged_step=10)


@pytest.mark.parametrize(
    ("what", "trial", "others", "is_pruned"),
    [
        ("the first goes on", running(5), [], False),
        ("the better of two goes on", running(1), [trial_of(2)], False),
        ("the worse of two does not", running(2), [trial_of(1)], True),
        ("equal to the best goes on", running(1), [trial_of(1)], False),
        ("second of five does not", running(2), [trial_of(n) for n in (1, 3, 4, 5)], True),
        ("second of six goes on", running(2), [trial_of(n) for n in (1, 3, 4, 5, 6)], False),
        ("no rung yet", running(), [trial_of(1)], False),
        ("between rungs", running(1, 9), [trial_of(2, 2)], False),
        ("second rung", running(1, 9, 9), [trial_of(2, 2, 2)], True),
        ("others that are not there yet", running(1, 9, 9), [trial_of(2, 2)], False),
        ("stopped ones count", running(2), [trial_of(1, state=TrialState.PRUNED)], True),
        ("running ones count", running(2), [running(1)], True),
        ("NaN", running(NAN), [], True),
        ("NaN between rungs", running(1, NAN), [], True),
        ("infinite", running(INF), [trial_of(1)], True),
        ("others that diverged", running(2), [trial_of(NAN), trial_of(INF)], False),
    ],
)
def test_rungs_of_asha(what: str, trial: Trial, others: list[Trial], is_pruned: bool) -> None:
    assert should_prune(ASHA, trial, others, judged_step=0 if len(trial.curve) < 2 else 10) is (
        is_pruned
    ), what


def test_a_rung_between_two_losses_is_judged_by_the_later_one() -> None:
    trial = replace(running(), curve=(Point(7, 1.0), Point(14, 3.0)))
    assert should_prune(ASHA, trial, [trial_of(2)], judged_step=7)
    assert not should_prune(ASHA, trial, [trial_of(4)], judged_step=7)


def test_what_was_judged_is_not_judged_again() -> None:
    trial, others = running(2), [trial_of(1)]
    assert should_prune(ASHA, trial, others, judged_step=0)
    assert not should_prune(ASHA, trial, others, judged_step=10)
    later = running(2, 2)
    assert not should_prune(ASHA, later, others, judged_step=10)
    assert should_prune(ASHA, later, others)  # one that has forgotten


@pytest.mark.parametrize(
    ("what", "trial", "others", "is_pruned"),
    [
        ("too few complete", running(9), [trial_of(1)] * 2, False),
        ("stopped ones are not complete", running(9), [trial_of(1)] * 2 + [running(1)], False),
        ("above the median", running(2.5), [trial_of(n) for n in (1, 2, 3)], True),
        ("at the median", running(2), [trial_of(n) for n in (1, 2, 3)], False),
        ("between two in the middle", running(2.4), [trial_of(n) for n in (1, 2, 3, 4)], False),
        ("the best so far counts", running(1, 9), [trial_of(n, n) for n in (1, 2, 3)], False),
        ("nobody came this far", running(9, 9), [trial_of(1)] * 3, False),
        ("NaN", running(1, NAN), [], True),
        ("others that diverged", running(9), [trial_of(NAN)] * 3, False),
        ("a NaN that passed", running(NAN, 2), [trial_of(n, n) for n in (1, 2, 3)], False),
    ],
)
def test_the_median(what: str, trial: Trial, others: list[Trial], is_pruned: bool) -> None:
    assert should_prune(MEDIAN, trial, others) is is_pruned, what


def test_nobody_is_stopped_before_the_first_step_that_counts() -> None:
    others = [trial_of(1, 1, 1)] * 5
    for rule in (Asha(min_steps=30), Median(min_steps=30)):
        assert not should_prune(rule, running(9, 9), others)
        assert should_prune(rule, running(9, 9, 9), others)


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data(), rule=st.sampled_from([ASHA, MEDIAN, Asha(min_steps=5, reduction=2)]))
def test_a_better_curve_is_never_stopped_where_a_worse_one_goes_on(data, rule: Rule) -> None:
    length = data.draw(st.integers(1, 9))
    curves = st.lists(LOSSES, min_size=1, max_size=9)
    states = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING])
    others = [
        trial_of(*losses, state=data.draw(states))
        for losses in data.draw(st.lists(curves, max_size=8))
    ]
    worse = data.draw(st.lists(LOSSES, min_size=length, max_size=length))
    better = [loss - data.draw(st.floats(0, 1)) for loss in worse]
    judged = data.draw(st.sampled_from([0, 10 * (length - 1)]))
    if should_prune(rule, running(*better), others, judged_step=judged):
        assert should_prune(rule, running(*worse), others, judged_step=judged)
    shuffled = data.draw(st.permutations(others))
    found = should_prune(rule, running(*worse), others, judged_step=judged)
    assert should_prune(rule, running(*worse), shuffled, judged_step=judged) is found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Asha(min_steps=0), "min_steps is 0"),
        (lambda: Asha(min_steps=1, reduction=1), "reduction is 1"),
        (lambda: Median(min_steps=0), "min_steps is 0"),
        (lambda: Median(min_steps=1, min_trials=0), "min_trials is 0"),
    ],
)
def test_what_is_no_rule_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
