"""Brings the front and the servers of endpoints to the form that a plan asks for.

Deployments are applied, because endpoints share them and their owners change. The parts of a
Deployment never change, so they are created and left alone; only autoscalers follow the spec, and
NetworkPolicies the configuration. A digest on the Deployment says that all of it was done, so that
an idle endpoint costs requests only after ``check_seconds``: parts that somebody has deleted are
created again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from weakref import WeakValueDictionary
from zlib import crc32

from finetune_api.names import FRONT
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.guarding import FIELD_MANAGER
from finetune_operator.controllers.memory.endpoints import Endpoints
from finetune_operator.controllers.refusals import NameTaken, judge, taken
from finetune_operator.finetuneendpoint.actions import ApplyServing, Front, NeededServer
from finetune_operator.finetuneendpoint.render.front import (
    render_front,
    render_front_parts,
    render_front_policy,
    render_token,
)
from finetune_operator.finetuneendpoint.render.metadata import Deployed
from finetune_operator.finetuneendpoint.render.scaling import render_scaler
from finetune_operator.finetuneendpoint.render.server import (
    render_server,
    render_server_parts,
    render_server_policy,
)
from finetune_operator.finetuneendpoint.trimming import APPLIED_ANNOTATION, trim_deployment
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import AlreadyExists, Conflict, KubeError, NotFound
from finetune_operator.kube.api.resource import (
    AUTOSCALERS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    ROLE_BINDINGS,
    ROLES,
    SCALED_OBJECTS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Object,
    ObjectKey,
    Resource,
)
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.digest import digest_of

logger = logging.getLogger(__name__)

REPAIR_SECONDS = 15.0
"""Time between two looks for missing parts of a Deployment of which a pod waits."""
CHECK_SECONDS = 600.0
"""Time between two looks for missing parts of a Deployment whose pods are ready."""
OWNERS_SECONDS = 2.0
"""Shortest time between two writes of a Deployment that change only its owners."""
TOKEN_BYTES = 32
_RESOURCES: dict[str, Resource] = {
    each.kind: each
    for each in (
        AUTOSCALERS,
        DISRUPTION_BUDGETS,
        NETWORK_POLICIES,
        ROLE_BINDINGS,
        ROLES,
        SCALED_OBJECTS,
        SECRETS,
        SERVICE_ACCOUNTS,
        SERVICES,
    )
}
Part = Callable[[Deployed], Object | None]
Parts = Callable[[Deployed], list[Object]]


def check_seconds(uid: str) -> float:
    """Return the time between two checks of an endpoint: once to twice ``CHECK_SECONDS``, by UID.

    So endpoints that an operator sees first in one second are not checked in one second.
    """
    return CHECK_SECONDS * (1 + crc32(uid.encode()) / 2**32)


class ServingObjects:
    """Applies, creates and deletes what serves endpoints. Event loop only.

    Args:
        client: The API client, fenced by the leader election.
        endpoints: The caches; they take the answers, so that the next look sees them.
    """

    def __init__(self, client: KubeClient, endpoints: Endpoints, *, clock: Clock) -> None:
        self._client = client
        self._endpoints = endpoints
        self._clock = clock
        self._locks: WeakValueDictionary[ObjectKey, asyncio.Lock] = WeakValueDictionary()
        self._repaired: dict[ObjectKey, float] = {}
        self._joined: dict[ObjectKey, float] = {}

    async def apply(self, serving: ApplyServing, config: OperatorConfig) -> bool:
        """Bring everything to the form that is asked for.

        Returns:
            Whether all of it is done. Owners that join one after the other are written together, so
            that some have to be looked at again after ``OWNERS_SECONDS``.

        Raises:
            NameTaken: A name belongs to an object of somebody else.
            KubeError: The API server refuses an object.
        """
        done = [await self._apply_server(needed, config) for needed in serving.servers]
        return all([*done, await self._apply_front(serving.front, config)])

    async def release(self, namespace: str, servers: Iterable[str], uid: str) -> None:
        """Take an endpoint from the owners of servers; delete those without another owner.

        Args:
            namespace: The namespace.
            servers: Names of their Deployments.
            uid: UID of the endpoint.
        """
        for name in servers:
            async with self._lock(namespace, name):
                await self._release(namespace, name, uid)

    async def _apply_front(self, front: Front, config: OperatorConfig) -> bool:
        namespace = front.namespace
        parts = partial(_front_parts, namespace)
        manifest = render_front(
            namespace, front.owners, front.key_secrets, config, front.store_secrets
        )
        policy = partial(render_front_policy, namespace, config=config)
        return await self._apply(namespace, FRONT, manifest, parts, policy=policy)

    async def _apply_server(self, needed: NeededServer, config: OperatorConfig) -> bool:
        namespace = needed.server.namespace
        manifest = render_server(needed.server, needed.replicas, needed.owners, config)
        return await self._apply(
            namespace,
            needed.name,
            manifest,
            partial(render_server_parts, namespace),
            policy=partial(render_server_policy, namespace, config=config),
            scaler=partial(render_scaler, namespace, replicas=needed.replicas, config=config),
            has_keda=bool(config.keda_prometheus_url),
        )

    async def _apply(
        self,
        namespace: str,
        name: str,
        manifest: Object,
        parts: Parts,
        *,
        policy: Part,
        scaler: Part | None = None,
        has_keda: bool = False,
    ) -> bool:
        """Apply a Deployment, create its parts, and note on it that both were done."""
        unknown = Deployed(name=name, uid="")
        scaled, closed = scaler(unknown) if scaler is not None else None, policy(unknown)
        wanted = [manifest["spec"], manifest["metadata"]["labels"], scaled, closed]
        digest = digest_of(wanted).hex()
        async with self._lock(namespace, name):
            found = self._endpoints.deployments.get(namespace, name)
            if found is not None and found["metadata"].get("deletionTimestamp"):
                raise NameTaken(f"Deployment {name} is being deleted; the endpoint waits")
            if found is not None and not _is_ours(found, manifest):
                raise taken("Deployment", name)
            if found is not None and _is_as_applied(found, manifest, digest):
                await self._repair(found, parts, (policy, *((scaler,) if scaler else ())))
                return await self._keep_owners(found, manifest)
            is_known = found is not None
            if found is not None:
                manifest = _with_replicas(manifest, found)
                found = await self._write(manifest)
            else:
                found = await self._write_first(manifest)
            deployed = Deployed(name=name, uid=found["metadata"]["uid"])
            if (closed := policy(deployed)) is not None:
                await self._put(closed)
            for part in parts(deployed):
                await self._create(part, deployed)
            if scaler is not None:
                # A new server has none, and KEDA's are asked for only where KEDA is.
                scalers = (AUTOSCALERS, *((SCALED_OBJECTS,) if has_keda else ()))
                others = scalers if is_known else ()
                await self._scale(deployed, scaler(deployed), others, namespace)
            await self._write(_marked(manifest, f"{digest}.{trim_deployment(found)['digest']}"))
        return True

    async def _write_first(self, manifest: Object) -> Object:
        """Write a Deployment that is not in the cache, unless somebody has one of that name.

        It is not created, because an apply would not take back fields that a creation has set.

        Raises:
            NameTaken: Somebody has one, whose labels are not ours.
        """
        try:
            await self._client.create(
                DEPLOYMENTS, manifest, field_manager=FIELD_MANAGER, dry_run=True
            )
            return await self._write(manifest, force=False)
        except (AlreadyExists, Conflict) as error:
            raise taken("Deployment", manifest["metadata"]["name"]) from error

    async def _keep_owners(self, found: Object, manifest: Object) -> bool:
        """Write the owners of a Deployment that is otherwise as wanted, but not too often."""
        metadata = found["metadata"]
        if _owners_of(metadata) == _owners_of(manifest["metadata"]):
            return True
        key, now = (metadata["namespace"], metadata["name"]), self._clock.monotonic()
        if now - self._joined.get(key, -OWNERS_SECONDS) < OWNERS_SECONDS:
            return False
        self._joined[key] = now
        await self._write(_marked(_with_replicas(manifest, found), found["applied"]))
        return True

    async def _write(self, manifest: Object, *, force: bool = True) -> Object:
        answer = await self._client.apply(
            DEPLOYMENTS, manifest, field_manager=FIELD_MANAGER, force=force
        )
        self._endpoints.deployments.absorb(answer)
        return answer

    async def _create(self, part: Object, deployed: Deployed) -> None:
        """Create a part, or find that an earlier attempt did.

        Only a Service can be read here. It comes first: where a Deployment was deleted and made
        again, its old Service is the sign that the garbage collector has yet to come.
        """
        resource = _RESOURCES[part["kind"]]
        metadata = part["metadata"]
        try:
            await self._client.create(resource, part, field_manager=FIELD_MANAGER)
        except AlreadyExists as error:
            if resource is not SERVICES:
                return
            live = await self._client.get(resource, metadata["namespace"], metadata["name"])
            if not _is_part_of(live["metadata"], deployed):
                raise NameTaken(
                    f"Service {metadata['name']} exists and belongs to another object; the endpoint"
                    " waits until it is gone"
                ) from error

    async def _put(self, part: Object) -> None:
        """Apply a part that may change."""
        resource = _RESOURCES[part["kind"]]
        try:
            await self._client.apply(resource, part, field_manager=FIELD_MANAGER, force=False)
        except Conflict as error:
            raise taken(part["kind"], part["metadata"]["name"]) from error

    async def _scale(
        self, deployed: Deployed, scaler: Object | None, others: Iterable[Resource], namespace: str
    ) -> None:
        """Apply the autoscaler, and delete those of the server that were there before."""
        if scaler is not None:
            await self._put(scaler)
        for other in others:
            if scaler is None or other.kind != scaler["kind"]:
                await self._delete_scaler(other, deployed, namespace)

    async def _delete_scaler(self, resource: Resource, deployed: Deployed, namespace: str) -> None:
        """Delete an autoscaler of the server's name, unless it belongs to somebody else."""
        try:
            metadata = (await self._client.get(resource, namespace, deployed.name))["metadata"]
            if _is_part_of(metadata, deployed):
                await self._client.delete(resource, namespace, deployed.name, uid=metadata["uid"])
        except (NotFound, Conflict):
            return  # it is gone, and another one may have its name

    async def _repair(self, found: Object, parts: Parts, others: Iterable[Part]) -> None:
        """Create again what is missing of a Deployment: soon while a pod waits, else seldom.

        While its pods are ready, a part that the cluster refuses, as at a full quota, stops neither
        the endpoint nor the other parts.

        Args:
            found: The Deployment.
            parts: Its parts that never change.
            others: Those that may change. Changes by other users stay.
        """
        key = (found["metadata"]["namespace"], found["metadata"]["name"])
        is_up = (found["numReady"] or not found["numWanted"]) and not found["numWaiting"]
        now = self._clock.monotonic()
        if now - self._repaired.setdefault(key, now) < (CHECK_SECONDS if is_up else REPAIR_SECONDS):
            return
        self._repaired[key] = now
        deployed = Deployed(name=key[1], uid=found["metadata"]["uid"])
        todo = [partial(self._create, part, deployed) for part in parts(deployed)]
        wanted = [other(deployed) for other in others if is_up]
        todo += [partial(self._put, each) for each in wanted if each is not None]
        for put in todo:
            try:
                await put()
            except (KubeError, NameTaken) as error:
                if not is_up or not judge(error)[0]:
                    raise
                logger.warning("Deployment %s/%s: a part was not checked: %s", *key, error)
        if not is_up and deployed.name != FRONT:
            await self._repair_account(key[0], now)

    async def _repair_account(self, namespace: str, now: float) -> None:
        """Create again what is missing of the account and the token, without which no pod starts.

        They belong to the front, whose own pods may run on without them.
        """
        front, key = self._endpoints.deployments.get(namespace, FRONT), (namespace, "")
        if front is None or now - self._repaired.get(key, -REPAIR_SECONDS) < REPAIR_SECONDS:
            return
        self._repaired[key] = now
        deployed = Deployed(name=FRONT, uid=front["metadata"]["uid"])
        for part in _front_parts(namespace, deployed):
            await self._create(part, deployed)

    async def _release(self, namespace: str, name: str, uid: str) -> None:
        found = self._endpoints.deployments.get(namespace, name)
        if found is None:
            return
        metadata = found["metadata"]
        owners = metadata["ownerReferences"]
        others = [owner for owner in owners if owner.get("uid") != uid]
        if len(others) == len(owners):
            return
        version = metadata["resourceVersion"]
        try:
            if not others:
                await self._client.delete(
                    DEPLOYMENTS, namespace, name, uid=metadata["uid"], resource_version=version
                )
                self._endpoints.deployments.discard(found)
                for times in (self._joined, self._repaired):
                    times.pop((namespace, name), None)
                return
            kept = {"uid": metadata["uid"], "resourceVersion": version, "ownerReferences": others}
            answer = await self._client.merge_patch(
                DEPLOYMENTS, namespace, name, {"metadata": kept}, field_manager=FIELD_MANAGER
            )
        except (NotFound, Conflict) as error:
            # Another endpoint took it over, or it is gone: the event that tells it wakes this one.
            logger.info("Deployment %s/%s was not released: %s", namespace, name, error)
            return
        self._endpoints.deployments.absorb(answer)

    def _lock(self, namespace: str, name: str) -> asyncio.Lock:
        lock = self._locks.get((namespace, name)) or asyncio.Lock()
        self._locks[namespace, name] = lock
        return lock


def _front_parts(namespace: str, front: Deployed) -> list[Object]:
    """Return all parts of a front, with another token at each call."""
    token = render_token(namespace, front, secrets.token_urlsafe(TOKEN_BYTES))
    return [*render_front_parts(namespace, front), token]


def _is_ours(found: Object, manifest: Object) -> bool:
    """Return whether a Deployment has our label, and an endpoint of ours or us as its writer."""
    is_owned = bool(_owners_of(found["metadata"]) & _owners_of(manifest["metadata"]))
    return bool(found["isLabelled"] and (is_owned or found["isWritten"]))


def _is_part_of(metadata: Object, deployed: Deployed) -> bool:
    """Return whether an object is owned by a Deployment."""
    owners = metadata.get("ownerReferences") or ()
    return any(owner.get("uid") == deployed.uid for owner in owners)


def _is_as_applied(found: Object, manifest: Object, digest: str) -> bool:
    """Return whether a Deployment is as it was applied, and nobody has changed it since."""
    num_pods = manifest["spec"].get("replicas", found["numWanted"])
    is_unchanged = found["applied"] == f"{digest}.{found['digest']}"
    return is_unchanged and bool(num_pods == found["numWanted"])


def _marked(manifest: Object, applied: str) -> Object:
    metadata = {**manifest["metadata"], "annotations": {APPLIED_ANNOTATION: applied}}
    return {**manifest, "metadata": metadata}


def _owners_of(metadata: Object) -> set[str]:
    return {owner["uid"] for owner in metadata["ownerReferences"]}


def _with_replicas(manifest: Object, found: Object) -> Object:
    """Keep the number of pods that an autoscaler has set: a field given up falls back to 1."""
    if "replicas" in manifest["spec"]:
        return manifest
    return {**manifest, "spec": {**manifest["spec"], "replicas": found["numWanted"]}}
