"""Tree-structured Parzen estimators, one parameter at a time (Bergstra et al. 2011).

Trials are divided into the best tenth and the rest. Of values drawn from the density of the best,
the one with the largest ratio to the other density is taken. Running, failed and diverged trials
count among the rest, so that parallel trials differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from finetune_operator.finetunesweep.search.parzen import (
    ChoiceDensity,
    RangeDensity,
    estimate_choice,
    estimate_range,
)
from finetune_operator.finetunesweep.search.space import Choice, Int, Parameter, Space, Value
from finetune_operator.finetunesweep.search.trials import Trial, TrialState

NUM_CANDIDATES = 24
BEST_SHARE = 0.1
MAX_BEST = 25
NUM_FULL_WEIGHT = 25
"""Older trials than these weigh less, the first one least."""


def tpe_setting(
    space: Space, trials: Iterable[Trial], uniforms: Iterator[float]
) -> dict[str, Value]:
    """Return promising values.

    Args:
        space: The parameters.
        trials: Trials of any state, in any order.
        uniforms: Numbers in [0, 1), as many as are needed.
    """
    best, rest = _divide(trials)
    return {
        parameter.path: _promising_value(parameter, best, rest, uniforms)
        for parameter in space.parameters
    }


def num_results(trials: Iterable[Trial]) -> int:
    """Return the number of trials that ended, with any result."""
    return sum(trial.state is not TrialState.RUNNING for trial in trials)


def _divide(trials: Iterable[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Return the best trials and the rest, each by number."""
    known = sorted(trials, key=lambda trial: (*_badness_of(trial), trial.number))
    num_best = min(MAX_BEST, math.ceil(BEST_SHARE * num_results(known)))
    parts = known[:num_best], known[num_best:]
    best, rest = (sorted(part, key=lambda trial: trial.number) for part in parts)
    return best, rest


def _badness_of(trial: Trial) -> tuple[float, float, float]:
    # Complete ones by score, then stopped ones by their last step, then those without a result.
    if trial.score is None or not math.isfinite(trial.score):
        return (2, 0, 0)
    if trial.state is TrialState.COMPLETE:
        return (0, trial.score, trial.tie_breaker)
    if trial.state is TrialState.PRUNED:
        last = trial.curve[-1] if trial.curve else None
        return (1, -last.step, last.loss) if last else (1, 0, trial.score)
    return (2, 0, 0)


def _promising_value(
    parameter: Parameter, best: list[Trial], rest: list[Trial], uniforms: Iterator[float]
) -> Value:
    if isinstance(parameter, Choice):
        good, bad = _chances(parameter, best), _chances(parameter, rest)
        indices = [good.draw(uniforms) for _ in range(NUM_CANDIDATES)]
        gains = [good.log_density(index) - bad.log_density(index) for index in indices]
        return parameter.values[indices[gains.index(max(gains))]]
    dense, thin = _density(parameter, best), _density(parameter, rest)
    values = [parameter.from_unit(dense.draw(uniforms)) for _ in range(NUM_CANDIDATES)]
    # Judge the value after rounding.
    places = [parameter.to_unit(value) for value in values]
    gains = [
        dense.log_density(place) - thin.log_density(place) for place in places if place is not None
    ]
    return values[gains.index(max(gains))]


def _chances(parameter: Choice, trials: list[Trial]) -> ChoiceDensity:
    known = [parameter.index_of(value) for value in _values_of(parameter, trials)]
    indices = [index for index in known if index is not None]
    return estimate_choice(indices, _weights(len(indices)), parameter.size)


def _density(parameter: Parameter, trials: list[Trial]) -> RangeDensity:
    assert not isinstance(parameter, Choice)
    known = [parameter.to_unit(value) for value in _values_of(parameter, trials)]
    places = [place for place in known if place is not None]
    bin_width = 1 / parameter.size if isinstance(parameter, Int) else 0.0
    return estimate_range(places, _weights(len(places)), bin_width)


def _values_of(parameter: Parameter, trials: list[Trial]) -> list[Value]:
    """Return the values of a parameter in trials that have it."""
    path = parameter.path
    return [trial.assignment[path] for trial in trials if path in trial.assignment]


def _weights(count: int) -> Sequence[float]:
    """Return weights by age, the oldest first."""
    num_older = max(0, count - NUM_FULL_WEIGHT)
    return [(age + 1) / (num_older + 1) for age in range(num_older)] + [1.0] * (count - num_older)
