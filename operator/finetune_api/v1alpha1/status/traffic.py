"""Status of an endpoint's captured traffic, and of how it is watched."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import MAP_BY_NAME, APIModel
from finetune_api.v1alpha1.status.fields import (
    Count,
    Number,
    Sentence,
    ShortText,
    StoredURI,
    Timestamp,
)

DriftSignal = Literal[
    "PromptLength",
    "Language",
    "Vocabulary",
    "AnswerLength",
    "Refusals",
    "InvalidJson",
    "Labels",
    "Format",
    "ThumbsDown",
    "Errors",
]
"""What a monitor compares between the first window of a version and the last one."""

MOST_UNSEEN = 0.25
"""Change of a signal's mean, from 0 to 1, above which not to find it says nothing."""


class CaptureStatus(APIModel):
    """Where answers are stored. A source ``traffic://`` reads them from there."""

    uri: StoredURI
    """Folder below which they are stored."""
    credentials_secret: ShortText | None = None
    """Secret that the folder is reached with. Absent: the pod's own identity."""
    since: Timestamp | None = None
    """Since when they are stored there."""
    rows: Count = 0
    """Answers stored since then, later deleted ones included. It never falls."""
    feedback: Count = 0
    """Corrections and ratings of them, each answer counted once per person. It never falls."""
    counted_time: Timestamp | None = None
    """When they were counted."""


class TrafficPlace(APIModel):
    """Where a job reads the captured answers of an endpoint.

    Below ``uri`` they lie at ``traffic/<namespace of the job>/<endpoint>``.
    """

    endpoint: Annotated[str, Field(max_length=63)]
    """Name of the FineTuneEndpoint."""
    uri: StoredURI
    """Folder below which its answers are stored."""
    credentials_secret: ShortText | None = None
    """Secret that the folder is reached with. Absent: the pod's own identity."""


class SignalStatus(APIModel):
    """What one signal says."""

    name: DriftSignal
    """The signal."""
    log_e: Number
    """Natural logarithm of the evidence of the last look for a change."""
    smallest: Number | None = None
    """The smallest change of its mean, from 0 to 1, that looks find within a month. `1`: none."""
    since: Timestamp | None = None
    """End of the first look that found its change. Absent without one, and when it has ended."""

    @property
    def is_hopeless(self) -> bool:
        """Whether looks find no change that would be of interest."""
        return float(self.smallest or 0) > MOST_UNSEEN


class QualityStatus(APIModel):
    """How good people find captured answers of the last weeks that were drawn at random."""

    low: Number | None = None
    """Lower end of the interval of the share of good answers. Absent with too few scores."""
    estimate: Number | None = None
    """The share."""
    high: Number | None = None
    """Upper end of its interval."""
    goal: Number | None = None
    """Least share of good answers. Absent if nobody has set one."""
    metric: ShortText | None = None
    """Metric of the job's goal."""
    published: Number | None = None
    """Score of the version in its evaluation, by this metric."""
    num_people: Count = 0
    """Answers that people have scored, and that count."""
    num_judged: Count = 0
    """Answers that the judge has scored. 0 where people's scores alone count."""
    num_open: Count = 0
    """Answers that people are still asked about."""
    failure: Sentence | None = None
    """Why the judge could not be asked. Absent if it could."""

    @property
    def is_below_goal(self) -> bool:
        """Whether the whole interval lies below the goal."""
        return bool(self.goal and self.high) and float(self.high or 0) < float(self.goal or 0)


class MonitorStatus(APIModel):
    """The last look at captured answers."""

    version: Count = 0
    """The version whose answers are looked at."""
    last_run_time: Timestamp | None = None
    """When the last look ended."""
    num_looks: Count = 0
    """Looks that have compared, since the active version answers."""
    num_answers: Count = 0
    """Answers in the window of the last one."""
    num_users: Count = 0
    """Users in it."""
    compares_from: Timestamp | None = None
    """Time of the first comparison. Absent before there is a reference."""
    signals: Annotated[list[SignalStatus], Field(max_length=10, json_schema_extra=MAP_BY_NAME)] = []
    """What each signal says."""
    note: Sentence | None = None
    """What the last look did not compare, or compares with a new reference, and why."""
    quality: QualityStatus | None = None
    """What people and the judge say. Absent without `monitor.quality`."""
    report_uri: StoredURI | None = None
    """Page with the plots of the last look."""
    failure: Sentence | None = None
    """Why the last look failed. Absent if it did not."""
