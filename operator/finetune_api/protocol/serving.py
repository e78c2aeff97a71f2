"""Reports of serving pods: ``GET /report`` at port 8081 of a front or a server pod.

The operator polls them. Reports of other versions of the product are read too, so unknown fields
are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from finetune_api.meta import APIModel
from finetune_api.v1alpha1.status.endpoint import (
    MAX_STREAMS,
    AdapterName,
    Digest,
    Percent,
    StreamCounts,
)
from finetune_api.v1alpha1.status.fields import Count, Number, Reason, StoredURI

REPORT_PORT = 8081
REPORT_PORT_NAME = "report"
"""Name of the port in the pods, by which Prometheus finds it."""
REPORT_PATH = "/report"
MAX_REPORT_BYTES = 512 * 1024
"""Longest report that the operator reads: states of ``MAX_REPORTED`` adapters with long names."""
MAX_REPORTED = 1000
MAX_DIFFERING = 5

BootId = Annotated[str, Field(min_length=1, max_length=40)]
"""Names a process: one that starts again has another."""
AdapterState = Literal["Fetching", "Loading", "Verifying", "Verified", "Failed"]


class _Reported(APIModel):
    model_config = {**APIModel.model_config, "extra": "ignore"}


class ReportedStream(_Reported):
    """Cumulative counts of a front process at one weight of the present rollout."""

    weight: Percent
    active: StreamCounts
    candidate: StreamCounts


class CapturedCounts(_Reported):
    """Captured answers and feedback of an endpoint, since the beginning.

    Attributes:
        uri: Folder below which they are stored.
    """

    uri: StoredURI | None = None
    rows: Count = 0
    feedback: Count = 0


class FrontEndpoint(_Reported):
    """What a front process routes for one endpoint, and what it has counted.

    Attributes:
        name: Name of the FineTuneEndpoint.
        rollout_id: Rollout that the streams are counted in.
        tripped: Adapters that failed hard and get no requests.
        requests: All requests since the process started.
        captured: What its recorder has counted in object storage.
    """

    name: Annotated[str, Field(min_length=1, max_length=52)]
    active: AdapterName | None = None
    candidate: AdapterName | None = None
    rollout_id: Annotated[str, Field(max_length=63)] | None = None
    streams: Annotated[list[ReportedStream], Field(max_length=MAX_STREAMS)] = []
    tripped: Annotated[list[AdapterName], Field(max_length=8)] = []
    requests: Count = 0
    captured: CapturedCounts | None = None


class FrontReport(_Reported):
    """Report of a front process."""

    kind: Literal["Front"] = "Front"
    id: BootId
    endpoints: Annotated[list[FrontEndpoint], Field(max_length=MAX_REPORTED)] = []


class EngineReport(_Reported):
    """The engine beside an agent."""

    name: Annotated[str, Field(max_length=63)]
    version: Annotated[str, Field(max_length=128)] = ""
    is_ready: bool = False


class Verification(_Reported):
    """Comparison of a loaded version with its evaluation.

    Attributes:
        num_asked: Held-out questions that were asked.
        num_equal: Answers that equal the stored ones of the tuned model.
        num_like_base: Answers that equal the stored ones of the base model, where these differ from
            the tuned model's.
        score: Score of the answers by the evaluation's metric.
        differing: Lines of some answers that differ, in the evaluation's `samples.jsonl`, of a
            version that failed. A client that reaches the pod can read a report, so that it has no
            text and no digest, which would confirm a guess.
    """

    num_asked: Count = 0
    num_equal: Count = 0
    num_like_base: Count = 0
    score: Number | None = None
    metric: Annotated[str, Field(max_length=63)] | None = None
    differing: Annotated[list[Count], Field(max_length=MAX_DIFFERING)] = []


class AdapterReport(_Reported):
    """A version on a server pod.

    Attributes:
        sha256: SHA-256 of the manifest that the agent has read; empty until then.
        weights_sha256: Digest of the weights by which the endpoint's status names the version.
        reason: Why it failed, or what it waits for.
    """

    name: AdapterName
    version: Count
    sha256: Digest
    weights_sha256: Digest | None = None
    state: AdapterState
    reason: Reason | None = None
    message: Annotated[str, Field(max_length=1024)] = ""
    verification: Verification | None = None


class ServerReport(_Reported):
    """Report of a server pod's agent."""

    kind: Literal["Server"] = "Server"
    id: BootId
    server: Annotated[str, Field(max_length=63)]
    engine: EngineReport
    adapters: Annotated[list[AdapterReport], Field(max_length=MAX_REPORTED)] = []


_REPORT: TypeAdapter[FrontReport | ServerReport] = TypeAdapter(
    Annotated[FrontReport | ServerReport, Field(discriminator="kind")]
)


def parse_report(text: bytes | str) -> FrontReport | ServerReport:
    """Parse a report; raises pydantic's ValidationError."""
    report: Any = _REPORT.validate_json(text, by_alias=True, by_name=False)
    return report  # type: ignore[no-any-return]
