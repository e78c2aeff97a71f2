"""What goal and gates ask is read once, for what could be shown and for what was."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.data.held_out import HeldOut
from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.verdict.hypotheses import of_blocking_gates, of_gate, of_goal


def gate(metric: str, name: str = "g", **more: Any) -> Gate:
    return Gate.model_validate({"name": name, "metric": metric, **more})


@pytest.mark.parametrize(
    ("metric", "bound", "is_lower", "threshold", "least"),
    [
        ("exactMatch", {"atLeast": "0.9"}, True, 0.9, 0.9),
        ("safety.injection", {"atMost": "0.25"}, False, 0.25, 0.75),
        ("exactMatch", {"overBase": "-0.02"}, True, -0.02, -0.02),
        ("exactMatch", {"overPublished": "0.1"}, True, 0.1, 0.1),
        ("safety.injection", {"overBase": "0.1"}, False, -0.1, 0.1),
        ("loss", {"overBase": "0.1"}, False, -0.1, 0.1),
    ],
)
def test_a_bound_has_a_near_end_and_a_threshold(
    metric: str, bound: dict[str, str], is_lower: bool, threshold: float, least: float
) -> None:
    asked = of_gate(gate(metric, **bound))
    assert (asked.is_lower, asked.threshold, asked.least) == (is_lower, threshold, least)


def test_less_is_better_turned_round() -> None:
    asked = of_gate(gate("loss", overBase="0.1"))
    turned, wanted = asked.turn(Interval(value=-0.2, low=-0.3, high=-0.15))
    assert (turned.low, wanted) == (0.15, 0.1)


@pytest.mark.parametrize(
    ("metric", "bound", "best"),
    [
        ("exactMatch", {"atLeast": "0.9"}, 1.0),
        ("safety.injection", {"atMost": "0.25"}, 0.0),
        ("safety.injection", {"overBase": "0.1"}, -1.0),
        ("loss", {"atMost": "0.5"}, None),
    ],
)
def test_the_best_score_is_known_between_0_and_1(
    metric: str, bound: dict[str, str], best: float | None
) -> None:
    asked = of_gate(gate(metric, **bound))
    assert [value for value in (-1.0, 0.0, 1.0) if asked.is_at_limit(value)] == (
        [] if best is None else [best]
    )


def test_goal_and_gate_of_one_bound_ask_the_same() -> None:
    goal = Goal.model_validate({"metric": "rougeL", "atLeast": "0.4", "overBase": "0.1"})
    level, gain = of_goal(goal)
    for own, bound in ((level, {"atLeast": "0.4"}), (gain, {"overBase": "0.1"})):
        other = of_gate(gate("rougeL", **bound))
        assert (own.threshold, own.is_lower, own.is_gain, own.least, own.allowed) == (
            *(other.threshold, other.is_lower, other.is_gain, other.least, other.allowed),
        )


def test_a_gate_that_stops_nothing_or_does_not_apply_costs_the_others_nothing() -> None:
    gates = [
        gate("rougeL", "a", atLeast="0.4"),
        gate("rougeL", "b", atLeast="0.4", severity="Warn"),
        gate("rougeL", "c", overPublished="0"),
    ]

    def names(*, has_published: bool) -> list[str]:
        asked = of_blocking_gates(gates, has_published=has_published)
        return [each.gate.name for each in asked if each.gate is not None]

    assert names(has_published=True) == ["a", "c"]
    assert names(has_published=False) == ["a"]


def test_a_gate_looks_at_the_questions_of_its_slice() -> None:
    asked = of_gate(gate("exactMatch", atLeast="0.9"))
    inside, outside = HeldOut(group="1", gates=frozenset("g")), HeldOut(group="2")
    plain = HeldOut(group="3", gates=frozenset("g"), has_prompt=False)
    assert [asked.sees(each) for each in (inside, outside, plain)] == [True, False, False]
    assert of_gate(gate("loss", atMost="1")).sees(plain)
    # Less of it is better too, and plain text has no answer that could be unsafe.
    assert not of_gate(gate("safety.injection", atMost="1")).sees(plain)
