"""Steps at which trials are compared with each other, each so many times as far as the last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Rungs:
    """Steps at which trials are compared, and the share of trials that continues.

    Attributes:
        min_steps: Step of the first rung.
        reduction: Ratio between the steps of two rungs; one trial in so many continues.

    Raises:
        ValueError: Less than one step, or a reduction below 2.
    """

    min_steps: int
    reduction: int = 3

    def __post_init__(self) -> None:
        check_min_steps(self.min_steps)
        if self.reduction < 2:
            raise ValueError(f"reduction is {self.reduction}; it is to be at least 2")

    def between(self, step: int, last_step: int) -> Iterator[int]:
        """Yield the rungs behind a step, up to the last one."""
        rung = self.min_steps
        while rung <= last_step:
            if rung > step:
                yield rung
            rung *= self.reduction


def check_min_steps(min_steps: int) -> None:
    """Raise ValueError for a first rung before the first step."""
    if min_steps < 1:
        raise ValueError(f"min_steps is {min_steps}; it is to be at least 1")
