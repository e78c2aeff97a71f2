"""Simulated traffic: what users' answers look like by signal, and what a look makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.drift import (
    NUM_LOUD,
    Limits,
    add_look,
    limits_of,
    log_growths,
    log_mean_of_bets,
    log_mean_of_signals,
    no_evidence,
)

Floats = NDArray[np.float64]
NUM_DRAWS = 4000
"""Of a reference's bounds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Signal:
    """Distribution of one signal over users.

    Attributes:
        numbers: Values that a user's number takes.
        shares: Share of the users with each.
        tolerance: As the monitor has it.
    """

    numbers: Floats
    shares: Floats
    tolerance: float

    def mixed(self, other: Signal, share: float) -> Signal:
        """Return the signal where a share of the users are like those of another one."""
        return replace(self, shares=(1 - share) * self.shares + share * other.shares)

    def at(self, mean: float) -> Signal:
        """Return a signal of hits with another share of them."""
        return replace(self, shares=np.array([1 - mean, mean]))


def hits(share: float, tolerance: float) -> Signal:
    """Return a signal of hits and misses."""
    return Signal(
        numbers=np.array([0.0, 1.0]), shares=np.array([1 - share, share]), tolerance=tolerance
    )


def bell(center: float, width: float, tolerance: float) -> Signal:
    """Return a signal whose numbers lie around a center."""
    numbers = np.linspace(0, 1, 17)
    heights = np.exp(-(((numbers - center) / width) ** 2) / 2)
    return Signal(numbers=numbers, shares=heights / heights.sum(), tolerance=tolerance)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An endpoint as it was when its reference was taken.

    Attributes:
        num_reference: Rows of the reference.
        num_users: Users of each look.
    """

    signals: Mapping[str, Signal]
    num_reference: int
    num_users: int


class Years:
    """Endpoints watched side by side, each with a reference of its own."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        num_years: int,
        seed: int,
        is_exact: bool = False,
        num_loud: int = NUM_LOUD,
        given: Mapping[str, Limits] | None = None,
    ) -> None:
        """Draw the references.

        Args:
            endpoint: What is watched.
            num_years: Endpoints.
            seed: Of all draws.
            is_exact: Take a reference's mean for the truth.
            num_loud: Users who may give any number.
            given: Limits of all endpoints, instead of those of references.
        """
        self.number = num_years
        self._rng = np.random.default_rng(seed)
        self._endpoint = endpoint
        limits = {
            name: [given[name]] * num_years
            if given
            else [self._limits_of(signal, is_exact) for _ in range(num_years)]
            for name, signal in endpoint.signals.items()
        }
        self._growths = {
            name: np.stack(
                [
                    log_growths(
                        endpoint.signals[name].numbers,
                        these.with_loud(num_loud, endpoint.num_users),
                    )
                    for these in each
                ]
            )
            for name, each in limits.items()
        }
        self._evidence = np.stack([no_evidence(len(limits))] * num_years)

    def look(
        self, now: Mapping[str, Signal], log_bound: float, loud: float | None = None
    ) -> Floats:
        """Look once; return the logarithm of each signal's evidence, by endpoint.

        Endpoints that reach the bound begin again.

        Args:
            now: What the traffic is.
            log_bound: Of the alarm.
            loud: What one of the users gives.
        """
        num_others = self._endpoint.num_users - (loud is not None)
        grown = [self._growth(name, now[name], num_others, loud) for name in self._endpoint.signals]
        self._evidence = add_look(self._evidence, np.stack(grown, axis=1))
        by_signal = log_mean_of_bets(self._evidence)
        self._evidence[log_mean_of_signals(by_signal) >= log_bound] = -np.inf
        return by_signal

    def _growth(self, name: str, signal: Signal, number: int, loud: float | None) -> Floats:
        growths = self._growths[name]
        size = len(growths)
        if len(signal.numbers) == 2:
            num_hits = self._rng.binomial(number, signal.shares[1], size=size)
            counts = np.stack([number - num_hits, num_hits], axis=-1)
        else:
            counts = self._rng.multinomial(number, signal.shares, size=size)
        if loud is not None:
            counts[:, np.abs(signal.numbers - loud).argmin()] += 1
        return np.asarray(np.matmul(growths, counts[:, None, :, None])[..., 0])

    def _limits_of(self, signal: Signal, is_exact: bool) -> Limits:
        size = self._endpoint.num_reference
        drawn = self._rng.choice(signal.numbers, size=size, p=signal.shares)
        if is_exact:
            mean = float(drawn.mean())
            return Limits(low=mean, high=mean)
        reference = confidence_of_mean(drawn, np.arange(size), num_draws=NUM_DRAWS)
        return limits_of(
            reference, num_signals=len(self._endpoint.signals), tolerance=signal.tolerance
        )
