"""Status of a FineTuneEndpoint: the routing table of the front, and what the operator has decided.

Front and server pods read it, and act on it while the operator is away.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import ATOMIC_LIST, MAP_BY_TYPE, APIModel
from finetune_api.v1alpha1.status.fields import (
    Condition,
    Count,
    Number,
    Reason,
    Sentence,
    ShortText,
    StoredURI,
    Timestamp,
)
from finetune_api.v1alpha1.status.traffic import CaptureStatus, MonitorStatus

MAX_STREAMS = 32
MAX_REJECTED = 10
MAX_DECISIONS = 20

EndpointPhase = Literal["Pending", "Verifying", "RollingOut", "Available", "Degraded", "Failed"]
Signal = Literal["Errors", "Slow", "Refusals", "InvalidJson", "ThumbsDown"]
Action = Literal["Verified", "Refused", "Advanced", "Held", "Promoted", "RolledBack"]
Percent = Annotated[int, Field(ge=0, le=100)]
AdapterName = Annotated[str, Field(max_length=128)]
"""``<namespace>.<job>-v<N>``."""
Name = Annotated[str, Field(max_length=63)]
"""A name of a Deployment with a Service, or a UID."""
Digest = Annotated[str, Field(max_length=64)]
"""SHA-256 in hex digits."""


class EndpointCondition(Condition):
    """As in meta/v1."""

    type: Annotated[str, Field(max_length=63)]
    """Available, Verified, Progressing, Degraded, Drifted or Stalled."""


class ServedStorage(APIModel):
    """How the object storage of a version is reached."""

    uri: StoredURI
    """`output.uri` of the job: versions, runs and data sets lie below it."""
    credentials_secret: ShortText | None = None
    """Secret of `output.credentialsRef`. Absent: the pod's own identity."""
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    """`s3.endpoint` of the job."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """`s3.region` of the job."""
    addressing: Annotated[str, Field(max_length=16)] | None = None
    """`s3.addressing` of the job."""


class Served(APIModel):
    """A version and the server that answers with it."""

    version: Count
    """Number of the published version."""
    adapter: AdapterName
    """Name that the version is loaded under. It never names anything else."""
    manifest_uri: StoredURI
    """Manifest of the version."""
    sha256: Digest
    """SHA-256 of the manifest, as the server pods computed it. Empty until they have verified the
    version; afterwards a manifest with another digest is refused."""
    weights_sha256: Digest | None = None
    """SHA-256 of the weights file, as the job's status has it. It pins the version before its first
    verification. Absent where the job's status is about another version."""
    server: Name
    """Deployment and Service that answer with it."""
    base_model: StoredURI
    """Base model, as the job that published the version names it."""
    base_model_secret: ShortText | None = None
    """Secret of `model.credentialsRef` of that job. Absent: that of the storage."""
    format: Literal["Adapter", "Merged"] = "Adapter"
    """What of the version is loaded: the adapter, beside others of the same base model; or whole
    weights, on a server of their own."""
    rank: Count | None = None
    """Rank of the adapter."""
    storage: ServedStorage
    """How its files are reached."""
    job_uid: Name | None = None
    """UID of the FineTuneJob that published it."""
    verified_time: Timestamp | None = None
    """When all server pods had verified it. Absent until then."""
    since: Timestamp | None = None
    """Since when it answers all requests. Absent for a candidate."""


class StreamCounts(APIModel):
    """Requests that one front process has passed to one version, and what was bad about them.

    A bad event counts once per sender and rollout: an API key, or without keys a client's address.
    It also counts once per sticky key.
    """

    requests: Count = 0
    """Requests. Of one sender, at most a part of `rollout.minRequests` counts."""
    errors: Count = 0
    """Requests that failed in the engine."""
    slow: Count = 0
    """Requests whose answer began later than `rollout.latencySeconds`."""
    refusals: Count = 0
    """Answers that refuse to answer."""
    invalid_json: Count = 0
    """Answers that had to be JSON and are not."""
    thumbs_down: Count = 0
    """Answers that users have marked as bad."""


class StreamStatus(APIModel):
    """What one front process has counted at one weight."""

    front: Annotated[str, Field(max_length=40)]
    """The process; a front that starts again has another name."""
    weight: Percent
    """Share of the candidate at that time, in percent."""
    active: StreamCounts
    """Counts of the active version."""
    candidate: StreamCounts
    """Counts of the candidate."""


class EvidenceStatus(APIModel):
    """How strongly one signal says that the candidate is worse."""

    signal: Literal["All", Signal]
    """What is compared. `All` is the weighted mean of the others, which decides."""
    log_e: Number
    """Natural logarithm of the e-value. Above 0 it speaks against the candidate."""
    active: Count = 0
    """Bad events of the active version."""
    candidate: Count = 0
    """Bad events of the candidate."""


class Candidate(Served):
    """The version that is to take over."""

    rollout_id: Annotated[str, Field(max_length=63)] | None = None
    """Names this rollout. A hash of it and of the asker decides which version answers."""
    weight: Percent = 0
    """Share of requests that it gets, in percent. 0 until it is verified."""
    step: Count = 0
    """Position in `rollout.steps`, from 0."""
    requests: Count = 0
    """Requests that it has answered at this step."""
    start_time: Timestamp | None = None
    """When it got its first share of requests."""
    step_time: Timestamp | None = None
    """When this step began."""
    streams: Annotated[
        list[StreamStatus], Field(max_length=MAX_STREAMS, json_schema_extra=ATOMIC_LIST)
    ] = []
    """What fronts have counted in this rollout."""
    evidence: Annotated[
        list[EvidenceStatus], Field(max_length=6, json_schema_extra=ATOMIC_LIST)
    ] = []
    """What the counts say."""


class RejectedVersion(APIModel):
    """A version that does not answer anybody, until `spec.version` names it."""

    version: Count
    """Number of the published version."""
    sha256: Digest
    """SHA-256 of its manifest; empty if no server pod has read it."""
    weights_sha256: Digest | None = None
    """SHA-256 of its weights file, as the job's status had it."""
    reason: Reason
    """Why, in one word."""
    message: Sentence = ""
    """What was found."""
    time: Timestamp
    """When."""


class Decision(APIModel):
    """One decision on a version."""

    time: Timestamp
    """When."""
    version: Count
    """Number of the published version."""
    action: Action
    """What was decided."""
    weight: Percent = 0
    """Share of requests that the version has since, in percent."""
    message: Sentence = ""
    """The numbers behind it."""


class FineTuneEndpointStatus(APIModel):
    """What the operator reports and the front follows."""

    observed_generation: Count | None = None
    """Generation of the spec this status was computed from."""
    phase: EndpointPhase | None = None
    """For columns only; the conditions are the contract."""
    reason: Reason | None = None
    """Why, for columns only: the reason of the condition that decides the phase."""
    url: Annotated[str, Field(max_length=253)] | None = None
    """Base URL of the API, for OpenAI clients inside the cluster."""
    model: ShortText | None = None
    """Name of the model in requests: that of the endpoint."""
    conditions: Annotated[
        list[EndpointCondition], Field(max_length=12, json_schema_extra=MAP_BY_TYPE)
    ] = []
    """State by type."""
    active: Served | None = None
    """The version that answers."""
    candidate: Candidate | None = None
    """The version that is to take over. Absent while none is."""
    previous: Served | None = None
    """The version that answered before. It stays loaded until the next rollout."""
    rejected: Annotated[
        list[RejectedVersion], Field(max_length=MAX_REJECTED, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Versions that were refused or rolled back, newest last."""
    decisions: Annotated[
        list[Decision], Field(max_length=MAX_DECISIONS, json_schema_extra=ATOMIC_LIST)
    ] = []
    """The last decisions, newest last."""
    capture: CaptureStatus | None = None
    """Where answers are stored. Absent without `spec.capture`."""
    monitor: MonitorStatus | None = None
    """The last look at them. Absent without `spec.monitor`."""
