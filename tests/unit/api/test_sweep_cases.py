"""The models judge FineTuneSweeps as the table says; the API server is held to the same table."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.messages.messages import explain
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from kit.cases.spec_cases import changed
from kit.cases.sweep_cases import SWEEP_CASES, SweepCase, minimal_sweep


@pytest.mark.parametrize("case", SWEEP_CASES, ids=lambda case: case.name)
def test_a_sweep_is_judged(case: SweepCase) -> None:
    if case.expected is None:
        FineTuneSweep.from_wire(case.body)
        return
    with pytest.raises(ValidationError) as refused:
        FineTuneSweep.from_wire(case.body)
    assert case.expected in str(refused.value)


@pytest.mark.parametrize(
    ("change", "num_trials"),
    [
        ({}, 2),
        ({"spec.trials": 1}, 1),
        ({"spec.search": "Grid", "spec.parameters.0.values": ["1", "2", "3"]}, 3),
        ({"spec.budget": {"trials": 1}}, 1),
        ({"spec.parameters": [{"path": "hyperparameters.epochs",
                               "uniform": {"min": "1", "max": "3"}}]}, 8),
        ({"spec.search": "Grid", "spec.parameters": [
            {"path": "hyperparameters.seed", "int": {"min": 1, "max": 1000}}]}, 100),
    ],
)  # fmt: skip
def test_no_more_is_tried_than_there_is(change: dict[str, object], num_trials: int) -> None:
    sweep = FineTuneSweep.from_wire(changed(minimal_sweep(), change))
    assert sweep.spec.num_trials == num_trials


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("spec.search", "TPE", "TPE was removed: write Random, or Halving"),
        ("spec.lateTrials", {"after": 4, "priorityClassName": "low"}, "change priorityClassName"),
    ],
)
def test_what_was_removed_is_told_with_what_to_use(path: str, value: object, remedy: str) -> None:
    body = changed(minimal_sweep(), {path: value})
    with pytest.raises(ValidationError) as refused:
        FineTuneSweep.from_wire(body)
    (problem,) = explain(refused.value, body, kind="FineTuneSweep")
    assert problem.path == path
    assert remedy in problem.message
