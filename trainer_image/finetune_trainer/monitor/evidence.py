"""Evidence that traffic has drifted, from one look to the next, and as JSON at rest. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson

from finetune_trainer.monitor.signals import signal_of
from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.statistics.drift import (
    NUM_SIDES,
    STAKES,
    add_look,
    log_mean_of_bets,
    log_mean_of_signals,
)
from finetune_trainer.traffic.rows import write_time

SHAPE = (NUM_SIDES, len(STAKES))
NUM_ALARMS_KEPT = 20
ALARM_HOLDS = timedelta(days=30)
"""How long an alarm holds without another one of the same signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalEvidence:
    """Evidence of one signal, by side and stake.

    Attributes:
        log_evidence: Logarithm of the sum over all looks at which a change may have begun.
        log_best: Logarithm of the greatest term of this sum.
        since: Beginning of the look with this term; None before the first look.
    """

    log_evidence: Floats
    log_best: Floats
    since: tuple[tuple[datetime | None, ...], ...]

    @property
    def log_e(self) -> float:
        """Logarithm of the signal's evidence."""
        return float(log_mean_of_bets(self.log_evidence))

    @property
    def began(self) -> datetime | None:
        """When the change most probably began, if there is one."""
        side, stake = np.unravel_index(int(self.log_evidence.argmax()), SHAPE)
        return self.since[int(side)][int(stake)]

    @property
    def is_higher(self) -> bool:
        """Whether the evidence is for a greater mean, not for a smaller one."""
        return int(self.log_evidence.argmax()) < len(STAKES)

    def after(self, log_growth: Floats, begin: datetime) -> SignalEvidence:
        """Return the evidence after one more look, which began at a time."""
        is_new = self.log_best <= 0
        return SignalEvidence(
            log_evidence=add_look(self.log_evidence, log_growth),
            log_best=np.where(is_new, 0.0, self.log_best) + log_growth,
            since=tuple(
                tuple(begin if new else old for new, old in zip(*line, strict=True))
                for line in zip(is_new.tolist(), self.since, strict=True)
            ),
        )


NOTHING = SignalEvidence(
    log_evidence=np.full(SHAPE, -np.inf),
    log_best=np.full(SHAPE, -np.inf),
    since=((None,) * len(STAKES),) * NUM_SIDES,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """An alarm: which signal has most evidence, and since when it has changed.

    Attributes:
        log_e: Logarithm of the evidence of all signals together.
    """

    time: datetime
    signal: str
    since: datetime
    is_higher: bool
    log_e: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a monitor knows after a look.

    Attributes:
        reference: Digest of the reference that the traffic is compared with.
        until: Answers before this time have been looked at; None before the first look.
        num_looks: Looks with this reference.
        num_answers: Answers in them.
        alarms: The last ones, oldest first.
    """

    reference: str
    until: datetime | None = None
    num_looks: int = 0
    num_answers: int = 0
    signals: Mapping[str, SignalEvidence]
    alarms: tuple[Alarm, ...] = ()

    @property
    def log_e(self) -> float:
        """Logarithm of the evidence of all signals together."""
        return float(log_mean_of_signals(np.array([each.log_e for each in self.signals.values()])))

    @property
    def log_e_by_signal(self) -> dict[str, float]:
        """Logarithm of the evidence of each signal, the mean over its parts."""
        parts: dict[str, list[float]] = {}
        for name, each in self.signals.items():
            parts.setdefault(signal_of(name), []).append(each.log_e)
        return {
            name: float(log_mean_of_signals(np.array(logarithms)))
            for name, logarithms in parts.items()
        }

    def holding(self, name: str, now: datetime) -> list[datetime]:
        """Return since when a signal has changed, for each of its alarms that holds."""
        return [
            alarm.since
            for alarm in self.alarms
            if signal_of(alarm.signal) == signal_of(name) and now - alarm.time <= ALARM_HOLDS
        ]

    def watching(self, names: Iterable[str]) -> Evidence:
        """Return the evidence with these signals alone: new ones begin without any."""
        signals = {name: self.signals.get(name, NOTHING) for name in names}
        return replace(self, signals=signals)

    def after_look(
        self,
        log_growths: Mapping[str, Floats],
        *,
        begin: datetime,
        end: datetime,
        num_answers: int,
        log_bound: float,
    ) -> Evidence:
        """Return the evidence after one more look; at the bound the alarm rings and all restarts.

        Args:
            log_growths: Of each signal with enough users. The evidence of others stays as it is.
            begin: Of the look.
            end: Of the look, excluded.
            num_answers: In the look.
            log_bound: Of :func:`finetune_trainer.statistics.drift.log_alarm_bound`.
        """
        looked = replace(
            self,
            until=end,
            num_looks=self.num_looks + 1,
            num_answers=self.num_answers + num_answers,
            signals={
                name: each.after(log_growths[name], begin) if name in log_growths else each
                for name, each in self.signals.items()
            },
        )
        if looked.log_e < log_bound:
            return looked
        name = max(looked.signals, key=lambda signal: looked.signals[signal].log_e)
        found = looked.signals[name]
        alarm = Alarm(
            time=end,
            signal=name,
            since=min([found.began or begin, *looked.holding(name, end)]),
            is_higher=found.is_higher,
            log_e=looked.log_e,
        )
        return replace(
            looked,
            signals=dict.fromkeys(looked.signals, NOTHING),
            alarms=(*looked.alarms, alarm)[-NUM_ALARMS_KEPT:],
        )


def begin_evidence(reference: str, signals: Mapping[str, object]) -> Evidence:
    """Return the evidence before the first look with a reference."""
    return Evidence(reference=reference, signals=dict.fromkeys(signals, NOTHING))


def write_evidence(evidence: Evidence) -> bytes:
    """Return the evidence as JSON."""
    return orjson.dumps(
        {
            "reference": evidence.reference,
            "until": _time(evidence.until),
            "numLooks": evidence.num_looks,
            "numAnswers": evidence.num_answers,
            "signals": {
                name: {
                    "logEvidence": _numbers(each.log_evidence),
                    "logBest": _numbers(each.log_best),
                    "since": [[_time(time) for time in line] for line in each.since],
                }
                for name, each in evidence.signals.items()
            },
            "alarms": [
                {
                    "time": _time(alarm.time),
                    "signal": alarm.signal,
                    "since": _time(alarm.since),
                    "isHigher": alarm.is_higher,
                    "logE": alarm.log_e,
                }
                for alarm in evidence.alarms
            ],
        },
        option=orjson.OPT_INDENT_2,
    )


def parse_evidence(data: bytes) -> Evidence:
    """Return the evidence in a JSON object.

    Raises:
        ValueError: It is none, or of another version of the monitor.
    """
    try:
        value = orjson.loads(data)
        return Evidence(
            reference=str(value["reference"]),
            until=_read_time(value["until"]),
            num_looks=int(value["numLooks"]),
            num_answers=int(value["numAnswers"]),
            signals={name: _read_signal(each) for name, each in value["signals"].items()},
            alarms=tuple(_read_alarm(each) for each in value["alarms"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the monitor's state cannot be read: {error!r}. Delete it to begin without evidence"
        ) from None


def _read_signal(value: Mapping[str, Any]) -> SignalEvidence:
    found = SignalEvidence(
        log_evidence=_read_numbers(value["logEvidence"]),
        log_best=_read_numbers(value["logBest"]),
        since=tuple(tuple(map(_read_time, line)) for line in value["since"]),
    )
    if {found.log_evidence.shape, found.log_best.shape, np.shape(value["since"])} != {SHAPE}:
        raise ValueError("its bets are not this monitor's")
    return found


def _read_alarm(value: Mapping[str, Any]) -> Alarm:
    return Alarm(
        time=datetime.fromisoformat(value["time"]),
        signal=str(value["signal"]),
        since=datetime.fromisoformat(value["since"]),
        is_higher=bool(value["isHigher"]),
        log_e=float(value["logE"]),
    )


def _numbers(logarithms: Floats) -> list[list[float | None]]:
    # JSON has no infinite numbers: null stands for the logarithm of 0.
    return [[x if math.isfinite(x) else None for x in line] for line in logarithms.tolist()]


def _read_numbers(value: Any) -> Floats:
    return np.array([[-np.inf if x is None else float(x) for x in line] for line in value])


def _time(time: datetime | None) -> str | None:
    return None if time is None else write_time(time)


def _read_time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
