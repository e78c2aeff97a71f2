"""Hashes of people: users and senders of an endpoint, by keys that are stored with its traffic.

The keys are no part of the token between front and servers, so hashes outlive fronts, endpoints and
a restore into another cluster. An endpoint has one key, and more where somebody has added one, or
where two recorders have made the first at once. New hashes are made with the newest; whoever is
looked for is looked for under all.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import PEOPLE, id_time

Names = Mapping[str, str]
"""Keys by the names of their objects, which begin with the time they were made."""


def hash_person(key: str, whose: str, name: str) -> str:
    """Return the keyed hash of a user or sender of an endpoint, ``<namespace>/<name>``."""
    message = f"person\0{whose}\0{name}".encode("utf-8", "surrogatepass")
    return hmac.digest(key.encode(), message, "sha256").hex()[:32]


class Keyring:
    """The keys of all endpoints of a namespace, from several threads.

    A key that this process has made while the storage was away is in the spool, until it is stored
    before the first row that was hashed with it.

    Args:
        folder: The spool.
        token: Returns the token between front and servers. Hashes were made with it before keys
            were stored, and such rows may still be there.
    """

    def __init__(self, folder: Path, token: Callable[[], str]) -> None:
        self._folder = folder
        self._token = token
        self._lock = threading.Lock()
        self._keys: dict[str, Names] = {}

    def load(self) -> None:
        """Take over the keys that an earlier process has made."""
        for path in self._folder.glob(f"*/{PEOPLE}*"):
            if key := path.read_text():
                self._add(path.parents[1].name, {PEOPLE + path.name: key})

    def has(self, endpoint: str) -> bool:
        """Tell whether a key is known."""
        return endpoint in self._keys

    def make(self, endpoint: str, now: datetime) -> None:
        """Make a key, unless one is known."""
        if self.has(endpoint):
            return
        name, key = f"{PEOPLE}{id_time(now)}-{secrets.token_hex(6)}", secrets.token_hex(32)
        path = self._folder / endpoint / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(key)
        self._add(endpoint, {name: key})

    def share(self, store: ObjectStore, endpoint: str) -> None:
        """Take over the keys in the storage of an endpoint, and store those that it lacks.

        Raises:
            StorageError: It failed.
        """
        known = self._keys.get(endpoint, {})
        stored = {info.key for info in store.list(PEOPLE)}
        for name in known.keys() - stored:
            store.write_bytes(name, known[name].encode())
        new = sorted(stored - known.keys())
        self._add(endpoint, {name: store.read_bytes(name).decode() for name in new})

    def hash(self, endpoint: str, whose: str, name: str) -> str:
        """Return the hash of a person in new rows."""
        return self.hashes(endpoint, whose, name)[0]

    def hashes(self, endpoint: str, whose: str, name: str) -> tuple[str, ...]:
        """Return the hashes of a person in all rows, that of the newest key first."""
        keys = self._keys[endpoint]
        used = [*(keys[each] for each in sorted(keys, reverse=True)), self._token()]
        return tuple(hash_person(key, whose, name) for key in used)

    def _add(self, endpoint: str, keys: Names) -> None:
        with self._lock:
            if keys:
                self._keys = {**self._keys, endpoint: {**self._keys.get(endpoint, {}), **keys}}
