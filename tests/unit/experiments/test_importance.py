"""Which settings go with the validation loss, and when nothing is told."""

from __future__ import annotations

import pytest
from scipy.stats import spearmanr

from finetune_trainer.experiments.importance import rank_parameters
from finetune_trainer.experiments.recipe import Parameter

LOSSES = [0.9, 0.8, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3, 0.35, 0.2]


def parameter(name: str, numbers: list[float] | None) -> Parameter:
    values = tuple(map(str, numbers or "ababababab"))
    return Parameter(
        path=f"h.{name}", label=name, values=values, numbers=tuple(numbers) if numbers else None
    )


RATE = parameter("rate", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])
NOISE = parameter("noise", [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0])


def test_what_goes_with_the_loss_stands_first_and_agrees_with_scipy() -> None:
    found, why = rank_parameters([NOISE, RATE], LOSSES, certainty=0.95)
    assert why == ""
    assert [each.parameter.label for each in found] == ["rate", "noise"]
    for each in found:
        assert each.parameter.numbers is not None
        expected = spearmanr(each.parameter.numbers, LOSSES).statistic
        assert each.correlation.value == pytest.approx(expected)
        assert each.correlation.low <= expected <= each.correlation.high
    assert [each.is_shown for each in found] == [True, False]


@pytest.mark.parametrize(
    ("parameters", "losses", "why"),
    [
        ([RATE], [*LOSSES[:7], None, None, None], "7 runs have a validation loss"),
        ([RATE], [None] * 10, "0 runs have a validation loss"),
        ([parameter("scheduler", None)], LOSSES, "no setting with a number differs"),
        ([], LOSSES, "no setting with a number differs"),
    ],
)
def test_too_little_is_refused_with_the_reason(
    parameters: list[Parameter], losses: list[float | None], why: str
) -> None:
    found, said = rank_parameters(parameters, losses, certainty=0.95)
    assert found == []
    assert why in said


def test_a_flat_loss_shows_nothing() -> None:
    (found,), _ = rank_parameters([RATE], [0.5] * 10, certainty=0.95)
    assert (found.correlation.low, found.correlation.high) == (-1.0, 1.0)
    assert not found.is_shown
