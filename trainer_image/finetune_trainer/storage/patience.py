"""Repeats refused requests to a store until it answers or patience ends.

The S3 client repeats a request for seconds; restarts, storms of 5xx and rotated keys take minutes.
Errors that may pass are tried again with jittered back-off. Errors that cannot pass, such as a full
disk, are raised at once.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.errors import (
    AlreadyExists,
    CredentialsRefused,
    IncompleteFolder,
    ObjectNotFound,
)
from finetune_trainer.storage.store import ObjectInfo, ObjectStore, OnBytes
from finetune_trainer.storage.stream import partial_path

PATIENCE_SECONDS = 900.0
"""How long a store that has answered before may stay away while somebody waits for it."""

FIRST_ANSWER_SECONDS = 120.0
"""The same for a store that has not answered this process yet: its address may be wrong."""

MAX_BACKOFF_SECONDS = 30.0
REPORT_EVERY_SECONDS = 300.0
_REPORT_AGAIN_SECONDS = 60.0
_WAIT_SLICE_SECONDS = 5.0

PASSING = frozenset({"Unreachable", "BucketFull", "ClockSkew", "DamagedInTransit"})
"""Reasons of a StorageError that may pass without anybody changing the job."""

_ANSWERS = (ObjectNotFound, AlreadyExists, IncompleteFolder)
"""Failures that prove a working store."""

PATIENCE_VARIABLE = "FINETUNE_STORAGE_PATIENCE_SECONDS"

Kind = Literal["read", "write", "list", "delete"]
"""Kind of request. A key may allow one and not another."""

EARLIER_STAGES: tuple[Kind, ...] = ("read", "write", "list")
"""Requests that an earlier stage made with the same key, so that a refusal may pass."""

_Answer = TypeVar("_Answer")


def no_wait() -> None:
    """Do nothing while waiting."""


class Patience:
    """How long one store may stay away, and who is informed; safe from several threads.

    Args:
        tell: Called with a message when an outage begins, lasts and ends.
        meanwhile: What continues during an outage, for these messages.
        seconds: Patience of one call; None waits until :meth:`give_up`.
        first_seconds: Patience before the store's first answer.
        known: Answers that an earlier process got from the store.
        on_wait: Called every few seconds while a call waits.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        meanwhile: str = "waiting for it",
        seconds: float | None = PATIENCE_SECONDS,
        first_seconds: float = FIRST_ANSWER_SECONDS,
        known: Iterable[Kind] = (),
        on_wait: Callable[[], None] = no_wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._meanwhile = meanwhile
        self._seconds = seconds
        self._first_seconds = first_seconds
        self._on_wait = on_wait
        self._clock = clock
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._answered: set[Kind] = set(known)
        self._away_since: float | None = None
        self._told_at: float | None = None
        self._is_told = False

    @property
    def away_seconds(self) -> float:
        """How long the store has refused everything; 0 while it answers."""
        with self._lock:
            return 0.0 if self._away_since is None else self._clock() - self._away_since

    def give_up(self) -> None:
        """Make every waiting and later call raise the store's last error."""
        self._is_over.set()

    def run(
        self,
        kind: Kind,
        ask: Callable[[], _Answer],
        *,
        moved: Callable[[], int] | None = None,
        proves: Callable[[_Answer], bool] | None = None,
    ) -> _Answer:
        """Call ``ask`` until the store answers.

        Args:
            kind: Kind of the request.
            ask: Sends the request once.
            moved: Bytes that ``ask`` has moved over all its calls; a slow link is not an outage.
            proves: Whether an answer shows that bucket and permission exist; any does by default.

        Raises:
            TrainerError: An error that cannot pass, as the store reported it.
            StorageError: The store stayed away; says for how long.
        """
        first_failure: float | None = None
        num_failures, num_moved = 0, 0
        while True:
            try:
                answer = ask()
            except _ANSWERS:
                self.note_answer(kind)
                raise
            except TrainerError as error:
                if not self._may_pass(error, kind):
                    raise
                now = self._clock()
                num_moved, before = moved() if moved else 0, num_moved
                if first_failure is None or num_moved > before:
                    first_failure, num_failures = now, 0
                num_failures += 1
                self._note_failure(error, now)
                if self._is_over.is_set() or now - first_failure >= self._limit():
                    raise _lasting(error, now - first_failure) from error
                self._wait(backoff_seconds(num_failures))
            else:
                if proves is None or proves(answer):
                    self.note_answer(kind)
                return answer

    def _limit(self) -> float:
        if self._seconds is None:
            return float("inf")
        return self._seconds if self._answered else min(self._seconds, self._first_seconds)

    def _may_pass(self, error: TrainerError, kind: Kind) -> bool:
        if isinstance(error, StorageError):
            return error.reason in PASSING
        if isinstance(error, CredentialsRefused):  # a key that worked: rotated, or about to be
            return bool(self._answered)
        # The permission or the bucket was there before: the server is under maintenance.
        return error.reason in ("AccessDenied", "BucketNotFound") and kind in self._answered

    def _wait(self, seconds: float) -> None:
        end = self._clock() + seconds
        while not self._is_over.is_set() and (left := end - self._clock()) > 0:
            self._on_wait()
            self._is_over.wait(min(left, _WAIT_SLICE_SECONDS))

    def _note_failure(self, error: TrainerError, now: float) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = now
            quiet = REPORT_EVERY_SECONDS if self._is_told else _REPORT_AGAIN_SECONDS
            if self._told_at is not None and now - self._told_at < quiet:
                return
            self._told_at, self._is_told = now, True
            since = now - self._away_since
        lasts = f" for {say_seconds(since)}" if since >= 1 else ""
        self._tell(f"storage does not serve this run{lasts}; {self._meanwhile}. {error.message}")

    def note_answer(self, kind: Kind) -> None:
        """Note that the store serves this kind of request."""
        with self._lock:
            self._answered.add(kind)
            since, self._away_since = self._away_since, None
            was_told, self._is_told = self._is_told, False
        if since is not None and was_told:
            self._tell(f"storage answers again after {say_seconds(self._clock() - since)}")


class PatientStore:
    """A store whose calls outlast outages; otherwise the store itself."""

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self.uri = store.uri

    def read_bytes(self, key: str) -> bytes:
        """Return the whole object."""
        return self._patience.run("read", lambda: self._store.read_bytes(key))

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """Yield the object in order; resume after an outage.

        Raises:
            StorageError: ``ObjectChanging``: the object changed meanwhile.
        """
        reading = _Reading(self._store, key)
        while True:
            chunk = self._patience.run("read", reading.next_chunk, moved=lambda: reading.num_bytes)
            if not chunk:
                return
            yield chunk

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write the whole object at once."""
        self._patience.run("write", lambda: self._store.write_bytes(key, data, if_absent=if_absent))

    def upload_file(
        self, path: Path, key: str, *, if_absent: bool = False, on_bytes: OnBytes | None = None
    ) -> None:
        """Write a local file as an object; a large one goes on where it broke off."""
        num_moved = 0

        def note(num_bytes: int) -> None:
            nonlocal num_moved
            num_moved += num_bytes
            if on_bytes:
                on_bytes(num_bytes)

        self._patience.run(
            "write",
            lambda: self._store.upload_file(path, key, if_absent=if_absent, on_bytes=note),
            moved=lambda: num_moved,
        )

    def download_file(self, key: str, path: Path) -> None:
        """Write an object to a local file; goes on where it broke off."""
        partial = partial_path(path)
        self._patience.run(
            "read",
            lambda: self._store.download_file(key, path),
            moved=lambda: partial.stat().st_size if partial.exists() else 0,
        )

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``; after an outage, begin anew."""
        listing: Iterator[ObjectInfo] | None = None
        seen: set[str] = set()

        def advance() -> ObjectInfo | None:
            nonlocal listing
            if listing is None:
                listing = self._store.list(prefix)
            try:
                return next((info for info in listing if info.key not in seen), None)
            except TrainerError:
                listing = None
                raise

        while (info := self._patience.run("list", advance)) is not None:
            seen.add(info.key)
            yield info

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        # A bucket that is not there looks the same to S3's HEAD as an object that is not there.
        return self._patience.run("read", lambda: self._store.exists(key), proves=bool)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        self._patience.run("delete", lambda: self._store.delete(key))


class _Reading:
    """One object that is read through outages."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._chunks: Iterator[bytes] | None = None
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def next_chunk(self) -> bytes:
        """Return the next bytes, none at the end."""
        try:
            if self._chunks is None:
                self._chunks = self._open()
            chunk = next((chunk for chunk in self._chunks if chunk), b"")
        except TrainerError:
            self._chunks = None
            raise
        self._digest.update(chunk)
        self.num_bytes += len(chunk)
        return chunk

    def _open(self) -> Iterator[bytes]:
        chunks = iter(self._store.read_chunks(self._key))
        left, digest, rest = self.num_bytes, hashlib.sha256(), b""
        while left:
            chunk = next(chunks, b"")
            digest.update(chunk[:left])
            rest = chunk[left:]
            left -= min(left, len(chunk))
            if not chunk:
                break
        if left or digest.digest() != self._digest.digest():
            raise StorageError(
                "ObjectChanging",
                f"{self._store.uri}/{self._key} was replaced while it was being read. Find and "
                "stop the other writer, then run again.",
            )
        if rest:
            yield rest
        yield from chunks


def decide_patience(environment: Mapping[str, str]) -> float:
    """Return the seconds that a store may stay away.

    Raises:
        UserError: ``FINETUNE_STORAGE_PATIENCE_SECONDS`` is no number.
    """
    asked = environment.get(PATIENCE_VARIABLE)
    return float(read_number(PATIENCE_VARIABLE, asked)) if asked else PATIENCE_SECONDS


def read_number(name: str, value: str) -> int:
    """Read a whole number from an environment variable, or raise ``UserError``."""
    if not value.isdecimal():
        raise UserError("InvalidSetting", f"{name} is {value!r}; it must be a whole number")
    return int(value)


def backoff_seconds(num_failures: int) -> float:
    """Return a wait with jitter, so that many pods do not come back in step."""
    longest = min(MAX_BACKOFF_SECONDS, 0.5 * 2**num_failures)
    return random.uniform(longest / 2, longest)  # noqa: S311


def say_seconds(seconds: float) -> str:
    """Write a duration for people: ``45 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _lasting(error: TrainerError, seconds: float) -> StorageError:
    """Return the failure of a store that stayed away: never the job's own fault."""
    message = f"{error.message.rstrip('. ')}. It stayed so for {say_seconds(seconds)}."
    return StorageError(error.reason, message)
