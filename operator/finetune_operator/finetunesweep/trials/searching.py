"""Which trial comes next in the search of the spec."""

from __future__ import annotations

from collections.abc import Iterator

from finetune_api.v1alpha1.finetunesweep import FineTuneSweepSpec
from finetune_api.v1alpha1.spec.sweep_parameters import Parameter, value_for
from finetune_operator.finetunesweep.search import space as spaces
from finetune_operator.finetunesweep.search.space import Space, Value
from finetune_operator.finetunesweep.search.suggesting import Method, suggest


def space_of(spec: FineTuneSweepSpec) -> Space:
    """Return the space that a sweep's parameters span.

    Raises:
        ValueError: A parameter has no values, or the same twice.
    """
    return Space(tuple(_dimension_of(parameter) for parameter in spec.parameters))


def values_of(spec: FineTuneSweepSpec, uid: str, number: int) -> dict[str, Value] | None:
    """Return the values of a trial; None where every setting was suggested before.

    Args:
        spec: The sweep.
        uid: Its UID.
        number: The trial, counted from 1.
    """
    found = suggest(space_of(spec), Method(spec.search), uid, number - 1)
    return found and {path: value_for(path, value) for path, value in found.items()}


def samples_of(spec: FineTuneSweepSpec, uid: str) -> Iterator[tuple[int, dict[str, Value]]]:
    """Yield settings that show whether the template's schema accepts every trial.

    These are the first settings of the search, by trial number, and the ends of every range.
    """
    first: dict[str, Value] | None = None
    for number in range(1, spec.num_trials + 1):
        values = values_of(spec, uid, number)
        if values is None:
            break
        first = first or values
        yield number, values
    for parameter in spec.parameters:
        for value in _ends_of(parameter):
            yield 0, {**(first or {}), parameter.path: value_for(parameter.path, value)}


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
