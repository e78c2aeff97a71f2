"""Whether an object is still there: only a live read of it can say no."""

from __future__ import annotations

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import ObjectNotFound
from finetune_operator.kube.api.resource import Object, ObjectKey, Resource


class ParentGone(Exception):  # noqa: N818 - a state of the world
    """The object that is reconciled does not exist any more, or another one has its name."""


async def find_live(client: KubeClient, resource: Resource, key: ObjectKey) -> Object | None:
    """Return an object as the server has it; None if the server has none of that name.

    Raises:
        KubeError: The server gave no clear answer. That may be a 404 about something else.
    """
    try:
        return await client.get(resource, *key)
    except ObjectNotFound:
        return None


async def read_parent(client: KubeClient, resource: Resource, key: ObjectKey, uid: str) -> Object:
    """Read the object that is reconciled from the server.

    A 404 for a child, a namespace, a type or from a proxy does not mean that the object is gone. An
    object dropped from the cache for such a 404 is never reconciled again.

    Raises:
        ParentGone: The server has no object of that name, or one with another UID.
        KubeError: The server gave no clear answer.
    """
    live = await find_live(client, resource, key)
    if live is None:
        raise ParentGone(f"{resource.kind} {key[0]}/{key[1]} is gone")
    if live["metadata"]["uid"] != uid:
        raise ParentGone(f"{resource.kind} {key[0]}/{key[1]} was created anew")
    return live
