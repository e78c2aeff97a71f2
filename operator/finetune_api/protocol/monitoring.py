"""What the operator asks of a look at captured answers, and what the look reports."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from finetune_api.meta import APIModel
from finetune_api.protocol.termination import TERMINATION_MESSAGE_BYTES
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.status.endpoint import Served, ServedStorage
from finetune_api.v1alpha1.status.fields import Count, Timestamp
from finetune_api.v1alpha1.status.traffic import QualityStatus, SignalStatus
from finetune_api.v1alpha1.traffic import Monitor

TASK = "FINETUNE_MONITOR_TASK"
"""Environment variable with a :class:`LookTask` as JSON."""
SETTLING = timedelta(minutes=5)
"""Time that answers get to be given and stored: later ones are not looked at."""
REPORT_PAGE = "monitor/report.html"
"""Page with plots, below the endpoint's traffic."""


class LookTask(APIModel):
    """The answers of one look, and the version that gave them."""

    namespace: str
    endpoint: str
    job: str
    """Name that the active version is published under."""
    active: Served
    """The version whose answers are looked at."""
    traffic: ServedStorage
    """Where answers are stored: ``capture.uri``, and how it is reached."""
    monitor: Monitor
    """``spec.monitor``."""
    share: str = ""
    """Share of the requests that is captured: with another one a reference is gathered anew."""
    judge: Judge | None = None
    """The judge of the job's evaluation; None if it has none, or it may not be asked."""
    until: Timestamp
    """Answers from this time on wait for the next look."""


class LookReport(APIModel):
    """The termination message of a look. Without a reason it has succeeded."""

    version: Count = 0
    num_looks: Count = 0
    """Looks that have compared, since the version answers."""
    num_answers: Count = 0
    """Answers in the window of the last one."""
    num_users: Count = 0
    """Users in it."""
    compares_from: Timestamp | None = None
    """Time of the first comparison; None before there is a reference."""
    signals: Annotated[list[SignalStatus], Field(max_length=10)] = []
    note: str = ""
    """Signals that were not compared, or why the reference is new."""
    quality: QualityStatus | None = None
    reason: Annotated[str, Field(max_length=63)] = ""
    """Why it failed, CamelCase."""
    message: str = ""
    """What failed, and what to do."""

    def to_text(self) -> str:
        """Serialise within what the kubelet keeps; a long message is cut."""
        wire = self.to_wire()
        for name in ("message", "note"):
            wire[name] = str(wire.get(name, ""))[: TERMINATION_MESSAGE_BYTES // 8]
        return json.dumps(wire, separators=(",", ":"))
