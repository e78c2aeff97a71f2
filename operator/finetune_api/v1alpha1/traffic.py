"""``spec.capture`` and ``spec.monitor`` of a FineTuneEndpoint: its answers, kept and watched."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune_api.meta import (
    SET_LIST,
    URI,
    APIModel,
    DecimalString,
    Duration,
    Integer,
    LocalObjectReference,
    Unique,
    decimal_of,
)
from finetune_api.rule import Rule
from finetune_api.v1alpha1.spec.serving import KeysSource
from finetune_api.v1alpha1.status.traffic import DriftSignal

MAX_RETENTION_DAYS = 3650
DEFAULT_SAMPLE = "0.1"
LEAST_DAYS = 15
"""Days that answers have to stay where people are asked about them."""


class Capture(APIModel):
    """Requests and answers that are stored, without personal data and secrets.

    Both are removed, and `user` is replaced by a keyed hash, before anything is written.
    """

    include: Literal["OptIn", "All"] = "OptIn"
    """`OptIn`: requests that say `store: true`. `All`: these, and a share of all others. A request
    that says `store: false` is never stored."""
    sample: DecimalString | None = None
    """For `All`: share of the requests that is stored, above 0 and at most 1. Default: `0.1`."""
    retention_days: Annotated[Integer, Field(ge=1, le=MAX_RETENTION_DAYS)] = 30
    """Days after which answers and their feedback are deleted."""
    uri: URI | None = None
    """Folder below which they are stored, at `s3://`, `pvc://` or `file://`. Default: `output.uri`
    of the job whose version answers."""
    secret_ref: LocalObjectReference | None = None
    """Secret to write there with. Default: that of the job's output."""
    editors_from: KeysSource | None = None
    """Keys of editors. They see, correct and delete all answers, and ask none. With other keys
    somebody sees the answers that were given to the same key. Endpoints without keys and without
    editors show their answers to everyone who reaches them."""

    @property
    def share(self) -> str:
        """Share of the requests that is stored without being asked for."""
        return "0" if self.include == "OptIn" else self.sample or DEFAULT_SAMPLE


class LiveQuality(APIModel):
    """How good people find answers that are drawn at random, and what a judge adds to that.

    The page for editors lists the drawn answers. Where the job's evaluation has a judge, it scores
    these and ten times as many others.
    """

    answers_per_week: Annotated[Integer, Field(ge=5, le=300)] = 30
    """Answers that people are asked about in a week."""
    at_least: DecimalString | None = None
    """Least share of good answers. Default: that of the job's goal, where its metric is
    `exactMatch`, `contains`, `numberClose` or `jsonEqual`. Others are no share of good answers, and
    `Degraded` then does not look at it."""
    certainty: DecimalString | None = None
    """Certainty of the interval, from 0.5 to 0.999. Default: that of the job's goal, else 0.95."""


class Monitor(APIModel):
    """Whether traffic and answers are still what the active version was trained and tested on."""

    every: Duration = "1h"
    """How often new answers are looked at."""
    false_alarms_per_year: DecimalString = "1"
    """False alarms in a year, on average and over all signals together, where nothing changes."""
    min_answers: Annotated[Integer, Field(ge=30, le=1000000)] = 200
    """Answers that must have been captured before a signal can raise an alarm."""
    signals: (
        Annotated[
            list[DriftSignal],
            Field(min_length=1, max_length=10, json_schema_extra=SET_LIST),
            Unique,
        ]
        | None
    ) = None
    """What is watched. Default: everything that the answers of the version allow."""
    quality: LiveQuality | None = None
    """Ask people, and the job's judge, about some of the answers. Default: nobody is asked."""


def _is_share(capture: Capture | None) -> bool:
    if capture is None or capture.sample is None:
        return True
    return 0 < decimal_of(capture.sample) <= 1


def _is_rate(monitor: Monitor | None) -> bool:
    return monitor is None or 0 < decimal_of(monitor.false_alarms_per_year) <= 50


def _lies(monitor: Monitor | None, name: str, low: str, high: str) -> bool:
    quality = None if monitor is None else monitor.quality
    given = None if quality is None else getattr(quality, name)
    return given is None or Decimal(low) <= decimal_of(given) <= Decimal(high)


def _has_time(capture: Capture | None, monitor: Monitor | None) -> bool:
    is_asked = capture is not None and monitor is not None and monitor.quality is not None
    return not is_asked or capture is None or capture.retention_days >= LEAST_DAYS


def _quality_rule(field: str, attribute: str, low: str, high: str, *, such_as: str) -> Rule:
    given = f"self.monitor.quality.{field}"
    return Rule(
        rule=(
            f"!has(self.monitor) || !has(self.monitor.quality) || !has({given}) || "
            f"(double({given}) >= {low} && double({given}) <= {high})"
        ),
        message=f'monitor.quality.{field} must be from {low} to {high}, such as "{such_as}"',
        field=f"monitor.quality.{field}",
        check=lambda s: _lies(s.monitor, attribute, low, high),
    )


def _keeps(capture: Any) -> bool:
    return capture is None or capture.uri is None or not capture.uri.startswith("hf://")


TRAFFIC_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "!has(self.capture) || !has(self.capture.sample) || "
            "(double(self.capture.sample) > 0.0 && double(self.capture.sample) <= 1.0)"
        ),
        message='capture.sample must be above 0 and at most 1, such as "0.1" for every tenth',
        field="capture.sample",
        check=lambda s: _is_share(s.capture),
    ),
    Rule(
        rule=("!has(self.capture) || !has(self.capture.sample) || self.capture.include == 'All'"),
        message=(
            "capture.sample is a share of all requests, and capture.include OptIn takes those that "
            "say store: true: leave sample out, or write include: All"
        ),
        field="capture.sample",
        check=lambda s: s.capture is None or s.capture.sample is None or s.capture.include == "All",
    ),
    Rule(
        rule=(
            "!has(self.capture) || !has(self.capture.uri) || !self.capture.uri.startsWith('hf://')"
        ),
        message=(
            "capture.uri must be a place that can be written to: s3://bucket/prefix, "
            "pvc://claim/path or file:///folder"
        ),
        field="capture.uri",
        check=lambda s: _keeps(s.capture),
    ),
    Rule(
        rule="!has(self.monitor) || has(self.capture)",
        message="monitor looks at captured answers: add capture, or leave monitor out",
        field="monitor",
        check=lambda s: s.monitor is None or s.capture is not None,
    ),
    Rule(
        rule=(
            "!has(self.monitor) || (double(self.monitor.falseAlarmsPerYear) > 0.0 && "
            "double(self.monitor.falseAlarmsPerYear) <= 50.0)"
        ),
        message='monitor.falseAlarmsPerYear must be above 0 and at most 50, such as "1"',
        field="monitor.falseAlarmsPerYear",
        check=lambda s: _is_rate(s.monitor),
    ),
    _quality_rule("atLeast", "at_least", "0.0", "1.0", such_as="0.9"),
    _quality_rule("certainty", "certainty", "0.5", "0.999", such_as="0.95"),
    Rule(
        rule=(
            "!has(self.monitor) || !has(self.monitor.quality) || !has(self.capture) || "
            f"self.capture.retentionDays >= {LEAST_DAYS}"
        ),
        message=(
            "monitor.quality gives people one week after that of an answer, so"
            f" capture.retentionDays must be at least {LEAST_DAYS}"
        ),
        field="capture.retentionDays",
        check=lambda s: _has_time(s.capture, s.monitor),
    ),
)
"""Rules on both, over the spec of an endpoint."""
