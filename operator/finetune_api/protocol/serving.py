"""Reports of serving pods: ``GET /report`` at port 8081 of a front or a server pod.

The operator polls them. Reports of other versions of the product are read too, so unknown fields
are ignored.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from finetune_api.meta import APIModel
from finetune_api.v1alpha1.status.endpoint import (
    MAX_KNOWN,
    MAX_REJECTED,
    MAX_STREAMS,
    AdapterName,
    Digest,
    EventsStatus,
    KnownVersion,
    Percent,
    RejectedVersion,
    StreamCounts,
)
from finetune_api.v1alpha1.status.fields import Count, Number, Reason, StoredURI, Timestamp

REPORT_PORT = 8081
REPORT_PORT_NAME = "report"
"""Name of the port in the pods, by which Prometheus finds it."""
REPORT_PATH = "/report"
MAX_REPORT_BYTES = 512 * 1024
"""Longest report that the operator reads: states of ``MAX_REPORTED`` adapters with long names."""
MAX_REPORTED = 1000
MAX_DIFFERING = 5
MAX_RECORDS = 100

BootId = Annotated[str, Field(min_length=1, max_length=40)]
"""Names a process: one that starts again has another."""
AdapterState = Literal["Fetching", "Loading", "Verifying", "Verified", "Failed"]


USER_SHARES = 40
"""At each front, one user is at most this part of the requests that a rollout needs."""
SENDER_SHARES = 2
"""The same of one sender among several."""
NUM_SENDERS = 64
NUM_USERS = 512
"""A sender is told apart by one of ``NUM_SENDERS`` numbers, its users by one of ``NUM_USERS``."""
NUM_CELLS = NUM_SENDERS * NUM_USERS
OF_CANDIDATE = 128
"""Is added to the weight in the mark of a cell if the candidate answered."""

MAX_CELLS = 600
"""Cells of one kind that are kept."""
MAX_CELLS_BEYOND = 8
"""So many of each sender are kept nevertheless: one who fills the table silences nobody."""

Cells = Mapping[int, int]
"""Users with a bad answer. The key is ``sender * NUM_USERS + user``. The value is the weight, from
1 to 99, and ``OF_CANDIDATE`` more if the candidate gave the answer."""


def add_cell(cells: dict[int, int], cell: int, mark: int) -> None:
    """Note a user's bad answer, unless the user has one already or there is no room."""
    sender = cell // NUM_USERS
    if cell not in cells and (
        len(cells) < MAX_CELLS
        or sum(each // NUM_USERS == sender for each in cells) < MAX_CELLS_BEYOND
    ):
        cells[cell] = mark


def write_cells(cells: Cells) -> str:
    """Return cells as text: the distances between keys, then the values, compressed."""
    keys = sorted(cells)
    steps = bytearray()
    for before, key in zip([-1, *keys], keys, strict=False):
        step = key - before
        while step >= 255:
            steps.append(255)
            step -= 254
        steps.append(step)
    return base64.b64encode(zlib.compress(steps + bytes(cells[key] for key in keys), 9)).decode()


def read_cells(text: str) -> dict[int, int]:
    """Return the cells that a text holds.

    Raises:
        ValueError: It was not written by ``write_cells``.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text, validate=True), 2 * NUM_CELLS)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    keys: list[int] = []
    key, at = -1, 0
    while len(data) - at > len(keys):
        step, at = data[at], at + 1
        key += 254 if step == 255 else step
        if step != 255:
            keys.append(key)
    marks = data[at:]
    is_whole = unpacker.eof and len(marks) == len(keys) and 0 not in data and key < NUM_CELLS
    if not is_whole or not all(0 < mark % OF_CANDIDATE < 100 for mark in marks):
        raise ValueError("these are no cells")
    return dict(zip(keys, marks, strict=True))


class _Reported(APIModel):
    model_config = {**APIModel.model_config, "extra": "ignore"}


class ReportedCounts(StreamCounts, _Reported):
    """Requests that a front process has passed to one version."""


class ReportedStream(_Reported):
    """Cumulative counts of a front process at one weight of the present rollout."""

    weight: Percent
    active: ReportedCounts
    candidate: ReportedCounts


class ReportedEvents(EventsStatus, _Reported):
    """Users for whom a front process saw a bad answer of one kind, in the present rollout."""


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
        events: Bad answers in it.
        keys: API keys that open it; None if it asks for none.
        tripped: Adapters that failed hard and get no requests.
        requests: All requests since the process started.
        captured: What its recorder has counted in object storage.
    """

    name: Annotated[str, Field(min_length=1, max_length=52)]
    active: AdapterName | None = None
    candidate: AdapterName | None = None
    rollout_id: Annotated[str, Field(max_length=63)] | None = None
    streams: Annotated[list[ReportedStream], Field(max_length=MAX_STREAMS)] = []
    events: Annotated[list[ReportedEvents], Field(max_length=5)] = []
    keys: Count | None = None
    tripped: Annotated[list[AdapterName], Field(max_length=8)] = []
    requests: Count = 0
    captured: CapturedCounts | None = None


STALE_SECONDS = 90.0
"""A front that hears nothing for so long lists the endpoints anew. Until then it acts on what it
has heard last. Bookmarks arrive about once a minute."""
OUTLIVES_SECONDS = STALE_SECONDS + 30.0
"""A server that the active version has left, and an adapter that no endpoint names any more, answer
for so long."""


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
        failures: How often the pod has found a fault of the version; 0 if it does not count.
    """

    name: AdapterName
    version: Count
    sha256: Digest
    weights_sha256: Digest | None = None
    state: AdapterState
    failures: Count = 0
    reason: Reason | None = None
    message: Annotated[str, Field(max_length=1024)] = ""
    verification: Verification | None = None


class StoredDecisions(_Reported):
    """The decisions on an endpoint, as they are stored beside its versions.

    They outlive the endpoint's status. They have numbers and digests and no place, so whoever may
    write there chooses only among versions of the name.

    Attributes:
        active: The version that answered last.
        newest: The highest number that was known.
        time: When the last decision was made.
    """

    active: Count
    newest: Count
    known_versions: Annotated[list[KnownVersion], Field(max_length=MAX_KNOWN)] = []
    rejected: Annotated[list[RejectedVersion], Field(max_length=MAX_REJECTED)] = []
    time: Timestamp


class RecordReport(_Reported):
    """The stored decisions of an endpoint that has lost them, or whose are not stored.

    Attributes:
        name: Name of the FineTuneEndpoint.
        state: ``Reading``; ``Absent`` or ``Found`` in storage; ``Failed`` where storage refuses.
        reason: Why it failed, or what it waits for.
    """

    name: Annotated[str, Field(min_length=1, max_length=52)]
    state: Literal["Reading", "Absent", "Found", "Failed"]
    reason: Reason | None = None
    message: Annotated[str, Field(max_length=300)] = ""
    decisions: StoredDecisions | None = None


class ServerReport(_Reported):
    """Report of a server pod's agent.

    Attributes:
        records: Endpoints whose decisions are not stored, or were read back. The decisions of all
            others are stored. None: the agent is of a release that stores none.
    """

    kind: Literal["Server"] = "Server"
    id: BootId
    server: Annotated[str, Field(max_length=63)]
    engine: EngineReport
    adapters: Annotated[list[AdapterReport], Field(max_length=MAX_REPORTED)] = []
    records: Annotated[list[RecordReport], Field(max_length=MAX_RECORDS)] | None = None


_REPORT: TypeAdapter[FrontReport | ServerReport] = TypeAdapter(
    Annotated[FrontReport | ServerReport, Field(discriminator="kind")]
)


def parse_report(text: bytes | str) -> FrontReport | ServerReport:
    """Parse a report; raises pydantic's ValidationError."""
    report: Any = _REPORT.validate_json(text, by_alias=True, by_name=False)
    return report  # type: ignore[no-any-return]
