"""What is tried next: the same whenever it is asked, within bounds, no setting twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.meta import DECIMAL_PATTERN
from finetune_operator.finetunesweep.search.space import (
    Choice,
    Int,
    LogUniform,
    Parameter,
    Space,
    Uniform,
    Value,
    key_of,
)
from finetune_operator.finetunesweep.search.suggesting import Method, suggest
from unit.sweeps.spaces import counted_spaces, spaces

RATE = LogUniform("training.learningRate", 1e-5, 1e-3)
RANKS = Int("method.lora.rank", 4, 8)
NAMES = Choice("model", ("a", "b", 1, True, "1"))


def values_of(
    parameters: tuple[Parameter, ...], method: Method, count: int
) -> list[dict[str, Value] | None]:
    return [suggest(Space(parameters), method, "uid", number) for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.GRID, Method.RANDOM, Method.HALVING])
@given(space=counted_spaces(), uid=st.text(max_size=8))
def test_a_space_that_can_be_counted_is_listed_once(method: Method, space: Space, uid: str) -> None:
    assert space.size is not None
    found = [suggest(space, method, uid, n) for n in range(space.size)]
    keys = {key_of(values) for values in found if values is not None}
    assert len(keys) == space.size
    assert suggest(space, method, uid, space.size) is None


def test_grid_runs_the_last_parameter_fastest() -> None:
    found = values_of((Choice("x", ("a", "b")), Int("y", 1, 2)), Method.GRID, 5)
    assert [each and tuple(each.values()) for each in found] == [
        ("a", 1), ("a", 2), ("b", 1), ("b", 2), None,
    ]  # fmt: skip


def test_grid_over_a_range_of_decimals_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learningRate: a range of decimals"):
        values_of((RANKS, RATE), Method.GRID, 1)


METHODS = st.sampled_from([Method.RANDOM, Method.HALVING])


@pytest.mark.slow
@given(space=spaces(), method=METHODS, uid=st.text(max_size=8), number=st.integers(0, 24))
def test_values_lie_within_their_bounds(
    space: Space, method: Method, uid: str, number: int
) -> None:
    values = suggest(space, method, uid, number)
    if values is None:
        assert space.size is not None
        assert space.size <= number
        return
    assert list(values) == [parameter.path for parameter in space.parameters]
    for parameter in space.parameters:
        value = values[parameter.path]
        if isinstance(parameter, Choice):
            assert key_of(value) in map(key_of, parameter.values)
        else:
            assert parameter.low <= float(value) <= parameter.high


def test_decimals_are_texts_that_the_api_takes() -> None:
    tiny = LogUniform("x", 1e-9, 1.0)
    found = values_of((RATE, tiny, Uniform("y", 0.0, 0.3)), Method.RANDOM, 200)
    for values in found:
        assert values is not None
        for value in values.values():
            assert re.fullmatch(DECIMAL_PATTERN, str(value)), value


@pytest.mark.parametrize(
    "narrow",
    [Uniform("x", 1000.01, 1000.02), LogUniform("x", 1e-4, 1.001e-4), Uniform("x", -0.5, -0.4999)],
)
def test_a_narrow_range_has_many_values(narrow: Parameter) -> None:
    found = {str(values) for values in values_of((narrow,), Method.RANDOM, 50)}
    assert len(found) > 40


def test_orders_of_magnitude_are_equally_likely() -> None:
    found = values_of((RATE,), Method.RANDOM, 1000)
    low = sum(float(values["training.learningRate"]) < 1e-4 for values in found if values)
    assert 450 < low < 550


def test_sweeps_differ_and_trials_differ() -> None:
    space = Space((RATE, NAMES))
    found = {key_of(suggest(space, Method.RANDOM, uid, n) or {}) for uid in "ab" for n in range(20)}
    assert len(found) == 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("x", ()), "x: no values"),
        (lambda: Choice("x", (1, 2, 1)), "x: 1 is listed twice"),
        (lambda: Int("x", 3, 3), "x: min is 3 and max 3"),
        (lambda: Uniform("x", 0.0, float("inf")), "x: from 0.0 to inf"),
        (lambda: LogUniform("x", 0.0, 1.0), "x: min is 0.0; a logarithm"),
        (lambda: Space(()), "no parameters"),
        (lambda: Space((RANKS, RANKS)), "rank: two parameters have this path"),
    ],
)
def test_what_is_no_space_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
