"""What the caches of sweeps and endpoints have in common: edits, and kinds that cannot be read."""

from __future__ import annotations

import logging

from finetune_operator.kube.api.resource import Object
from finetune_operator.kube.cache.scopes import name_scope

logger = logging.getLogger(__name__)


def is_edited(old: Object, new: Object) -> bool:
    """Return whether a change is more than the status that the operator has written.

    Of annotations a cache keeps those that ask for something.
    """
    before, after = old["metadata"], new["metadata"]
    kept = ("uid", "generation", "deletionTimestamp", "annotations")
    return any(before.get(name) != after.get(name) for name in kept)


def age_of(obj: Object) -> tuple[str, str]:
    """Return what orders the objects of a namespace from the oldest to the newest."""
    metadata = obj["metadata"]
    return str(metadata.get("creationTimestamp") or ""), metadata["name"]


def warn_unreadable(what: str, kind: str, scope: str, problem: str) -> None:
    """Log that what a kind of ours needs cannot be read; an empty problem says that it can."""
    if problem:
        logger.warning(
            "%s of %s cannot be read: the CustomResourceDefinition of %s is not installed, or the"
            " operator's role lacks list and watch. No %s goes on there; all jobs run: %s",
            what,
            name_scope(scope),
            kind,
            kind.removeprefix("FineTune").lower(),
            problem,
        )
