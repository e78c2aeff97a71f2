"""Completes child Jobs by writing their status: no kubelet, no Job controller.

It stands for everything below the operator, at the least cost: per stage one pod and four status
writes. It runs in the benchmark's process; the operator is measured in its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from finetune_api.names import JOB_LABEL, STAGE_LABEL
from finetune_api.protocol.trainer import Stage
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.errors import KubeError, NotFound
from finetune_operator.kube.api.resource import JOBS, PODS, Object, Resource
from finetune_operator.kube.cache.informer import Informer
from kit.cluster.simulation import (
    ended_status,
    job_complete_status,
    job_started_status,
    running_status,
    success_text,
    timestamp,
)

logger = logging.getLogger(__name__)

LastWords = Callable[[str, Stage], str]
"""Called with a FineTuneJob's name and a stage of it; returns the termination message."""


class JobDriver:
    """Runs the Jobs of FineTuneJobs to their end.

    Args:
        client: The API client.
        namespace: Where.
        run_seconds: How long a stage runs.
        hold: Stage whose pods run for ever, for benchmarks of running jobs.
        last_words: What a stage of a FineTuneJob says at its end; plain success by default.
        num_parallel: Jobs written to at once. Few: it shares the machine, and no cluster starts a
            thousand pods in the second in which their Jobs appear.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        *,
        run_seconds: float = 0.0,
        hold: Stage | None = None,
        last_words: LastWords | None = None,
        num_parallel: int = 8,
    ) -> None:
        self.first_seen: dict[str, float] = {}
        self.completed: dict[str, float] = {}
        self.held: dict[str, Object] = {}
        self._client = client
        self._namespace = namespace
        self._run_seconds = run_seconds
        self._hold = hold
        self._last_words: LastWords = last_words or (lambda name, stage: success_text(stage))
        self._slots = asyncio.Semaphore(num_parallel)
        self._informer = Informer(
            client,
            JOBS,
            namespaces=[namespace],
            label_selector=JOB_LABEL,
            transform=_trim,
        )
        self._informer.store.add_handler(self._on_job)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            await self._informer.run()
        finally:
            for task in self._tasks:
                task.cancel()

    async def synced(self) -> None:
        """Wait for the first list."""
        await self._informer.synced.wait()

    def _on_job(self, kind: str, old: Object | None, new: Object | None) -> None:
        if new is None or old is not None:
            return
        labels = new["metadata"]["labels"]
        name, stage = labels[JOB_LABEL], Stage(labels[STAGE_LABEL])
        if stage is Stage.PREPARE:
            self.first_seen[name] = time.monotonic()
        task = asyncio.create_task(self._run_job(new, name, stage))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_job(self, job: Object, name: str, stage: Stage) -> None:
        started = timestamp()
        pod_name = f"{job['metadata']['name']}-0-x"
        async with self._slots:
            pod = await self._client.create(PODS, _pod(job, pod_name, name, stage))
            await self._status(PODS, pod_name, running_status(started))
            await self._status(JOBS, job["metadata"]["name"], job_started_status(started))
        if stage is self._hold:
            self.held[name] = pod
            return
        await asyncio.sleep(self._run_seconds)
        async with self._slots:
            await self._status(PODS, pod_name, ended_status(0, self._last_words(name, stage)))
            await self._status(JOBS, job["metadata"]["name"], job_complete_status(started))
        if stage is Stage.EVALUATE:
            self.completed[name] = time.monotonic()

    async def _status(self, resource: Resource, name: str, status: Object) -> None:
        while True:
            try:
                await self._client.merge_patch(
                    resource, self._namespace, name, {"status": status}, subresource="status"
                )
            except NotFound:
                return
            except KubeError as error:
                logger.warning("driver: %s", error)
                await asyncio.sleep(0.5)
            else:
                return


def _trim(job: Object) -> Object:
    metadata = job["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    return {"metadata": {key: metadata[key] for key in kept}, "spec": {}}


def _pod(job: Object, pod_name: str, name: str, stage: Stage) -> dict[str, Any]:
    metadata = job["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name,
            "namespace": metadata["namespace"],
            "labels": {JOB_LABEL: name, STAGE_LABEL: stage.value},
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [{"name": "trainer", "image": "finetune-trainer:latest"}],
        },
    }
