"""Which trial comes next: the search of the spec, asked with what the trials say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from finetune_api.v1alpha1.finetunesweep import FineTuneSweepSpec
from finetune_api.v1alpha1.spec.sweep_parameters import Parameter, value_for
from finetune_operator.finetunesweep.search import space as spaces
from finetune_operator.finetunesweep.search.space import Space, Value
from finetune_operator.finetunesweep.search.suggesting import Method, Search, suggest
from finetune_operator.finetunesweep.trials.trial import Trial


def space_of(spec: FineTuneSweepSpec) -> Space:
    """Return the space that a sweep's parameters span.

    Raises:
        ValueError: A parameter has no values, or the same twice.
    """
    return Space(tuple(_dimension_of(parameter) for parameter in spec.parameters))


def values_of(
    spec: FineTuneSweepSpec, uid: str, number: int, trials: Iterable[Trial] = ()
) -> dict[str, Value] | None:
    """Return the values of a trial; None where every setting was suggested before.

    Args:
        spec: The sweep.
        uid: Its UID.
        number: The trial, counted from 1.
        trials: All others that exist.
    """
    search = Search(method=Method(spec.search))
    others = [trial.for_search() for trial in trials if trial.number != number]
    found = suggest(space_of(spec), search, uid, number - 1, others)
    return found and {path: value_for(path, value) for path, value in found.items()}


def is_in_space(spec: FineTuneSweepSpec, values: Mapping[str, Value]) -> bool:
    """Return whether a sweep's search can suggest such values.

    Raises:
        ValueError: A parameter has no values, or the same twice.
    """
    return all(
        each.path in values and _holds(each, values[each.path])
        for each in space_of(spec).parameters
    )


def _holds(parameter: spaces.Parameter, value: Value) -> bool:
    if isinstance(parameter, spaces.Choice):
        return parameter.index_of(value) is not None
    return parameter.to_unit(value) is not None


def samples_of(spec: FineTuneSweepSpec, uid: str) -> Iterator[tuple[int, dict[str, Value]]]:
    """Yield settings that show whether the template's schema accepts every trial.

    These are the first settings of the search, by trial number, and the ends of every range.
    """
    is_known = spec.search != "TPE"
    first: dict[str, Value] | None = None
    for number in range(1, spec.num_trials + 1):
        values = _drawn(spec, uid, number)
        if values is None:
            break
        first = first or values
        if is_known or number == 1:
            yield number, values
    for parameter in spec.parameters:
        for value in _ends_of(parameter):
            yield 0, {**(first or {}), parameter.path: value_for(parameter.path, value)}


def _drawn(spec: FineTuneSweepSpec, uid: str, number: int) -> dict[str, Value] | None:
    if spec.search == "TPE":
        spec = spec.model_copy(update={"search": "Random"})
    return values_of(spec, uid, number)


def _ends_of(parameter: Parameter) -> tuple[Value, ...]:
    if parameter.values is not None:
        return tuple(parameter.values)
    if parameter.int_range is not None:
        return parameter.int_range.min, parameter.int_range.max
    given = parameter.log_uniform or parameter.uniform
    assert given is not None
    return given.min, given.max


def _dimension_of(parameter: Parameter) -> spaces.Parameter:
    path = parameter.path
    if parameter.values is not None:
        return spaces.Choice(path, tuple(value_for(path, value) for value in parameter.values))
    if parameter.int_range is not None:
        return spaces.Int(path, parameter.int_range.min, parameter.int_range.max)
    if parameter.log_uniform is not None:
        given = parameter.log_uniform
        return spaces.LogUniform(path, float(given.min), float(given.max))
    assert parameter.uniform is not None
    return spaces.Uniform(path, float(parameter.uniform.min), float(parameter.uniform.max))
