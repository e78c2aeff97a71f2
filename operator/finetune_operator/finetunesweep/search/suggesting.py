"""The values of the next trial.

They depend only on the sweep's UID and the trial's number. No method suggests a setting of a
countable space twice; a sweep of it ends when every setting was tried.
"""

from __future__ import annotations

from enum import StrEnum

from finetune_operator.finetunesweep.search.draws import shuffled, uniforms
from finetune_operator.finetunesweep.search.space import Choice, Parameter, Space, Value


class Method(StrEnum):
    """How values are chosen."""

    GRID = "Grid"
    """Every setting once, in order, the last parameter running fastest."""
    RANDOM = "Random"
    """Each trial without regard to the others."""
    HALVING = "Halving"
    """As ``Random``; meant for many trials of which rungs stop most."""


def suggest(space: Space, method: Method, uid: str, number: int) -> dict[str, Value] | None:
    """Return the values of a trial.

    Args:
        space: The parameters.
        method: The method.
        uid: UID of the sweep.
        number: The trial, counted from 0.

    Returns:
        A value for each path; None where every setting of the space was suggested before.

    Raises:
        ValueError: Grid over a range of decimals.
    """
    size = space.size
    if size is not None and number >= size:
        return None
    if method is Method.GRID:
        return space.assignment_at(number)
    if size is not None:
        return space.assignment_at(shuffled(uid, number, size))
    draws = uniforms(uid, number, "random")
    return {each.path: _value_at(each, next(draws)) for each in space.parameters}


def _value_at(parameter: Parameter, unit: float) -> Value:
    if isinstance(parameter, Choice):
        return parameter.values[int(unit * parameter.size)]
    return parameter.from_unit(unit)
