"""The state of each namespace in which one kind is watched.

Lists of a deleted namespace are forbidden. Such a namespace counts as known and empty until it can
be read, so it does not delay the others. If all namespaces are forbidden, none is known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import Enum, auto
from typing import Any

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import Forbidden, KubeError
from finetune_operator.kube.api.resource import Resource
from finetune_operator.kube.cache.store import ALL_NAMESPACES

logger = logging.getLogger(__name__)

WARN_SECONDS = 600.0
"""How often it is said that a namespace is still forbidden."""


class _State(Enum):
    UNKNOWN = auto()
    LISTED = auto()
    ABSENT = auto()
    FORBIDDEN = auto()
    FAILING = auto()


_UNREAD = (_State.FORBIDDEN, _State.FAILING)


class Scopes:
    """The scopes of one kind: namespaces, or all of them at once. Event loop only.

    Args:
        plural: The kind, for the log.
        namespaces: Watched namespaces; empty for all.

    Attributes:
        names: The scopes; only ``ALL_NAMESPACES`` for all namespaces.
        synced: Set once every scope is known or forbidden; never unset.
    """

    def __init__(self, plural: str, namespaces: Sequence[str]) -> None:
        self.names = tuple(namespaces) or (ALL_NAMESPACES,)
        self.synced = asyncio.Event()
        self._plural = plural
        self._states = dict.fromkeys(self.names, _State.UNKNOWN)
        self._warned: dict[str, float] = {}

    async def run_each(self, run: Callable[[str], Coroutine[Any, Any, None]], what: str) -> None:
        """Run ``run`` for every scope, until cancelled.

        Raises:
            ExceptionGroup: One has failed, and the others were cancelled.
        """
        async with asyncio.TaskGroup() as group:
            for scope in self.names:
                group.create_task(run(scope), name=f"{what}-{self._plural}-{scope}")

    def of(self, namespace: str) -> str:
        """Return the scope that a namespace lies in."""
        return namespace if namespace in self._states else ALL_NAMESPACES

    def serves(self, namespace: str) -> bool:
        """Return whether the kind can be read in a namespace, as far as is known."""
        return self._state(namespace) in (_State.UNKNOWN, _State.LISTED)

    @property
    def serves_any(self) -> bool:
        """Whether the kind can be read somewhere, as far as is known."""
        return any(self.serves(scope) for scope in self.names)

    def is_listed(self, scope: str) -> bool:
        """Return whether a scope can be read, or is at least known to be without the kind."""
        return self._states[scope] in (_State.LISTED, _State.ABSENT)

    def is_unread(self, namespace: str) -> bool:
        """Return whether a namespace only counts as empty: it has never been read."""
        return self._state(namespace) in _UNREAD

    def note_listed(self, scope: str) -> None:
        """A complete list was taken in."""
        if scope in self._warned:
            logger.info("%s: namespace %s can be listed", self._plural, scope)
            del self._warned[scope]
        self._note(scope, _State.LISTED)

    def note_absent(self, scope: str) -> None:
        """The server does not serve the kind: that is all there is to know."""
        self._note(scope, _State.ABSENT)

    def note_failing(self, scope: str) -> None:
        """The first list has failed for long enough: others do without."""
        if not self.is_listed(scope):
            self._note(scope, _State.FAILING)

    def note_forbidden(self, scope: str, error: KubeError) -> bool:
        """Note that one namespace may not be listed; return whether this is new or due again.

        Objects read before stay cached. A watch of all namespaces is not noted.
        """
        if scope == ALL_NAMESPACES:
            return False
        if not self.is_listed(scope):
            self._note(scope, _State.FORBIDDEN)
        now = asyncio.get_running_loop().time()
        if now - self._warned.get(scope, -WARN_SECONDS) >= WARN_SECONDS:
            self._warned[scope] = now
            logger.warning(
                "%s: namespace %s may not be listed; all others go on, it is tried again: %s",
                self._plural,
                scope,
                error,
            )
        return True

    def _state(self, namespace: str) -> _State:
        return self._states.get(self.of(namespace), _State.UNKNOWN)

    def _note(self, scope: str, state: _State) -> None:
        self._states[scope] = state
        if _are_known(self._states.values()):
            self.synced.set()


def _are_known(states: Iterable[_State]) -> bool:
    found = set(states)
    return _State.UNKNOWN not in found and found != {_State.FORBIDDEN}


def name_scope(scope: str) -> str:
    """Return a scope in words."""
    return "all namespaces" if scope == ALL_NAMESPACES else f"namespace {scope}"


async def require_readable(
    client: KubeClient, resource: Resource, namespaces: Iterable[str]
) -> None:
    """Ask whether a kind is served, and may be listed in at least one namespace.

    Raises:
        KubeError: The server's answer; Forbidden if all namespaces are.
    """
    forbidden: Forbidden | None = None
    for namespace in tuple(namespaces) or (ALL_NAMESPACES,):
        try:
            async for _ in client.list_pages(resource, namespace, limit=1, metadata_only=True):
                return
        except Forbidden as error:
            forbidden = error
    if forbidden is not None:
        raise forbidden
