"""``spec.capture`` and ``spec.monitor`` of a FineTuneEndpoint: its answers, kept and watched."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool

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
    seconds_of,
)
from finetune_api.rule import Rule
from finetune_api.v1alpha1.spec.serving import KeysSource
from finetune_api.v1alpha1.status.traffic import DriftSignal

MAX_RETENTION_DAYS = 3650
DEFAULT_SAMPLE = "0.1"
MAX_WINDOW_DAYS = 28
"""Above it, a month has no second window."""
_SECONDS = (
    "int(d.substring(0, size(d) - 1)) * (d.endsWith('m') ? 60 : d.endsWith('h') ? 3600 : 86400)"
)
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
    """Folder below which they are stored: `s3://`, or `file://` where the administrator allows it.
    Default: `output.uri` of the job whose version answers."""
    secret_ref: LocalObjectReference | None = None
    """Secret to write there with. Default: that of the job's output."""
    editors_from: KeysSource | None = None
    """Keys of editors. They see, correct and delete all answers, and ask none. With other keys
    somebody sees the answers that were given to the same key. Without a key nobody sees any."""
    open_to_all: StrictBool = False
    """Whether everybody who reaches the URL sees, corrects and deletes all answers, without a key.
    Only for an endpoint that has neither keys nor editors, which captures nothing otherwise."""

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
    """Whether users and answers are still those of the active version's first window."""

    every: Duration = "1d"
    """How often the last window is looked at."""
    window: Duration = "7d"
    """Time whose users are compared: the first one after the version began, and the last one. Whole
    weeks where weekdays differ. At least `every`, at most `28d`, below `capture.retentionDays`."""
    false_alarms_per_year: DecimalString = "1"
    """False alarms in a year, on average and over all signals together, where nothing changes."""
    min_users: Annotated[Integer, Field(ge=30, le=10000)] = 100
    """Users that a window must have to be compared. With fewer, `Drifted` is `Unknown`."""
    signals: (
        Annotated[
            list[DriftSignal],
            Field(min_length=1, max_length=10, json_schema_extra=SET_LIST),
            Unique,
        ]
        | None
    ) = None
    """What is watched. Default: everything that the version's data allow."""
    quality: LiveQuality | None = None
    """Ask people, and the job's judge, about some of the answers. Default: nobody is asked."""

    @property
    def window_days(self) -> float:
        """Length of the windows that are compared."""
        return max(seconds_of(self.every), seconds_of(self.window)) / 86400


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


def _keeps_window(capture: Capture | None, monitor: Monitor | None) -> bool:
    return capture is None or monitor is None or capture.retention_days > monitor.window_days


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


def _keeps(capture: Capture | None) -> bool:
    uri = None if capture is None else capture.uri
    return uri is None or not uri.startswith(("hf://", "pvc://"))


def _has_readers(spec: Any) -> bool:
    capture: Capture | None = spec.capture
    if capture is None:
        return True
    has_keys = spec.access is not None and spec.access.keys_from is not None
    return capture.open_to_all != (has_keys or capture.editors_from is not None)


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
            "!has(self.capture) || !has(self.capture.uri) || "
            "!self.capture.uri.matches('^(hf|pvc)://')"
        ),
        message=(
            "capture.uri must be a place that can be written to without a claim, because endpoints "
            "share the pods that write: s3://bucket/prefix"
        ),
        field="capture.uri",
        check=lambda s: _keeps(s.capture),
        only_new=True,
    ),
    Rule(
        rule=(
            "!has(self.capture) || self.capture.openToAll != (has(self.capture.editorsFrom) || "
            "(has(self.access) && has(self.access.keysFrom)))"
        ),
        message=(
            "capture keeps what users ask, so say who reads it: set access.keysFrom or "
            "capture.editorsFrom; or, without both, capture.openToAll: true, which lets everybody "
            "who reaches the URL read, correct and delete all answers"
        ),
        field="capture.openToAll",
        check=_has_readers,
        only_new=True,
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
    Rule(
        rule=(
            "!has(self.monitor) || [self.monitor.every, self.monitor.window]"
            f".all(d, {_SECONDS} <= {MAX_WINDOW_DAYS * 86400})"
        ),
        message=f"monitor.window and monitor.every must be at most {MAX_WINDOW_DAYS}d",
        field="monitor.window",
        check=lambda s: s.monitor is None or s.monitor.window_days <= MAX_WINDOW_DAYS,
        only_new=True,
    ),
    Rule(
        rule=(
            "!has(self.monitor) || !has(self.capture) || [self.monitor.every, self.monitor.window]"
            f".all(d, {_SECONDS} < self.capture.retentionDays * 86400)"
        ),
        message=(
            "monitor compares whole windows, so capture.retentionDays must be greater than "
            "monitor.window and monitor.every"
        ),
        field="capture.retentionDays",
        check=lambda s: _keeps_window(s.capture, s.monitor),
        only_new=True,
    ),
)
"""Rules on both, over the spec of an endpoint."""
