"""Stores a node's files behind training: in order, within a budget of bytes.

One thread sends one parcel after the other, because a checkpoint depends on the weights before it.
During an outage training continues and new parcels wait on the local disk. Training waits only when
the budget is used up and at its end.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import Environment
from finetune_trainer.errors import InternalError, StorageError, TrainerError
from finetune_trainer.storage import ObjectStore
from finetune_trainer.storage.patience import (
    EARLIER_STAGES,
    PATIENCE_SECONDS,
    Patience,
    PatientStore,
    read_number,
    say_seconds,
)
from finetune_trainer.storage.store import OnBytes

SHARE_OF_DISK = 0.5
"""The other half is for the checkpoint that is being written, the data and the trained weights."""

REPORT_SECONDS = 60.0
"""A warning repeats while a parcel takes longer than this."""

Send = Callable[[ObjectStore, OnBytes], Any]
"""Stores a parcel and reports the bytes that the store has received."""


@dataclass(kw_only=True, eq=False)
class _Parcel:
    """One thing to store.

    Attributes:
        name: Its name in messages.
        num_bytes: Its size on the local disk.
        send: Stores it and removes it from the disk.
        future: The result.
        began: When it was sent; 0 before.
        moved_at: When the store last received bytes of it.
        num_moved: Bytes that the store has received.
    """

    name: str
    num_bytes: int
    send: Send
    future: Future[Any]
    began: float = 0.0
    moved_at: float = 0.0
    num_moved: int = 0


class Outbox:
    """Stores parcels in the order in which they are submitted.

    After one has failed for good all later ones fail too.

    Args:
        store: Where to.
        budget_bytes: Most bytes of waiting parcels on the local disk; one parcel is always allowed.
        tell: Called with messages for people.
        patience_seconds: How long a waiting caller accepts an outage.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        budget_bytes: int,
        tell: Callable[[str], None],
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = Patience(
            tell,
            meanwhile="training goes on, what it saves waits on the local disk",
            seconds=None,
            known=EARLIER_STAGES,
            clock=clock,
        )
        self._store = PatientStore(store, self._patience)
        self.budget_bytes = budget_bytes
        self.patience_seconds = patience_seconds
        self._tell = tell
        self._clock = clock
        self._changed = threading.Condition()
        self._urgent: deque[_Parcel] = deque()
        self._parcels: deque[_Parcel] = deque()
        self._current: _Parcel | None = None
        self._failure: TrainerError | None = None
        self._lost = ""
        self._thread: threading.Thread | None = None
        self._reported_at = 0.0

    def submit(self, name: str, num_bytes: int, send: Send, *, urgent: bool = False) -> Future[Any]:
        """Queue a parcel.

        Args:
            name: Its name in messages.
            num_bytes: Its size on the local disk until it is stored.
            send: Called in the outbox's thread with a store that outlasts outages.
            urgent: Goes before all parcels that are not urgent.
        """
        parcel = _Parcel(name=name, num_bytes=num_bytes, send=send, future=Future())
        with self._changed:
            (self._urgent if urgent else self._parcels).append(parcel)
            if self._thread is None:
                # A daemon: a rank that fails must be able to leave.
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return parcel.future

    @property
    def failure(self) -> TrainerError | None:
        """Why nothing more reaches storage; None while it does."""
        return self._failure

    @property
    def num_bytes(self) -> int:
        """Bytes of the local disk that wait for storage."""
        with self._changed:
            return sum(parcel.num_bytes for parcel in self._waiting())

    def is_idle(self) -> bool:
        """Whether everything submitted has come to an end."""
        with self._changed:
            return not self._waiting()

    def has_room(self, num_bytes: int) -> bool:
        """Whether the budget holds so much more; always so when nothing waits."""
        return self.is_idle() or self.num_bytes + num_bytes <= self.budget_bytes

    def wait(self, seconds: float) -> None:
        """Wait until a parcel comes to its end, at most so long."""
        with self._changed:
            if self._waiting():
                self._changed.wait(seconds)

    def is_hopeless(self, *, since: float) -> bool:
        """Whether patience is at its end for somebody who waits since then, by the clock."""
        now = self._clock()
        away = self._patience.away_seconds
        refused = away > 0 and min(away, now - since) >= self.patience_seconds
        return refused or (self._is_stuck(now) and now - since >= self.patience_seconds)

    def give_up(self) -> None:
        """Fail all parcels with the store's last error."""
        self._patience.give_up()
        with self._changed:
            current = self._current
            if current is not None and self._is_stuck(self._clock()):
                quiet = say_seconds(self._clock() - max(current.began, current.moved_at))
                stalled = StorageError(
                    "StorageStalled",
                    f"storing the {current.name} at {self._store.uri} has come to a stop: the "
                    f"store has neither taken a byte nor said anything for {quiet}. Check the "
                    "server, the mount and the network.",
                )
                self._fail(stalled)

    def describe(self) -> str:
        """Describe the parcels that wait, or that waited when storage failed; "" for none."""
        with self._changed:
            return self._describe() if self._failure is None else self._lost

    def _describe(self) -> str:
        waiting = self._waiting()
        if not waiting:
            return ""
        held = sum(parcel.num_bytes for parcel in waiting)
        names = ", ".join(parcel.name for parcel in waiting if parcel.num_bytes)
        return (
            f"{names or waiting[0].name} ({say_bytes(held)} of a local budget of "
            f"{say_bytes(self.budget_bytes)})"
        )

    def report(self) -> None:
        """Warn about a parcel that takes long; an outage has its own message."""
        now = self._clock()
        with self._changed:
            current, num_behind = self._current, len(self._waiting()) - 1
        if current is None or not current.num_bytes or self._patience.away_seconds:
            return  # an outage has its own message
        if now - max(current.began, self._reported_at) < REPORT_SECONDS:
            return
        self._reported_at = now
        seconds, quiet = now - current.began, now - max(current.moved_at, current.began)
        words = (
            f"storing the {current.name} has taken {say_seconds(seconds)} so far: "
            f"{say_bytes(current.num_moved)} of {say_bytes(current.num_bytes)} stored"
        )
        if quiet >= REPORT_SECONDS:
            words += f", nothing in the last {say_seconds(quiet)}"
        elif current.num_moved:
            words += f", {say_bytes(int(current.num_moved / seconds))}/s"
        if num_behind > 0:
            words += f"; behind it wait {num_behind} more, together {self.describe()}"
        self._tell(words)

    def _waiting(self) -> list[_Parcel]:
        current = [self._current] if self._current is not None else []
        return [*current, *self._urgent, *self._parcels]

    def _is_stuck(self, now: float) -> bool:
        """Whether the store neither receives nor reports anything, as a mount that hangs."""
        current = self._current
        return (
            current is not None
            and self._patience.away_seconds == 0
            and now - max(current.began, current.moved_at) >= self.patience_seconds
        )

    def _fail(self, failure: TrainerError) -> None:
        """Keep the first failure, and what waited then. The caller holds the lock."""
        if self._failure is None:
            self._failure, self._lost = failure, self._describe()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._urgent and not self._parcels:
                    self._changed.wait()
                parcel = (self._urgent or self._parcels).popleft()
                parcel.began = self._clock()
                self._current = parcel
            self._send(parcel)

    def _send(self, parcel: _Parcel) -> None:
        def note(num_bytes: int) -> None:
            parcel.num_moved += num_bytes
            parcel.moved_at = self._clock()

        result, failure = None, self._failure
        if failure is None:
            try:
                result = parcel.send(self._store, note)
            except TrainerError as error:
                failure = error
            except Exception as error:
                failure = InternalError(type(error).__name__[:63], f"{parcel.name}: {error}")
                failure.__cause__ = error
        with self._changed:
            if failure is not None:
                self._fail(failure)
            self._current = None
            if failure is None:
                parcel.future.set_result(result)
            else:
                parcel.future.set_exception(failure)
            self._changed.notify_all()


def decide_budget(environment: Mapping[str, str], folder: Path) -> int:
    """Return how many bytes of the local disk unstored checkpoints may hold.

    ``FINETUNE_CHECKPOINT_BUFFER_BYTES`` sets it. The default is half of the free space of
    ``folder`` or of ``FINETUNE_SCRATCH_BYTES``, whichever is less: the kubelet evicts a pod that
    writes more.

    Raises:
        UserError: A variable is no number of bytes.
    """
    if asked := environment.get(Environment.CHECKPOINT_BUFFER_BYTES):
        return read_number(Environment.CHECKPOINT_BUFFER_BYTES, asked)
    room = shutil.disk_usage(folder).free
    if limit := environment.get(Environment.SCRATCH_BYTES):
        room = min(room, read_number(Environment.SCRATCH_BYTES, limit))
    return int(room * SHARE_OF_DISK)


def say_bytes(num_bytes: int) -> str:
    """Write a size for people: ``1.5 GiB``, ``12 KiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 2**10:.0f} KiB"


def size_of(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(
        os.path.getsize(Path(top, name)) for top, _, names in os.walk(folder) for name in names
    )
