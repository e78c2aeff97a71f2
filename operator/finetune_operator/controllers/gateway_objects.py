"""Tells an inference gateway how to divide the requests of endpoints, and takes that back."""

from __future__ import annotations

import contextlib
from typing import Any

from finetune_api.names import FRONT
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.guarding import FIELD_MANAGER
from finetune_operator.controllers.memory.endpoints import SPLITS, Endpoints
from finetune_operator.controllers.refusals import taken
from finetune_operator.finetuneendpoint.actions import Split
from finetune_operator.finetuneendpoint.render.gateway import (
    kind_of,
    render_gateway_parts,
    render_split,
)
from finetune_operator.finetuneendpoint.render.metadata import Deployed
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import AlreadyExists, Conflict, NotFound
from finetune_operator.kube.api.resource import (
    AI_SERVICE_BACKENDS,
    GATEWAY_BACKENDS,
    Object,
    Resource,
)

_PARTS: dict[str, Resource] = {each.kind: each for each in (AI_SERVICE_BACKENDS, GATEWAY_BACKENDS)}


class GatewayObjects:
    """Applies and deletes the objects that hold weights. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        endpoints: The caches; they take the answers, so that the next look sees them.
    """

    def __init__(self, client: KubeClient, endpoints: Endpoints) -> None:
        self._client = client
        self._endpoints = endpoints

    async def apply(self, split: Split, config: OperatorConfig) -> None:
        """Write the weights of an endpoint, or delete its object if it has none.

        An object that holds them costs no request.

        Raises:
            NameTaken: A name belongs to an object of somebody else.
            KubeError: The API server refuses an object.
        """
        wanted = kind_of(config.gateway) if split.weights else ""
        for kind in self._endpoints.splits:
            if kind != wanted:
                await self._delete(kind, split)
        if wanted in self._endpoints.splits:
            await self._write(wanted, split, config.gateway)

    async def _delete(self, kind: str, split: Split) -> None:
        store, owner = self._endpoints.splits[kind].store, split.owner
        found = store.get(owner.namespace, owner.name)
        if found is None or not _is_owned(found, owner.uid):
            return
        uid = found["metadata"]["uid"]
        with contextlib.suppress(NotFound):
            await self._client.delete(SPLITS[kind], owner.namespace, owner.name, uid=uid)
        store.discard(found)

    async def _write(self, kind: str, split: Split, gateway: str) -> None:
        store, owner = self._endpoints.splits[kind].store, split.owner
        manifest = render_split(owner, split.weights, gateway)
        found = store.get(owner.namespace, owner.name)
        if found is not None and not _is_owned(found, owner.uid):
            raise taken(kind, owner.name)
        front = self._endpoints.deployments.get(owner.namespace, FRONT)
        # A front that was deleted meanwhile wakes the endpoint, and is made again first.
        if front is None or (found is not None and _holds(found["spec"], manifest["spec"])):
            return
        deployed = Deployed(name=FRONT, uid=front["metadata"]["uid"])
        for part in render_gateway_parts(owner.namespace, deployed, gateway):
            await self._apply(_PARTS[part["kind"]], part, force=False)
        if found is None:
            try:
                await self._client.create(
                    SPLITS[kind], manifest, field_manager=FIELD_MANAGER, dry_run=True
                )
            except AlreadyExists as error:
                raise taken(kind, owner.name) from error
        store.absorb(await self._apply(SPLITS[kind], manifest, force=found is not None))

    async def _apply(self, resource: Resource, manifest: Object, *, force: bool) -> Object:
        try:
            return await self._client.apply(
                resource, manifest, field_manager=FIELD_MANAGER, force=force
            )
        except Conflict as error:
            raise taken(resource.kind, manifest["metadata"]["name"]) from error


def _is_owned(found: Object, uid: str) -> bool:
    return any(owner.get("uid") == uid for owner in found["metadata"]["ownerReferences"])


def _holds(stored: Any, wanted: Any) -> bool:
    """Return whether all that is wanted is stored; lists have no further items."""
    if isinstance(wanted, dict) and isinstance(stored, dict):
        return all(key in stored and _holds(stored[key], each) for key, each in wanted.items())
    if isinstance(wanted, list) and isinstance(stored, list):
        return len(stored) == len(wanted) and all(map(_holds, stored, wanted))
    return bool(stored == wanted)
