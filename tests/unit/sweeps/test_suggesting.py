"""What is tried next: the same whenever it is asked, within bounds, no setting twice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
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
from finetune_operator.finetunesweep.search.suggesting import Method, Search, suggest
from finetune_operator.finetunesweep.search.trials import Point, Trial, TrialState
from unit.sweeps.spaces import counted_spaces, histories, spaces

RATE = LogUniform("training.learningRate", 1e-5, 1e-3)
RANKS = Int("method.lora.rank", 4, 8)
NAMES = Choice("model", ("a", "b", 1, True, "1"))


def values_of(
    parameters: tuple[Parameter, ...], method: Method, count: int
) -> list[dict[str, Value] | None]:
    space, search = Space(parameters), Search(method=method)
    return [suggest(space, search, "uid", number, ()) for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("method", [Method.GRID, Method.RANDOM, Method.HALVING])
@given(space=counted_spaces(), uid=st.text(max_size=8))
def test_a_space_that_can_be_counted_is_listed_once(method: Method, space: Space, uid: str) -> None:
    assert space.size is not None
    found = [suggest(space, Search(method=method), uid, n, ()) for n in range(space.size)]
    keys = {key_of(values) for values in found if values is not None}
    assert len(keys) == space.size
    assert suggest(space, Search(method=method), uid, space.size, ()) is None


def test_grid_runs_the_last_parameter_fastest() -> None:
    found = values_of((Choice("x", ("a", "b")), Int("y", 1, 2)), Method.GRID, 5)
    assert [each and tuple(each.values()) for each in found] == [
        ("a", 1), ("a", 2), ("b", 1), ("b", 2), None,
    ]  # fmt: skip


def test_grid_over_a_range_of_decimals_is_refused() -> None:
    with pytest.raises(ValueError, match=r"learningRate: a range of decimals"):
        values_of((RANKS, RATE), Method.GRID, 1)


METHODS = st.sampled_from([Method.RANDOM, Method.HALVING, Method.TPE])


@pytest.mark.slow
@given(data=st.data(), space=spaces(), method=METHODS, uid=st.text(max_size=8))
def test_values_lie_within_their_bounds(data, space: Space, method: Method, uid: str) -> None:
    trials = data.draw(histories(space))
    search = Search(method=method, num_startup=2)
    values = suggest(space, search, uid, len(trials), trials)
    if values is None:
        assert space.size is not None
        assert space.size <= len(trials)
        return
    assert list(values) == [parameter.path for parameter in space.parameters]
    for parameter in space.parameters:
        value = values[parameter.path]
        if isinstance(parameter, Choice):
            assert parameter.index_of(value) is not None
        else:
            assert parameter.low <= float(value) <= parameter.high
            assert parameter.to_unit(value) is not None


@pytest.mark.slow
@given(data=st.data(), space=spaces(), method=METHODS, uid=st.text(max_size=8))
def test_the_order_of_the_trials_does_not_matter(
    data, space: Space, method: Method, uid: str
) -> None:
    trials = data.draw(histories(space))
    other = data.draw(st.permutations(trials))
    search = Search(method=method, num_startup=2)
    found = suggest(space, search, uid, len(trials), trials)
    assert suggest(space, search, uid, len(trials), other) == found
    assert suggest(space, search, uid, len(trials), iter(trials)) == found


@pytest.mark.slow
@settings(max_examples=30)
@given(data=st.data(), space=counted_spaces(), uid=st.text(max_size=8))
def test_tpe_tries_no_setting_twice(data, space: Space, uid: str) -> None:
    trials: list[Trial] = []
    assert space.size is not None
    search = Search(method=Method.TPE, num_startup=2)
    for number in range(min(space.size, 12) + 1):
        values = suggest(space, search, uid, number, trials)
        if values is None:
            assert number == space.size
            return
        score = data.draw(st.floats(allow_nan=True))
        state = data.draw(st.sampled_from(TrialState))
        trials.append(Trial(number=number, assignment=values, state=state, score=score))
    assert len({key_of(trial.assignment) for trial in trials}) == len(trials)


def test_tpe_goes_where_trials_were_good() -> None:
    space, search = Space((RATE, NAMES)), Search(method=Method.TPE)
    trials: list[Trial] = []
    for number in range(60):
        values = suggest(space, search, "uid", number, trials)
        assert values is not None
        rate, name = float(values[RATE.path]), values[NAMES.path]
        score = abs(rate - 3e-4) / 3e-4 + (name != "b")
        trials.append(
            Trial(number=number, assignment=values, state=TrialState.COMPLETE, score=score)
        )
    late = [trial.score or 0.0 for trial in trials[30:]]
    early = [trial.score or 0.0 for trial in trials[:10]]
    assert sum(late) / 30 < 0.5 * sum(early) / 10


@pytest.mark.parametrize(
    ("state", "score"),
    [
        (TrialState.FAILED, None),
        (TrialState.FAILED, 0.0),
        (TrialState.COMPLETE, float("nan")),
        (TrialState.COMPLETE, float("inf")),
        (TrialState.RUNNING, 0.0),
        (TrialState.PRUNED, 0.9),
    ],
)
def test_tpe_stays_away_from_what_failed_or_runs(state: TrialState, score: float | None) -> None:
    space, search = Space((Uniform("x", 0.0, 1.0),)), Search(method=Method.TPE)
    curve = (Point(10, score),) if score is not None else ()
    trials = [
        Trial(
            number=n,
            assignment={"x": str(n / 20)},
            state=state if n < 10 else TrialState.COMPLETE,
            score=score if n < 10 else 1.0,
            curve=curve if n < 10 else (),
        )
        for n in range(21)
    ]
    found = [suggest(space, search, f"{uid}", 21, trials) for uid in range(40)]
    assert sum(float(each["x"]) > 0.5 for each in found if each) > 24


@pytest.mark.parametrize("value", [None, "a word", "nan", 1e9, True, [1], "2e-4"])
def test_tpe_reads_values_that_people_wrote(value) -> None:
    space, search = Space((RATE, NAMES)), Search(method=Method.TPE, num_startup=1)
    odd = {RATE.path: value, NAMES.path: value} if value is not None else {}
    trial = Trial(number=0, assignment=odd, state=TrialState.COMPLETE, score=1.0)
    found = suggest(space, search, "uid", 1, [trial])
    assert found is not None
    assert RATE.low <= float(found[RATE.path]) <= RATE.high


def test_replicates_are_no_results_of_their_own() -> None:
    space, search = Space((RATE,)), Search(method=Method.TPE, num_startup=3)
    first = {RATE.path: "0.0001"}
    trials = [
        Trial(
            number=n,
            assignment=first,
            state=TrialState.COMPLETE,
            score=1.0,
            replicate_of=0 if n else None,
        )
        for n in range(4)
    ]
    assert suggest(space, search, "uid", 4, trials) == suggest(space, search, "uid", 4, trials[:1])


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
    space, search = Space((RATE, NAMES)), Search(method=Method.RANDOM)
    found = {key_of(suggest(space, search, uid, n, ()) or {}) for uid in "ab" for n in range(20)}
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
