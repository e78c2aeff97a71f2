"""The values of the next trial.

They depend only on the sweep's UID, the trial's number and the other trials in any order. No method
suggests a setting of a countable space twice; a sweep of it ends when every setting was tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from finetune_operator.finetunesweep.search.draws import shuffled, uniforms
from finetune_operator.finetunesweep.search.space import Choice, Parameter, Space, Value, key_of
from finetune_operator.finetunesweep.search.tpe import num_results, tpe_setting
from finetune_operator.finetunesweep.search.trials import Trial

NUM_REDRAWS = 8
"""How often TPE may name a setting that was tried before another one is drawn at random."""


class Method(StrEnum):
    """How values are chosen."""

    GRID = "Grid"
    """Every setting once, in order, the last parameter running fastest."""
    RANDOM = "Random"
    """Each trial without regard to the others."""
    HALVING = "Halving"
    """As ``Random``; meant for many trials of which rungs stop most."""
    TPE = "TPE"
    """Where good trials were denser than bad ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """The method that suggests values.

    Attributes:
        num_startup: Trials that TPE draws at random before it reads results: half of Optuna's
            default, so that a sweep of eight trials reads results.
    """

    method: Method
    num_startup: int = 5


def suggest(
    space: Space, search: Search, uid: str, number: int, trials: Iterable[Trial]
) -> dict[str, Value] | None:
    """Return the values of a trial.

    Args:
        space: The parameters.
        search: The method.
        uid: UID of the sweep.
        number: The trial, counted from 0.
        trials: All other trials, replicates too, in any order. Grid, Random and Halving ignore
            them.

    Returns:
        A value for each path; None where every setting of the space was suggested before.

    Raises:
        ValueError: Grid over a range of decimals.
    """
    match search.method:
        case Method.GRID:
            return _grid_setting(space, number)
        case Method.RANDOM | Method.HALVING:
            return random_setting(space, uid, number)
        case Method.TPE:
            return _promising_setting(space, search, uid, number, list(trials))


def random_setting(space: Space, uid: str, number: int) -> dict[str, Value] | None:
    """Return values drawn for a trial; None where a space that can be counted has no more."""
    size = space.size
    if size is not None:
        return space.assignment_at(shuffled(uid, number, size)) if number < size else None
    draws = uniforms(uid, number, "random")
    return {each.path: _value_at(each, next(draws)) for each in space.parameters}


def _grid_setting(space: Space, number: int) -> dict[str, Value] | None:
    if space.size is not None and number >= space.size:
        return None
    return space.assignment_at(number)


def _promising_setting(
    space: Space, search: Search, uid: str, number: int, trials: list[Trial]
) -> dict[str, Value] | None:
    suggested = [trial for trial in trials if trial.replicate_of is None]
    tried = {key_of(trial.assignment) for trial in suggested}
    if num_results(suggested) >= search.num_startup:
        draws = uniforms(uid, number, "tpe")
        for _ in range(NUM_REDRAWS):
            setting = tpe_setting(space, suggested, draws)
            if key_of(setting) not in tried:
                return setting
    return _untried_setting(space, uid, number, tried)


def _untried_setting(
    space: Space, uid: str, number: int, tried: AbstractSet[str]
) -> dict[str, Value] | None:
    """Return a random setting that was not tried, the trial's own if it was not."""
    setting = random_setting(space, uid, number)
    if space.size is None or (setting and key_of(setting) not in tried):
        return setting
    for other in range(space.size):
        setting = random_setting(space, uid, other)
        if setting and key_of(setting) not in tried:
            return setting
    return None


def _value_at(parameter: Parameter, unit: float) -> Value:
    if isinstance(parameter, Choice):
        return parameter.values[int(unit * parameter.size)]
    return parameter.from_unit(unit)
