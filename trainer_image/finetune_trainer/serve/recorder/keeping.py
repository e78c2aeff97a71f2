"""Moves rows from the spool to object storage, and deletes what is old or unwanted there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.places import Place
from finetune_trainer.serve.recorder.spool import File, Spool
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.counting import Counts, count_traffic
from finetune_trainer.traffic.deleting import (
    delete_answer,
    delete_older,
    delete_user,
    purge_segments,
)
from finetune_trainer.traffic.places import segment_key, time_of, tombstone_of_id
from finetune_trainer.traffic.reading import find_exchange, list_segments
from finetune_trainer.traffic.rows import Exchange, write_exchange

logger = logging.getLogger(__name__)

SEGMENT_SECONDS = 15.0
"""A row is in object storage after this time, if that can be reached."""
LOOK_SECONDS = 1.0
MAX_PAUSE_SECONDS = 30.0
SWEEP_SECONDS = 3600.0
COUNT_SECONDS = 60.0
ASKING_SECONDS = 20.0
"""A client waits so long for the store."""

_Value = TypeVar("_Value")


class Keeper:
    """Keeps the rows of all endpoints of a namespace.

    Attributes:
        places: Of the endpoints that capture, by name.
        counts: Stored answers and feedback at each place, as they were last counted.
    """

    def __init__(self, spool: Spool, metrics: Metrics, credentials_dir: Path | None) -> None:
        self.spool = spool
        self._metrics = metrics
        self._credentials_dir = credentials_dir
        self.places: dict[str, Place] = {}
        self.is_known = False
        self._stores: dict[Place, ObjectStore] = {}
        self._lock = asyncio.Lock()
        self.counts: dict[Place, Counts] = {}

    def follow(self, places: dict[str, Place]) -> None:
        """Take over the places as they are now."""
        self.places, self.is_known = places, True
        kept = set(places.values())
        self._stores = {place: store for place, store in self._stores.items() if place in kept}
        self.counts = {place: counts for place, counts in self.counts.items() if place in kept}

    def store_of(self, place: Place) -> ObjectStore:
        """Return the store of a place.

        Raises:
            UserError: It cannot be opened.
        """
        if place not in self._stores:
            self._stores[place] = place.open(self._credentials_dir)
        return self._stores[place]

    async def ask(self, work: Callable[[ObjectStore], _Value], place: Place) -> _Value:
        """Return what a store says.

        Raises:
            Refused: It is away.
        """
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                return await asyncio.to_thread(lambda: work(self.store_of(place)))
        except (TrainerError, TimeoutError) as error:
            reason = error.reason if isinstance(error, TrainerError) else "TooSlow"
            logger.warning("endpoint %s: storage failed: %s", place.endpoint, reason)
            message = f"The storage of captured answers failed ({reason}). Try again later."
            raise Refused(503, "storage_failed", message, retry_seconds=5) from None

    def has_room(self, endpoint: str) -> bool:
        """Return whether another row of an endpoint may wait for its storage."""
        return self.spool.has_room(endpoint, max(1, len(self.places)))

    async def find(self, place: Place, response_id: str) -> Exchange:
        """Return an answer.

        Raises:
            Refused: There is none, or another front's recorder has not stored it yet.
        """
        pending = self.spool.find(place.endpoint, response_id)
        if pending is not None:
            return pending
        found = await self.ask(lambda store: find_exchange(store, response_id), place)
        if found is not None:
            return found
        age = (now() - time_of(response_id)).total_seconds()
        tombstone = tombstone_of_id(response_id)
        if age < 2 * SEGMENT_SECONDS and not await self.ask(
            lambda store: store.exists(tombstone), place
        ):
            message = "The answer is being stored. Try again in some seconds."
            raise Refused(503, "not_stored_yet", message, retry_seconds=SEGMENT_SECONDS / 3)
        raise no_answer()

    async def keep_storing(self) -> None:
        """Store closed files until cancelled; pause while the storage is away."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            self.spool.close_older(time.monotonic() - SEGMENT_SECONDS)
            is_done = await self.store_closed()
            pause = LOOK_SECONDS if is_done else min(2 * pause, MAX_PAUSE_SECONDS)

    async def store_all(self) -> bool:
        """Store everything that is here; return whether it worked."""
        self.spool.close_older(time.monotonic())
        return await self.store_closed()

    async def store_closed(self) -> bool:
        """Store the closed files; return whether all are stored."""
        if not self.is_known:
            return not self.spool.files
        away: set[str] = set()
        async with self._lock:
            for file in [each for each in self.spool.files if each.is_closed]:
                if file.endpoint in away:
                    continue  # each try may take long, and others wait for it
                place = self.places.get(file.endpoint)
                if place is None:
                    self._metrics.drop(file.endpoint, "NotCaptured", len(file.read()))
                    self.spool.drop(file)
                    continue
                try:
                    await asyncio.to_thread(self._store, file, place)
                except TrainerError as error:
                    away.add(file.endpoint)
                    logger.warning("endpoint %s: not stored: %s", file.endpoint, error.message)
                    self._metrics.fail(file.endpoint, error.reason)
                else:
                    self.spool.drop(file)
        self._metrics.show_spool(self.spool.num_bytes)
        return not away

    def _store(self, file: File, place: Place) -> None:
        rows = file.read()
        if not rows:
            return
        times = [row.time for row in rows]
        # By the name of its file: a second try after a lost answer writes the same object.
        *_, writer, number = file.path.stem.split("-")
        key = segment_key(
            min(times), max(times), num_rows=len(rows), writer=writer, number=int(number)
        )
        self.store_of(place).write_bytes(key, b"".join(map(write_exchange, rows)))
        self._metrics.store(file.endpoint, len(rows))

    async def delete_answer(self, place: Place, response_id: str) -> None:
        """Delete an answer and what people said of it.

        Raises:
            Refused: The storage is away. The deletion may have begun; it can be repeated.
        """
        async with self._lock:
            self.spool.remove(place.endpoint, lambda row: row.id == response_id)
            await self.ask(lambda store: delete_answer(store, response_id), place)

    async def delete_user(self, place: Place, user: str) -> int:
        """Delete the answers of a user, by the keyed hash; return the number of places changed.

        Raises:
            Refused: As above.
        """
        until = now()
        async with self._lock:
            number = self.spool.remove(place.endpoint, lambda row: row.user == user)
            return number + await self.ask(
                lambda store: delete_user(store, user, until=until), place
            )

    async def keep_sweeping(self) -> None:
        """Enforce retention each hour, and purge again what may have been stored meanwhile."""
        while True:
            if self.is_known:
                for place in list(self.places.values()):
                    await self.sweep(place)
            await asyncio.sleep(SWEEP_SECONDS if self.is_known else LOOK_SECONDS)

    async def keep_counting(self) -> None:
        """Count what is stored, each minute."""
        while True:
            for place in list(self.places.values()):
                await self.count(place)
            await asyncio.sleep(COUNT_SECONDS if self.is_known else LOOK_SECONDS)

    async def count(self, place: Place) -> None:
        """Count what is stored of an endpoint; a failure leaves the last counts."""
        try:
            counts = await asyncio.to_thread(lambda: count_traffic(self.store_of(place)))
        except TrainerError as error:
            self._metrics.fail(place.endpoint, error.reason)
        else:
            if self.places.get(place.endpoint) == place:
                self.counts[place] = counts

    async def sweep(self, place: Place) -> None:
        """Delete what is older than the retention, and deleted answers that came late."""
        moment = now()
        before = moment - timedelta(days=place.retention_days)

        def work() -> None:
            store = self.store_of(place)
            delete_older(store, before)
            recent = list_segments(store, since=moment - 2 * timedelta(seconds=SWEEP_SECONDS))
            purge_segments(store, recent)

        try:
            await asyncio.to_thread(work)
        except TrainerError as error:
            logger.warning("endpoint %s: not swept: %s", place.endpoint, error.message)
            self._metrics.fail(place.endpoint, error.reason)


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def no_answer() -> Refused:
    """Return the refusal for an id that names no captured answer."""
    return Refused(404, "not_found", "There is no captured answer with this id.", param="id")
