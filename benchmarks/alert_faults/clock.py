"""A clock that runs ahead: an hour of the operator passes in a minute.

The operator, and whoever stamps what it tells, read the same one. Nothing else is changed: the
thresholds, windows and ``for`` of the alerts stay as they are in the chart.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime

_SPEED, _ORIGIN = "ALERT_FAULTS_SPEED", "ALERT_FAULTS_ORIGIN"


@dataclass(frozen=True, slots=True)
class FastClock:
    """Time that goes ``speed`` times as fast since ``origin``.

    Attributes:
        speed: Seconds told for each that passes; 1 is the machine's own time.
        origin: When both were the same, as Unix time.
    """

    speed: float
    origin: float

    def now(self) -> datetime:
        """Return the time told, aware, in UTC."""
        return datetime.fromtimestamp(self.timestamp(), UTC)

    def timestamp(self) -> float:
        """Return the time told, as Unix time."""
        return self.origin + (time.time() - self.origin) * self.speed

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that pass as fast."""
        return time.monotonic() * self.speed

    def to_environment(self) -> dict[str, str]:
        """Return what a process needs to read the same clock."""
        return {_SPEED: repr(self.speed), _ORIGIN: repr(self.origin)}

    @classmethod
    def from_environment(cls) -> FastClock:
        """Return the clock of the process that started this one."""
        return cls(speed=float(os.environ[_SPEED]), origin=float(os.environ[_ORIGIN]))
