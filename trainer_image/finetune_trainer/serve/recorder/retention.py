"""Moves rows from the spool to object storage, and deletes what is old or unwanted there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from finetune_trainer.errors import TrainerError
from finetune_trainer.serve.errors import Refused
from finetune_trainer.serve.logs import log_defect
from finetune_trainer.serve.recorder.metrics import Metrics
from finetune_trainer.serve.recorder.people import Keyring
from finetune_trainer.serve.recorder.places import Place
from finetune_trainer.serve.recorder.spool import File, Spool
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.counting import Counts, Tally
from finetune_trainer.traffic.deleting import (
    delete_answer,
    delete_feedback,
    delete_older,
    mark_answer,
    mark_user,
    purge_segments,
    purge_user,
    time_of_store,
    unpurged_answers,
    unpurged_users,
)
from finetune_trainer.traffic.places import read_segment_key, segment_key, time_of, tombstone_of_id
from finetune_trainer.traffic.reading import (
    find_exchange,
    is_deleted,
    list_segments,
    read_deleted,
    user_of_sender,
)
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
MAX_ASKED = 32
"""Requests of clients that may wait for stores."""
MAX_ASKED_OF_PLACE = 16
"""Those for the store of one endpoint, which may hang."""
KEY_SECONDS = 2.0
"""An answer waits so long for the keys in the storage of its endpoint, once."""
MAX_UNTOLD = 1000
DELETING_SECONDS = 8.0
"""A client waits so long for the end of a user's deletion, once the answers are hidden."""

_Value = TypeVar("_Value")
_Purging = Coroutine[Any, Any, int | TrainerError]


class Keeper:
    """Keeps the rows of all endpoints of a namespace.

    Attributes:
        places: Of the endpoints that capture, by name.
        people: Keys that hash people.
        counts: Stored answers and feedback at each place, as they were last counted.
    """

    def __init__(
        self, spool: Spool, people: Keyring, metrics: Metrics, credentials_dir: Path | None
    ) -> None:
        self.spool = spool
        self.people = people
        self._metrics = metrics
        self._credentials_dir = credentials_dir
        self.places: dict[str, Place] = {}
        self.is_known = False
        self._stores: dict[Place, ObjectStore] = {}
        self._moving = asyncio.Lock()
        """Held while one file is stored and dropped."""
        # Threads of their own: requests and deletions must not keep rows from being stored.
        self._storer = ThreadPoolExecutor(1, "storer")
        self._deleter = ThreadPoolExecutor(1, "deleter")
        self._asker = ThreadPoolExecutor(MAX_ASKED, "asker")
        self._asked = Counter[Place]()
        self._deletions: dict[tuple[Place, str], asyncio.Task[int | TrainerError]] = {}
        """Those that run, by answer or user."""
        self._sharing: dict[str, asyncio.Task[None]] = {}
        """Looks for the keys of endpoints, by name."""
        self._untold = Counter[tuple[Place, str]]()
        """Rows removed by deletions whose clients do not know of it yet."""
        self.counts: dict[Place, Counts] = {}
        self._tallies: dict[Place, Tally] = {}
        self._counting = asyncio.Lock()

    def follow(self, places: dict[str, Place]) -> None:
        """Take over the places as they are now."""
        self.places, self.is_known = places, True
        kept = set(places.values())
        # In place, over a copy: threads of `ask` open stores at the same time.
        for place in set(self._stores) - kept:
            self._stores.pop(place, None)
        self.counts = {place: counts for place, counts in self.counts.items() if place in kept}
        self._tallies = {place: self._tallies.get(place) or Tally() for place in kept}

    def store_of(self, place: Place) -> ObjectStore:
        """Return the store of a place.

        Raises:
            UserError: It cannot be opened.
        """
        store = self._stores.get(place)
        if store is None:
            store = self._stores[place] = place.open(self._credentials_dir)
        return store

    async def ask(self, work: Callable[[ObjectStore], _Value], place: Place) -> _Value:
        """Return what a store says.

        Raises:
            Refused: It is away, or too many wait for it.
        """
        if self._asked.total() >= MAX_ASKED or self._asked[place] >= MAX_ASKED_OF_PLACE:
            raise _storage_busy()
        self._asked[place] += 1
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self._asker, lambda: work(self.store_of(place)))
        asked.add_done_callback(partial(self._end_asking, place))
        try:
            async with asyncio.timeout(ASKING_SECONDS):
                return await asyncio.shield(asked)
        except (TrainerError, TimeoutError) as error:
            reason = error.reason if isinstance(error, TrainerError) else "TooSlow"
            raise _storage_failed(place, reason) from None

    async def know_people(self, endpoint: str) -> None:
        """Have a key for hashes of an endpoint's people: a new one if its storage stays away."""
        if self.people.has(endpoint):
            return
        place = self.places.get(endpoint)
        if place is not None:
            task = self._sharing.get(endpoint)
            if task is None:
                task = self._sharing[endpoint] = asyncio.create_task(self._share_keys(place))
                task.add_done_callback(lambda _: self._sharing.pop(endpoint))
            await asyncio.wait([task], timeout=KEY_SECONDS)
        self.people.make(endpoint, now())

    async def _share_keys(self, place: Place) -> None:
        with contextlib.suppress(TrainerError):
            await asyncio.to_thread(lambda: self.people.share(self.store_of(place), place.endpoint))

    def _end_asking(self, place: Place, asked: asyncio.Future[_Value]) -> None:
        """Give the place of a thread back, which may have gone on after its client had left."""
        self._asked -= Counter([place])
        if not asked.cancelled():
            asked.exception()  # nobody else may look at it

    def has_room(self, endpoint: str) -> bool:
        """Return whether another row of an endpoint may wait for its storage."""
        return self.spool.has_room(endpoint, max(1, len(self.places)))

    async def find(self, place: Place, response_id: str) -> Exchange:
        """Return an answer.

        Raises:
            Refused: There is none, or another front's recorder has not stored it yet.
        """
        rows = self.spool.rows_of(place.endpoint, response_id)
        pending = await asyncio.to_thread(next, rows, None)
        if pending is not None:
            # Another front's recorder may have deleted it.
            if await self.ask(lambda store: is_deleted(store, pending), place):
                raise no_answer()
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
        for file in [each for each in self.spool.files if each.is_closed]:
            if file.endpoint in away:
                continue  # each try may take long, and others wait for it
            try:
                await self._move(file)
            except TrainerError as error:
                away.add(file.endpoint)
                logger.warning("endpoint %s: not stored: %s", file.endpoint, error.message)
                self._metrics.fail(file.endpoint, error.reason)
            except Exception as error:  # of one endpoint: the others' rows are stored
                away.add(file.endpoint)
                self._fail_by_defect(file.endpoint, error)
        self._metrics.show_spool(self.spool.num_bytes)
        return not away

    async def _move(self, file: File) -> None:
        """Store a closed file and drop it, unless somebody has done so."""
        async with self._moving:
            if file in self.spool.files:
                await self._in(self._storer, self._store, file)
                self.spool.drop(file)

    def _store(self, file: File) -> None:
        """Store the rows of a file that have not been deleted.

        A deletion writes its tombstone before it looks for segments. Here the segment is written
        before the last look for tombstones. So one of the two sees the other.
        """
        rows, place = file.read(), self.places.get(file.endpoint)
        if place is None:
            self._metrics.drop(file.endpoint, "NotCaptured", len(rows))
            return
        if not rows:
            return
        times = [row.time for row in rows]
        # By the name of its file: a second try after a lost answer writes the same object.
        *_, writer, number = file.path.stem.split("-")
        key = segment_key(
            min(times), max(times), num_rows=len(rows), writer=writer, number=int(number)
        )
        store = self.store_of(place)
        self.people.share(store, file.endpoint)
        deleted = read_deleted(store)
        kept = [row for row in rows if not deleted.has(row)]
        delete_feedback(store, [row.id for row in rows if deleted.has(row)])
        if kept:
            store.write_bytes(key, b"".join(map(write_exchange, kept)))
        else:
            store.delete(key)  # an earlier try may have written it
        segment, deleted = read_segment_key(key), read_deleted(store)
        if segment is not None and any(map(deleted.has, kept)):
            purge_segments(store, [segment], deleted)
        self.note(place, min(times))
        self._metrics.store(file.endpoint, len(kept))

    async def delete_answer(self, place: Place, response_id: str) -> None:
        """Delete an answer and what people said of it.

        Raises:
            Refused: The storage is away, or this takes longer than a client waits. From the
                tombstone on no reader sees the answer, and the deletion goes on. Each sweep ends
                the deletions that have broken off.
        """
        self._metrics.ask_deletion(place.endpoint, "answer")
        await self.ask(lambda store: mark_answer(store, response_id), place)
        pending = self.spool.rows_of(place.endpoint, response_id)

        def work() -> int:
            return delete_answer(self.store_of(place), response_id)

        purge = partial(self._purge, place, pending, None, work)
        await self._delete(place, response_id, purge)

    async def delete_user(self, place: Place, *users: str) -> int:
        """Delete the answers that a user has got by now, by the keyed hashes.

        With a dot and the hash of a sender behind that of the user, the answers to this sender.

        Returns:
            How many were removed, by this call and by earlier ones that were not told.

        Raises:
            Refused: As above.
        """
        until = now()
        self._metrics.ask_deletion(place.endpoint, "user")

        def mark(store: ObjectStore, until: datetime) -> None:
            for user in users:
                mark_user(store, user, until=until)

        await self.ask(partial(mark, until=until), place)
        rows = self.spool.rows_of(place.endpoint)
        pending = (row for row in rows if {row.user, user_of_sender(row)} & {*users})

        def work() -> int:
            store = self.store_of(place)
            # Answers of a time to come are there where a clock was ahead.
            ahead = [each.last + timedelta(seconds=1) for each in list_segments(store, since=now())]
            if ahead:
                mark(store, max(ahead))
            return sum(purge_user(store, user) for user in users)

        purge = partial(self._purge, place, pending, self._deleter, work)
        return await self._delete(place, users[0], purge)

    async def _delete(self, place: Place, whose: str, purge: Callable[[], _Purging]) -> int:
        """Purge in a task that outlives its client, once at a time for an answer or a user."""
        key = (place, whose)
        try:
            async with asyncio.timeout(DELETING_SECONDS):
                while running := self._deletions.get(key):
                    await asyncio.wait([running])
                num_of_place = sum(other == place for other, _ in self._deletions)
                if len(self._deletions) >= MAX_ASKED or num_of_place >= MAX_ASKED_OF_PLACE:
                    raise _storage_busy()
                task = self._deletions[key] = asyncio.create_task(purge())
                task.add_done_callback(partial(self._end_deletion, key))
                await asyncio.wait([task])
        except TimeoutError:
            message = (
                "This is hidden from all readers, and being deleted. "
                "Ask again to wait for the end; 404 says that all is gone."
            )
            raise Refused(503, "deletion_running", message, retry_seconds=5) from None
        if isinstance(found := task.result(), TrainerError):
            raise _storage_failed(place, found.reason)
        return self._untold.pop(key, 0)

    def _end_deletion(self, key: tuple[Place, str], task: asyncio.Task[int | TrainerError]) -> None:
        self._deletions.pop(key)
        found = 0 if task.cancelled() else task.result()
        if not isinstance(found, TrainerError):
            self._metrics.remove(key[0].endpoint, found)
            if len(self._untold) > MAX_UNTOLD:
                self._untold.clear()  # their clients have never come back
            self._untold[key] += found

    async def _purge(
        self,
        place: Place,
        pending: Iterator[Exchange],
        executor: Executor | None,
        work: Callable[[], int],
    ) -> int | TrainerError:
        """Take hidden answers out of spool and storage; return how many, or what failed.

        Args:
            place: Of the endpoint.
            pending: Those of the answers that wait in the spool.
            executor: Has the threads for the work.
            work: Takes the answers out of the storage; returns how many.
        """
        try:
            if num_pending := await asyncio.to_thread(lambda: sum(1 for _ in pending)):
                for file in self.spool.close(place.endpoint):
                    await self._move(file)
            return num_pending + await self._in(executor, work)
        except TrainerError as error:
            logger.warning("endpoint %s: not deleted: %s", place.endpoint, error.message)
            self._metrics.fail(place.endpoint, error.reason)
            return error

    async def _in(
        self, executor: Executor | None, work: Callable[..., _Value], *arguments: object
    ) -> _Value:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)

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

    def note(self, place: Place, time: datetime) -> None:
        """Have what was stored about an answer of a time counted, however old it is."""
        tally = self._tallies.get(place)
        if tally is not None:
            tally.note(time)

    async def count(self, place: Place) -> None:
        """Count what is stored of an endpoint; a failure leaves the last counts."""
        tally = self._tallies.get(place) or Tally()
        try:
            async with self._counting:
                counts = await asyncio.to_thread(lambda: tally.look(self.store_of(place), now()))
        except TrainerError as error:
            self._metrics.fail(place.endpoint, error.reason)
        except Exception as error:  # of one endpoint: the others are counted
            self._fail_by_defect(place.endpoint, error)
        else:
            if self.places.get(place.endpoint) == place:
                self.counts[place] = counts

    async def sweep(self, place: Place) -> None:
        """Delete what is older than the retention, and what deletions have left."""

        def work() -> None:
            store = self.store_of(place)
            self.people.share(store, place.endpoint)
            # A node whose clock is ahead must not make what is stored old.
            moment = min(now(), time_of_store(store) or now())
            delete_older(store, moment - timedelta(days=place.retention_days))
            for response_id in unpurged_answers(store):
                delete_answer(store, response_id)
            for user in unpurged_users(store):
                purge_user(store, user)
            recent = list_segments(store, since=moment - 2 * timedelta(seconds=SWEEP_SECONDS))
            purge_segments(store, recent, read_deleted(store))

        try:
            await self._in(self._deleter, work)
        except TrainerError as error:
            logger.warning("endpoint %s: not swept: %s", place.endpoint, error.message)
            self._metrics.fail(place.endpoint, error.reason)
        except Exception as error:  # of one endpoint: the others are swept
            self._fail_by_defect(place.endpoint, error)

    def _fail_by_defect(self, endpoint: str, error: Exception) -> None:
        """Note a defect, such as an object that nobody can read; it is tried again later."""
        logger.error("endpoint %s: its captured rows cannot be kept", endpoint)
        log_defect(error)
        self._metrics.fail(endpoint, "Defect")


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def _storage_busy() -> Refused:
    message = "Too many requests wait for the storage of captured answers."
    return Refused(503, "storage_busy", message, retry_seconds=1)


def _storage_failed(place: Place, reason: str) -> Refused:
    logger.warning("endpoint %s: storage failed: %s", place.endpoint, reason)
    message = f"The storage of captured answers failed ({reason}). Try again later."
    return Refused(503, "storage_failed", message, retry_seconds=5)


def no_answer() -> Refused:
    """Return the refusal for an id that names no captured answer."""
    return Refused(404, "not_found", "There is no captured answer with this id.", param="id")
