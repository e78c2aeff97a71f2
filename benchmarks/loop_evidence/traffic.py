"""Simulated users of an endpoint, and what daily looks at their last week make of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.monitor.looking import Settings
from finetune_trainer.statistics.drift import log_evidence, log_mean_of_sides, smallest_changes

Floats = NDArray[np.float64]
Numbers = Mapping[str, Floats]
SETTINGS = Settings()
NUM_DAYS = SETTINGS.window // SETTINGS.every
TOLERANCES = {
    "PromptLength": 0.02,
    "AnswerLength": 0.02,
    "Vocabulary": 0.02,
    "Labels/a": 0.02,
    "Labels/b": 0.02,
    "Refusals": 0.005,
    "Errors": 0.005,
    "ThumbsDown": 0.02,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Users of an endpoint.

    Attributes:
        new: Returns numbers of users who come on one day alone, by day and number of users.
        num_new: How many these are on a day.
        regular: Returns numbers of the users who come each day, in the same order.
    """

    new: Callable[[np.random.Generator, int, int], Numbers]
    num_new: Callable[[int], int]
    regular: Callable[[np.random.Generator, int], Numbers] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One look.

    Attributes:
        log_e: Evidence by signal; empty if the window has too few users.
        begun: Signals whose change is found by this look, and was not by the one before.
        open: Signals that have changed.
        num_users: Users of the window.
    """

    log_e: Mapping[str, float] = field(default_factory=dict)
    begun: frozenset[str] = frozenset()
    open: frozenset[str] = frozenset()
    num_users: int = 0


class Watched:
    """An endpoint that is looked at each day."""

    def __init__(self, world: World, seed: int) -> None:
        """Gather the reference: the week before day 0."""
        self._world, self._rng = world, np.random.default_rng(seed)
        self._new: deque[Numbers] = deque(maxlen=NUM_DAYS)
        self._regular: deque[Numbers] = deque(maxlen=NUM_DAYS)
        self._open: frozenset[str] = frozenset()
        self.bound = SETTINGS.log_bound(len(TOLERANCES))
        for day in range(NUM_DAYS):
            self._pass(day - NUM_DAYS)
        self.reference = self._window()

    def looks(self, num_days: int) -> Iterator[tuple[int, Found]]:
        """Yield the look at the end of each day from the second week on."""
        for day in range(num_days):
            self._pass(day)
            if day + 1 >= NUM_DAYS:
                yield day, self._look()

    def smallest(self, name: str) -> float:
        """Return the smallest rise of a signal that is found, as the report has it."""
        then = self.reference[name]
        rise, _ = smallest_changes(
            then, num_users=len(then), tolerance=TOLERANCES[name], log_bound=self.bound
        )
        return 1.0 if rise is None else rise

    def _pass(self, day: int) -> None:
        self._new.append(self._world.new(self._rng, day, self._world.num_new(day)))
        if self._world.regular is not None:
            self._regular.append(self._world.regular(self._rng, day))

    def _window(self) -> dict[str, Floats]:
        found = {}
        for name in TOLERANCES:
            parts = [day[name] for day in self._new]
            if self._regular:
                parts.append(np.mean([day[name] for day in self._regular], axis=0))
            found[name] = self._rng.permutation(np.concatenate(parts))
        return found

    def _look(self) -> Found:
        now = self._window()
        num_users = len(now["Errors"])
        if min(num_users, len(self.reference["Errors"])) < SETTINGS.min_users:
            return Found(num_users=num_users)
        log_e = {
            name: log_mean_of_sides(
                log_evidence(self.reference[name], now[name], tolerance=TOLERANCES[name])
            )
            for name in TOLERANCES
        }
        rings = {name for name, each in log_e.items() if each >= self.bound}
        begun = frozenset(rings - self._open)
        self._open = frozenset(n for n in self._open | rings if log_e[n] >= 0)
        return Found(log_e=log_e, begun=begun, open=self._open, num_users=num_users)


def users(number: int, rng: np.random.Generator, **changed: Floats) -> Numbers:
    """Return numbers of ordinary users; ``changed`` has those of other signals."""
    share = rng.random(number)
    ordinary = {
        "PromptLength": rng.normal(0.45, 0.08, number),
        "AnswerLength": rng.normal(0.45, 0.08, number),
        "Vocabulary": rng.normal(0.35, 0.06, number),
        "Labels/a": (share < 0.3).astype(float),
        "Labels/b": (share > 0.8).astype(float),
        "Refusals": (rng.random(number) < 0.01).astype(float),
        "Errors": (rng.random(number) < 0.01).astype(float),
        "ThumbsDown": (rng.random(number) < 0.08).astype(float),
    }
    return {name: np.clip(each, 0, 1) for name, each in (ordinary | changed).items()}
