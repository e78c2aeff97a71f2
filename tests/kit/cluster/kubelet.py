"""A kubelet that runs nothing: it writes the statuses that pods would have.

The Job controller of the control plane is real and does the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import JOB_LABEL, STAGE_LABEL
from finetune_api.protocol.trainer import Stage
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import KubeError, NotFound
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.cache.informer import Informer
from finetune_operator.kube.cache.store import Transform, drop_managed_fields
from kit.cluster.simulation import ended_status, running_status, success_text, timestamp

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What happens to one pod."""

    status: Object | None = None
    """Final status; None leaves the pod running (or waiting, see ``starts``)."""
    starts: bool = True
    """Whether its container runs first."""
    run_seconds: float = 0.0
    until: Callable[[], Awaitable[object]] | None = None
    """Holds the pod: it ends no earlier than this has returned."""
    extra: list[Object] = field(default_factory=list)


def success(
    stage: Stage,
    *,
    goal_met: bool = True,
    validation_loss: str = "",
    run_seconds: float = 0.0,
    until: Callable[[], Awaitable[object]] | None = None,
) -> Fate:
    text = success_text(stage, goal_met=goal_met, validation_loss=validation_loss)
    return Fate(status=ended_status(0, text), run_seconds=run_seconds, until=until)


Script = Callable[[str, Stage, int], Fate]
"""Called with (FineTuneJob, stage, number of the attempt from 0); decides a pod's fate."""


class Kubelet:
    """Drives the pods of FineTuneJobs in some namespaces.

    Args:
        client: The API client.
        namespaces: Where; empty for all.
        script: Decides what becomes of each pod; by default all succeed at once.
        transform: Trims what is kept of pods.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespaces: tuple[str, ...] = (),
        script: Script | None = None,
        transform: Transform = drop_managed_fields,
    ) -> None:
        self.script: Script = script or (lambda job, stage, attempt: success(stage))
        self.attempts: Counter[tuple[str, str, str]] = Counter()
        self._client = client
        self._informer = Informer(
            client,
            PODS,
            namespaces=namespaces,
            label_selector=JOB_LABEL,
            transform=transform,
        )
        self._seen: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._informer.store.add_handler(self._on_pod)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Kubelet]:
        task = asyncio.create_task(self._informer.run())
        try:
            await self._informer.synced.wait()
            yield self
        finally:
            for each in (task, *self._tasks):
                each.cancel()
            await asyncio.gather(task, *self._tasks, return_exceptions=True)

    def pods(self) -> list[Object]:
        return self._informer.store.objects()

    def _on_pod(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None or new["metadata"]["uid"] in self._seen:
            return
        self._seen.add(new["metadata"]["uid"])
        if new["status"].get("phase") in ("Succeeded", "Failed"):
            return
        labels = new["metadata"]["labels"]
        key = (new["metadata"]["namespace"], labels[JOB_LABEL], labels[STAGE_LABEL])
        attempt = self.attempts[key]
        self.attempts[key] += 1
        fate = self.script(labels[JOB_LABEL], Stage(labels[STAGE_LABEL]), attempt)
        task = asyncio.create_task(self._live(new, fate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, pod: Object, fate: Fate) -> None:
        if fate.starts:
            await self._write(pod, running_status(timestamp()))
            await asyncio.sleep(fate.run_seconds)
        if fate.until is not None:
            await fate.until()
        for status in [*fate.extra, *([fate.status] if fate.status else [])]:
            await self._write(pod, status)

    async def _write(self, pod: Object, status: Object) -> None:
        metadata = pod["metadata"]
        while True:
            try:
                await self._client.merge_patch(
                    PODS,
                    metadata["namespace"],
                    metadata["name"],
                    {"metadata": {"uid": metadata["uid"]}, "status": status},
                    subresource="status",
                )
            except NotFound:
                return
            except KubeError:
                await asyncio.sleep(0.2)
            else:
                return
