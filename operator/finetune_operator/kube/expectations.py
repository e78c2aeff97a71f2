"""Read your own writes: know when a cache is older than what was written.

After a write, the version the server returned is expected of the cache. A reconcile that starts
before the cache has come that far would decide on the past (and create a second time); it asks
``unmet`` first and looks again in a moment. The wait is bounded: a cache that never catches up (an
event filtered out, a deletion by somebody else) must not block a key for ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from finetune_operator.kube.clock import Clock
from finetune_operator.kube.resource import Object, ObjectKey, key_of, version_of
from finetune_operator.kube.store import Store

RECHECK_SECONDS = 0.05
"""Suggested delay before looking again at an unmet expectation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Expected:
    store: Store
    key: ObjectKey
    version: int
    gone_uid: str
    deadline: float

    def is_met(self) -> bool:
        cached = self.store.get(*self.key)
        if self.gone_uid:
            return cached is None or cached["metadata"].get("uid") != self.gone_uid
        if cached is not None and version_of(cached) >= self.version:
            return True
        # Not there although the watch is past it: it came and went.
        return self.store.observed_version(self.key[0]) >= self.version


class Expectations:
    """Expected versions per owner key. Event loop only.

    Args:
        clock: Source of monotonic time.
        patience_seconds: Longest time to wait for a cache.
    """

    def __init__(self, clock: Clock, *, patience_seconds: float = 2.0) -> None:
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._expected: dict[Hashable, dict[tuple[int, ObjectKey], _Expected]] = {}

    def expect(self, owner: Hashable, store: Store, obj: Object) -> None:
        """Expect ``store`` to hold ``obj``, the answer to a write, or something newer."""
        self._add(owner, store, key_of(obj), version=version_of(obj))

    def expect_gone(self, owner: Hashable, store: Store, obj: Object) -> None:
        """Expect ``store`` to lose ``obj``, which was deleted."""
        self._add(owner, store, key_of(obj), gone_uid=obj["metadata"]["uid"])

    def unmet(self, owner: Hashable) -> bool:
        """Whether the owner's caches are still older than its writes; forgets what is met."""
        expected = self._expected.get(owner)
        if not expected:
            return False
        now = self._clock.monotonic()
        left = {
            entry: item
            for entry, item in expected.items()
            if item.deadline > now and not item.is_met()
        }
        if left:
            self._expected[owner] = left
            return True
        del self._expected[owner]
        return False

    def forget(self, owner: Hashable) -> None:
        """Drop all expectations of an owner that is gone."""
        self._expected.pop(owner, None)

    def _add(
        self,
        owner: Hashable,
        store: Store,
        key: ObjectKey,
        *,
        version: int = 0,
        gone_uid: str = "",
    ) -> None:
        self._expected.setdefault(owner, {})[id(store), key] = _Expected(
            store=store,
            key=key,
            version=version,
            gone_uid=gone_uid,
            deadline=self._clock.monotonic() + self._patience_seconds,
        )
