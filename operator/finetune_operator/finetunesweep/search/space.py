"""The search space of a sweep: parameters and their ranges.

Every parameter maps its values to the unit interval and back, a learning rate by its logarithm.
Decimals are strings in a FineTuneJob, with four significant digits (more in a narrow range).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool
"""One value of a parameter, as the field of the FineTuneJob takes it."""
Assignment: TypeAlias = Mapping[str, Value]
"""The value of each parameter of a space, by path."""

NUM_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values that have no order.

    Attributes:
        path: Field of the FineTuneJob's spec.

    Raises:
        ValueError: There is no value, or one is listed twice.
    """

    path: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.path}: no values; list at least one")
        keys = [key_of(value) for value in self.values]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise ValueError(f"{self.path}: {key} is listed twice; list each value once")

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.values)

    def value_at(self, index: int) -> Value:
        """Return the value with this index."""
        return self.values[index]


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number from ``low`` to ``high``, both included."""

    path: str
    low: int
    high: int

    def __post_init__(self) -> None:
        _check_range(self.path, self.low, self.high)

    @property
    def size(self) -> int:
        """Number of values."""
        return self.high - self.low + 1

    def value_at(self, index: int) -> int:
        """Return the value with this index."""
        return self.low + index

    def from_unit(self, unit: float) -> int:
        """Return the value whose share of [0, 1] holds ``unit``."""
        return self.low + min(self.size - 1, max(0, math.floor(unit * self.size)))


@dataclass(frozen=True, slots=True)
class Uniform:
    """A decimal from ``low`` to ``high``, each as likely as the next."""

    path: str
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self.path, self.low, self.high)

    @property
    def size(self) -> None:
        """A range of decimals cannot be counted."""
        return None

    def from_unit(self, unit: float) -> str:
        """Return the value at a place in [0, 1], as decimal text."""
        return _decimal_within(self.low + unit * (self.high - self.low), self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A decimal above 0 from ``low`` to ``high``, each order of magnitude as likely as the next."""

    path: str
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range(self.path, self.low, self.high)
        if self.low <= 0:
            raise ValueError(f"{self.path}: min is {self.low}; a logarithm needs a min above 0")

    @property
    def size(self) -> None:
        """A range of decimals cannot be counted."""
        return None

    def from_unit(self, unit: float) -> str:
        """Return the value at a place in [0, 1], as decimal text."""
        number = self.low * math.exp(unit * math.log(self.high / self.low))
        return _decimal_within(number, self.low, self.high)


Parameter: TypeAlias = Choice | Int | Uniform | LogUniform


@dataclass(frozen=True, slots=True)
class Space:
    """All parameters of a sweep.

    Raises:
        ValueError: There is none, or two have one path.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ValueError("no parameters; name at least one field to vary")
        paths = [parameter.path for parameter in self.parameters]
        for position, path in enumerate(paths):
            if path in paths[:position]:
                raise ValueError(f"{path}: two parameters have this path; join them into one")

    @property
    def size(self) -> int | None:
        """Number of settings in the space; None where a range of decimals is part of it."""
        size = 1
        for parameter in self.parameters:
            if parameter.size is None:
                return None
            size *= parameter.size
        return size

    def assignment_at(self, index: int) -> dict[str, Value]:
        """Return the setting with this index, the last parameter running fastest.

        Raises:
            ValueError: The space cannot be counted.
        """
        values: dict[str, Value] = {}
        for parameter in reversed(self.parameters):
            if isinstance(parameter, Uniform | LogUniform):
                raise ValueError(f"{parameter.path}: a range of decimals has no list of values")
            index, own = divmod(index, parameter.size)
            values[parameter.path] = parameter.value_at(own)
        return {parameter.path: values[parameter.path] for parameter in self.parameters}


def key_of(value: Value | Assignment) -> str:
    """Return a text that is the same for equal JSON values only: true is not 1, "1" is not 1."""
    return json.dumps(value, sort_keys=True)


def _check_range(path: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{path}: from {low} to {high} is no range; min and max are to be finite")
    if low >= high:
        raise ValueError(f"{path}: min is {low} and max {high}; max is to be above min")


def _decimal_within(number: float, low: float, high: float) -> str:
    """Return a number with few digits that is still within its bounds."""
    # From 1000.01 to 1000.02 four digits leave one value: narrow ranges have more digits.
    narrowness = max(abs(low), abs(high)) / (high - low)
    num_digits = NUM_DIGITS + max(0, math.floor(math.log10(narrowness)))
    rounded = float(f"{number:.{num_digits - 1}e}")
    return _decimal_text(min(high, max(low, rounded)))


def _decimal_text(number: float) -> str:
    decimal = Decimal(repr(number)).normalize()
    if number == 0 or abs(number) >= 1e-6:
        return format(decimal + 0, "f")
    return format(decimal, "e")
