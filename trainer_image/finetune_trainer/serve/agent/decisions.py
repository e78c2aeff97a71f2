"""Stores the decisions on endpoints beside their versions, and reads them where a status has none.

``versions/<namespace>/<name>/endpoints/<endpoint>.json`` says which version answers, which were
rejected, and who published which weights. The place comes from Kubernetes, never from what is read.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.serving import MAX_RECORDS, RecordReport, StoredDecisions
from finetune_api.v1alpha1.status.endpoint import FineTuneEndpointStatus, ServedStorage
from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.agent.fetching import access_of, run_to_its_end, to_file_uri
from finetune_trainer.serve.logs import log_defect
from finetune_trainer.storage import ObjectStore, open_store

FIRST_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
NUM_TOGETHER = 4
MAX_BYTES = 64 * 1024
"""Of a stored object. One of ours has at most 16 KiB."""
MAX_FOUND = 8
"""Found decisions in one report. The others are reported once these are taken over."""
MESSAGE_CHARACTERS = 300
RECORDED = "Recorded"
"""Condition of an endpoint whose stored decisions were read."""
_FINAL = ("AccessDenied", "DecisionsDamaged")
"""Reasons for which a read is not waited for: the endpoint goes on without stored decisions."""

log = logging.getLogger(__name__)

OpenStore = Callable[[ServedStorage], ObjectStore]


@dataclass(kw_only=True)
class _Record:
    """The decisions on one endpoint.

    Attributes:
        body: The object that the record was made from.
        key: Where they are stored.
        decisions: What is to be stored; None to read what is there.
        told: What is reported of it; None once it is stored.
        lock: Held during a request, so that an older write never follows a newer one.
    """

    body: Mapping[str, Any]
    storage: ServedStorage
    key: str
    decisions: StoredDecisions | None
    told: RecordReport | None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Decisions:
    """Keeps stored decisions as the endpoints of a namespace have them.

    An endpoint without a version that answers has its stored decisions read, once. They are
    reported until its status has the condition ``Recorded``. The decisions on any other endpoint
    are stored by the agents of the server of its active version.

    Args:
        server: Only endpoints with a version on this server count.
        opens: Opens the storage of a version.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        *,
        namespace: str,
        server: str,
        opens: OpenStore,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._namespace = namespace
        self._server = server
        self._opens = opens
        self._pause = pause
        self._turns = asyncio.Semaphore(NUM_TOGETHER)
        self._records: dict[str, _Record] = {}

    def follow(self, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin with what has changed; needs a running event loop."""
        records: dict[str, _Record] = {}
        for name, body in endpoints.items():
            before = self._records.pop(name, None)
            record = before if before and before.body is body else self._read(name, body)
            if record is None or record is before:
                if before is not None and record is None:
                    _cancel(before)
            elif before is not None and _asks_the_same(before, record):
                before.body, record = body, before
            else:
                if before is not None:
                    _cancel(before)
                    record.lock = before.lock
                record.task = asyncio.create_task(self._work(record))
            if record is not None:
                records[name] = record
        for gone in self._records.values():
            _cancel(gone)
        self._records = records

    def list_open(self) -> list[RecordReport]:
        """Return what is to know of endpoints whose decisions are not stored, a bounded number."""
        told = [each.told for each in self._records.values() if each.told is not None]
        found = [each for each in told if each.state == "Found"]
        others = [each for each in told if each.state != "Found"]
        return [*found[:MAX_FOUND], *others][:MAX_RECORDS]

    async def close(self) -> None:
        """Stop all work."""
        tasks = [each.task for each in self._records.values() if each.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, name: str, body: Mapping[str, Any]) -> _Record | None:
        """Return the record of an endpoint; None if its decisions are none of this server's."""
        told = body.get("status") or {}
        try:
            status = FineTuneEndpointStatus.model_validate(told, by_alias=True, extra="ignore")
        except ValidationError:
            return None
        served = status.active or status.candidate
        if served is None or served.server != self._server or status.newest is None:
            return None
        decisions = _decisions_of(status)
        is_read = any(each.type == RECORDED for each in status.conditions)
        if decisions is None and (is_read or status.active is not None):
            return None
        job = body["spec"]["jobRef"]["name"]
        return _Record(
            body=body,
            storage=served.storage,
            key=f"versions/{self._namespace}/{job}/endpoints/{name}.json",
            decisions=decisions,
            told=RecordReport(name=name, state="Reading"),
        )

    async def _work(self, record: _Record) -> None:
        """Store or read until it is done; failures are tried again."""
        num_failures = 0
        while not await self._try(record):
            num_failures += 1
            bound = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(num_failures, 10))
            await self._pause(random.uniform(bound / 2, bound))  # noqa: S311 - jitter

    async def _try(self, record: _Record) -> bool:
        """Return whether nothing is left to do."""
        try:
            async with record.lock, self._turns:
                found = await run_to_its_end(lambda: self._exchange(record))
        except TrainerError as error:
            reason, message = error.reason, error.message
        except Exception as error:
            log_defect(error)
            reason, message = "AgentFailed", f"the agent failed ({type(error).__name__})"
        else:
            name = record.key.rpartition("/")[2].removesuffix(".json")
            state = "Absent" if found is None else "Found"
            told = RecordReport(name=name, state=state, decisions=found)
            record.told = told if record.decisions is None else None
            return True
        assert record.told is not None
        is_failed = record.decisions is not None or reason in _FINAL
        if record.told.reason != reason:
            log.warning("Decisions %s: %s", record.key, reason)
        record.told = RecordReport(
            name=record.told.name,
            state="Failed" if is_failed else "Reading",
            reason=reason,
            message=message[:MESSAGE_CHARACTERS],
        )
        return False

    def _exchange(self, record: _Record) -> StoredDecisions | None:
        """Return what is stored, after the decisions were stored if they are not the same.

        Raises:
            TrainerError: Storage refuses or fails, or what it has is damaged or newer.
        """
        store, wanted = self._opens(record.storage), record.decisions
        try:
            stored = _read_stored(store, record.key)
        except TrainerError as error:
            if wanted is None or error.reason != "DecisionsDamaged":
                raise
            stored = None  # damaged: stored anew
        if wanted is None or stored == wanted:
            return stored
        if stored is not None and stored.time > wanted.time:
            raise TrainerError(
                "StatusIsOlder",
                f"{record.key} has a decision of {stored.time}, and the endpoint's last one is of "
                f"{wanted.time}: the endpoint was restored from an older backup. The next decision "
                "is stored again",
            )
        store.write_bytes(record.key, wanted.model_dump_json(by_alias=True).encode())
        return wanted


def open_storage(credentials_dir: Path | None) -> OpenStore:
    """Return what opens the storage of a version."""
    return lambda storage: open_store(to_file_uri(storage.uri), access_of(storage, credentials_dir))


def _read_stored(store: ObjectStore, key: str) -> StoredDecisions | None:
    if not store.exists(key):
        return None
    data = b""
    for chunk in store.read_chunks(key):
        data += chunk
        if len(data) > MAX_BYTES:
            raise TrainerError("DecisionsDamaged", f"{key} has more than {MAX_BYTES} bytes")
    try:
        return StoredDecisions.model_validate_json(data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise TrainerError(
            "DecisionsDamaged", f"{key} cannot be read ({error.error_count()} faults)"
        ) from error


def _decisions_of(status: FineTuneEndpointStatus) -> StoredDecisions | None:
    if status.active is None or status.newest is None or not status.decisions:
        return None
    return StoredDecisions(
        active=status.active.version,
        newest=status.newest.version,
        known_versions=status.known_versions,
        rejected=status.rejected,
        time=status.decisions[-1].time,
    )


def _asks_the_same(one: _Record, other: _Record) -> bool:
    return (one.storage, one.key, one.decisions) == (other.storage, other.key, other.decisions)


def _cancel(record: _Record) -> None:
    if record.task is not None:
        record.task.cancel()
