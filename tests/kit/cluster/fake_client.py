"""A stand-in for ``KubeClient`` that keeps objects in a dict, for tests on virtual time.

Only what leases, statuses and Events need: resourceVersion, 404, 409, and faults on request. What
a real API server does beyond that is tested on a real one.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections import deque
from typing import Any

from finetune_operator.kube.api.errors import AlreadyExists, Conflict, Invalid, ObjectNotFound
from finetune_operator.kube.metrics import KubeMetrics


class FakeCluster:
    """What all fake clients of a test share."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.version = 100
        self.lacks: tuple[str, ...] = ()
        """The field that an older CRD does not have: it is dropped, or refused where strict."""

    def store(self, key: tuple[str, str, str], obj: dict[str, Any]) -> dict[str, Any]:
        """Keep a copy under the next version."""
        self.version += 1
        obj = copy.deepcopy(obj)
        obj["metadata"].setdefault("uid", f"uid-{self.version}")
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = obj
        return copy.deepcopy(obj)

    def without_unknown(self, obj: dict[str, Any], *, strict: bool) -> dict[str, Any]:
        """Return the object as an API server with an older CRD takes it."""
        obj = copy.deepcopy(obj)
        *path, name = self.lacks or ("",)
        holder = functools.reduce(lambda part, field: part.get(field) or {}, path, obj)
        if name in holder and strict:
            told = f'strict decoding error: unknown field "{".".join(self.lacks)}"'
            raise Invalid("create", status=400, reason="BadRequest", message=told)
        holder.pop(name, None)
        return obj


class FakeClient:
    """One process's view of the cluster.

    Attributes:
        writes: (verb, body) of every write that was sent.
        faults: Exceptions to raise from the next requests; None lets one pass.
        down: Raised from every request while set.
        latency_seconds: Time every request takes, on the loop's clock.
        lose_answers: Do the write, then raise ``down`` anyway.
    """

    def __init__(self, cluster: FakeCluster | None = None) -> None:
        self.cluster = cluster or FakeCluster()
        self.metrics = KubeMetrics()
        self.writes: list[tuple[str, dict[str, Any]]] = []
        self.faults: deque[Exception | None] = deque()
        self.down: Exception | None = None
        self.lose_answers = False
        self.latency_seconds = 0.0

    def budgeted(self, *, qps, burst):
        return self

    async def get(self, resource, namespace, name):
        await self._arrive()
        obj = self.cluster.objects.get((resource.plural, namespace, name))
        if obj is None:
            raise ObjectNotFound(f"get {name}", status=404)
        return copy.deepcopy(obj)

    async def create(self, resource, obj, *, field_manager="", strict=False, dry_run=False):
        await self._arrive()
        if not dry_run:
            self.writes.append(("create", obj))
        key = self._key(resource, obj)
        if key in self.cluster.objects:
            raise AlreadyExists(f"create {key[2]}", status=409)
        obj = self.cluster.without_unknown(obj, strict=strict)
        if dry_run:
            return obj
        return self._leave(self.cluster.store(key, obj))

    async def replace(self, resource, obj, *, field_manager=""):
        await self._arrive()
        self.writes.append(("replace", obj))
        key = self._key(resource, obj)
        current = self.cluster.objects.get(key)
        if current is None:
            raise ObjectNotFound(f"replace {key[2]}", status=404)
        version = obj["metadata"].get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            raise Conflict(f"replace {key[2]}", status=409)
        merged = {**obj, "metadata": {**obj["metadata"], "uid": current["metadata"]["uid"]}}
        return self._leave(self.cluster.store(key, merged))

    async def apply(self, resource, obj, *, field_manager, force=True, subresource=""):
        await self._arrive()
        self.writes.append(("apply", obj))
        key = self._key(resource, obj)
        current = self.cluster.objects.get(key)
        if current is None and subresource:
            raise ObjectNotFound(f"apply {key[2]}", status=404)
        version = obj["metadata"].get("resourceVersion")
        if version and version != current["metadata"]["resourceVersion"]:
            raise Conflict(f"apply {key[2]}", status=409)
        merged = {**(current or {}), **obj}
        merged["metadata"] = {**(current or obj)["metadata"], **obj["metadata"]}
        return self._leave(self.cluster.store(key, merged))

    async def delete(
        self, resource, namespace, name, *, uid="", resource_version="", propagation="Background"
    ):
        await self._arrive()
        self.writes.append(("delete", {"kind": resource.kind, "metadata": {"name": name}}))
        if self.cluster.objects.pop((resource.plural, namespace, name), None) is None:
            raise ObjectNotFound(f"delete {name}", status=404)

    async def apply_status(self, resource, obj, *, field_manager, force=True):
        return await self.apply(resource, obj, field_manager=field_manager, subresource="status")

    async def merge_patch(
        self, resource, namespace, name, patch, *, subresource="", field_manager=""
    ):
        await self._arrive()
        self.writes.append(("patch", patch))
        key = (resource.plural, namespace, name)
        current = self.cluster.objects.get(key)
        if current is None:
            raise ObjectNotFound(f"patch {name}", status=404)
        metadata = current["metadata"]
        for field in ("uid", "resourceVersion"):
            if patch.get("metadata", {}).get(field, metadata[field]) != metadata[field]:
                raise Conflict(f"patch {name}", status=409)
        return self._leave(self.cluster.store(key, _merged(current, patch)))

    @staticmethod
    def _key(resource, obj):
        metadata = obj["metadata"]
        return resource.plural, metadata.get("namespace", ""), metadata["name"]

    async def _arrive(self) -> None:
        await asyncio.sleep(self.latency_seconds)
        if self.down is not None and not self.lose_answers:
            raise self.down
        if self.faults and (fault := self.faults.popleft()) is not None:
            raise fault

    def _leave(self, obj):
        if self.down is not None:
            raise self.down
        return obj


def _merged(value, patch):
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    kept = {**(value if isinstance(value, dict) else {})}
    for key, change in patch.items():
        kept[key] = _merged(kept.get(key), change)
    return {key: each for key, each in kept.items() if each is not None}
