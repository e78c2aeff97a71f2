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
MAX_CELLS_CHARACTERS = 2400
MAX_REJECTED = 10
MAX_KNOWN = 10
MAX_DECISIONS = 20

EndpointPhase = Literal["Pending", "Verifying", "RollingOut", "Available", "Degraded", "Failed"]
Signal = Literal["Errors", "Slow", "Refusals", "InvalidJson", "ThumbsDown"]
Action = Literal["Verified", "Refused", "Advanced", "Held", "Promoted", "RolledBack", "Restored"]
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
    """Available, Verified, Progressing, Degraded, Drifted, Recorded or Stalled."""


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


class Published(APIModel):
    """A published version, and where it lies."""

    version: Count
    """Number of the published version."""
    adapter: AdapterName
    """Name that the version is loaded under. It never names anything else."""
    manifest_uri: StoredURI
    """Manifest of the version."""
    weights_sha256: Digest | None = None
    """SHA-256 of the weights file, as the job's status has it. It pins the version before its first
    verification. Absent where no status of a job named it."""
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


class Served(Published):
    """A version and the server that answers with it."""

    sha256: Digest
    """SHA-256 of the manifest, as the server pods computed it. Empty until they have verified the
    version; afterwards a manifest with another digest is refused."""
    server: Name
    """Deployment and Service that answer with it."""
    verified_time: Timestamp | None = None
    """When all server pods had verified it. Absent until then."""
    since: Timestamp | None = None
    """Since when it answers all requests. Absent for a candidate."""


class KnownVersion(APIModel):
    """Who published a version, and with which content."""

    version: Count
    """Number of the published version."""
    job_uid: Name | None = None
    """UID of the FineTuneJob that published it."""
    weights_sha256: Digest | None = None
    """SHA-256 of the weights file, as the job's status had it."""
    sha256: Digest | None = None
    """SHA-256 of the manifest. Absent until server pods have verified the version."""


class StreamCounts(APIModel):
    """Requests that one front process has passed to one version."""

    requests: Count = 0
    """Requests that count. Of one user, at most a fortieth of `rollout.minRequests` does; of one
    sender, at most a half, unless it is the only key."""
    asked: Count = 0
    """All requests, except during an outage."""
    users: Count = 0
    """Different users who sent them: each `user`, else each conversation; without keys, each
    address."""


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


class EventsStatus(APIModel):
    """Users who had a bad answer of one kind, each once in a rollout."""

    signal: Signal
    """The kind."""
    cells: Annotated[str, Field(max_length=MAX_CELLS_CHARACTERS)]
    """Which version answered whom at which weight: hashes without a name, compressed. Front
    processes report alike, so that nobody counts twice, also after a restart."""


class EvidenceStatus(APIModel):
    """How strongly one signal says that the candidate is worse."""

    signal: Literal["All", Signal]
    """What is compared. `All` is the weighted mean of the others, which decides."""
    log_e: Number
    """Natural logarithm of the e-value. Above 0 it speaks against the candidate."""
    active: Count = 0
    """Users with a bad answer of the active version."""
    candidate: Count = 0
    """Users with a bad answer of the candidate."""


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
    is_edit: bool | None = None
    """Whether an edit of the spec moves the active version to this server. Absent otherwise."""
    streams: Annotated[
        list[StreamStatus], Field(max_length=MAX_STREAMS, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Requests that fronts have counted in this rollout."""
    events: Annotated[list[EventsStatus], Field(max_length=5, json_schema_extra=ATOMIC_LIST)] = []
    """Bad answers of both versions in this rollout."""
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


class RefusedMove(APIModel):
    """A server that the active version does not move to."""

    server: Name
    """Deployment that the version was verified on."""
    reason: Reason
    """Why, in one word."""
    message: Sentence = ""
    """What was found."""
    is_edit: bool | None = None
    """Whether an edit of the spec asked for the move. Absent for one that the operator's
    configuration asked for."""
    time: Timestamp | None = None
    """When the version failed last."""
    failures: Count = 1
    """How often it has failed."""


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
    newest: Published | None = None
    """The version with the highest number that was ever known. It stays when its FineTuneJob is
    deleted, so the endpoint moves to a smaller number only where `spec.version` names it."""
    known_versions: Annotated[
        list[KnownVersion], Field(max_length=MAX_KNOWN, json_schema_extra=ATOMIC_LIST)
    ] = []
    """The last versions by number, newest last. `spec.version` is compared with them, also when
    their FineTuneJobs are gone."""
    rejected: Annotated[
        list[RejectedVersion], Field(max_length=MAX_REJECTED, json_schema_extra=ATOMIC_LIST)
    ] = []
    """Versions that were refused or rolled back, newest last."""
    refused: RefusedMove | None = None
    """The server on which the active version failed. It is stopped. The move is tried again an hour
    later, then 4 hours later, then each 24 hours, and after an edit of the spec."""
    decisions: Annotated[
        list[Decision], Field(max_length=MAX_DECISIONS, json_schema_extra=ATOMIC_LIST)
    ] = []
    """The last decisions, newest last."""
    capture: CaptureStatus | None = None
    """Where answers are stored. Absent without `spec.capture`."""
    monitor: MonitorStatus | None = None
    """The last look at them. Absent without `spec.monitor`."""
