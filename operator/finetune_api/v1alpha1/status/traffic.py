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
"""What a monitor compares with the training prompts and the evaluation's answers."""


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
    """Natural logarithm of the evidence for a change. After an alarm it begins anew."""
    since: Timestamp | None = None
    """Since when it has changed. Absent without an alarm; one holds for 30 days."""


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
    """Looks with enough answers, since the active version answers."""
    num_answers: Count = 0
    """Answers that they have compared."""
    num_waiting: Count = 0
    """Answers that are too few for a look, and wait for the next one."""
    signals: Annotated[list[SignalStatus], Field(max_length=10, json_schema_extra=MAP_BY_NAME)] = []
    """What each signal says."""
    quality: QualityStatus | None = None
    """What people and the judge say. Absent without `monitor.quality`."""
    report_uri: StoredURI | None = None
    """Page with the plots of the last look."""
    failure: Sentence | None = None
    """Why the last look failed. Absent if it did not."""
