"""``spec.capture`` and ``spec.monitor`` of a FineTuneEndpoint: its answers, kept and watched."""

from __future__ import annotations

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


def _is_share(capture: Capture | None) -> bool:
    if capture is None or capture.sample is None:
        return True
    return 0 < decimal_of(capture.sample) <= 1


def _is_rate(monitor: Monitor | None) -> bool:
    return monitor is None or 0 < decimal_of(monitor.false_alarms_per_year) <= 50


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
)
"""Rules on both, over the spec of an endpoint."""
