"""Notices a server whose data went back in time: etcd was restored from a backup.

A list without a start version is consistent: it holds all that was written before the request. So
neither its version nor an object in it can be older than one seen before. Where they are,
repeatedly, the caches hold objects that no longer exist and refuse new ones.
"""

from __future__ import annotations

import logging

from finetune_operator.kube.api.errors import StaleList
from finetune_operator.kube.api.resource import Object, key_of, version_of
from finetune_operator.kube.cache.store import Store

logger = logging.getLogger(__name__)

NUM_STALE_LISTS = 3
"""So many in a row are no mistake of a server that lags behind against the rules."""
PAUSE_SECONDS = 10.0
"""Between two of them."""


class HistoryRewritten(Exception):  # noqa: N818 - a state of the world
    """The server has forgotten what it had stored: begin anew, in a new process."""


class RollbackDetector:
    """Compares the lists of one kind with its store. Event loop only."""

    def __init__(self, what: str, store: Store) -> None:
        self._what = what
        self._store = store
        self._num_stale: dict[str, int] = {}

    def before(self, scope: str) -> int:
        """Return the newest version that is known; to be asked before a list is."""
        return self._store.newest_version(scope)

    def check_version(self, scope: str, listed: int, before: int) -> None:
        """Check the version of a list against the newest version seen before it.

        Raises:
            StaleList: It is older; list again.
            HistoryRewritten: It was older repeatedly.
        """
        if listed < before:
            self._doubt(scope, f"the list is of version {listed}, and {before} was seen before it")

    def check_object(self, scope: str, obj: Object, listed: int) -> None:
        """Check an object of a list against the cached one.

        A cached object newer than the list may have been written after it, and is ignored.

        Raises:
            StaleList: The listed object is older.
            HistoryRewritten: It was older repeatedly.
        """
        key, version = key_of(obj), version_of(obj)
        cached = self._store.get(*key)
        if cached is not None and version < (newer := version_of(cached)) <= listed:
            self._doubt(
                scope,
                f"{'/'.join(key)} is of version {version} in a list of version {listed}, and"
                f" {newer} was seen before",
            )

    def accept(self, scope: str) -> None:
        """A complete list agreed with what was seen before."""
        self._num_stale.pop(scope, None)

    def _doubt(self, scope: str, why: str) -> None:
        num_stale = self._num_stale[scope] = self._num_stale.get(scope, 0) + 1
        if num_stale < NUM_STALE_LISTS:
            raise StaleList(f"list {self._what}", message=why)
        logger.critical(
            "%s: the API server has gone back in time: %s. That is so after etcd was restored from"
            " a backup. The caches are invalid; the process exits to restart",
            self._what,
            why,
        )
        raise HistoryRewritten(f"{self._what}: {why}; was etcd restored from a backup?")
