"""Watches what really happened: every Job ever made, every terminal state."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.resource import JOBS
from finetune_operator.kube.cache.informer import Informer
from kit.processes.operators import holds


class Observer:
    """Collects violations of what must hold whatever breaks."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        self.job_uids: dict[str, set[str]] = defaultdict(set)
        self.violations: list[str] = []
        self._terminal: dict[str, str] = {}
        self._informers = [
            Informer(client, kind, namespaces=[namespace]) for kind in (JOBS, FINETUNEJOBS)
        ]
        self._informers[0].store.add_handler(self._on_job)
        self._informers[1].store.add_handler(self._on_finetunejob)

    @contextlib.asynccontextmanager
    async def watching(self):
        tasks = [asyncio.create_task(informer.run()) for informer in self._informers]
        try:
            for informer in self._informers:
                await informer.synced.wait()
            yield self
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def finetunejobs(self):
        return self._informers[1].store

    @property
    def jobs(self):
        return self._informers[0].store

    def _on_job(self, kind, old, new) -> None:
        if new is None:
            return
        name, uid = new["metadata"]["name"], new["metadata"]["uid"]
        self.job_uids[name].add(uid)
        if len(self.job_uids[name]) > 1:
            self.violations.append(f"Job {name} was made a second time")

    def _on_finetunejob(self, kind, old, new) -> None:
        if new is None:
            return
        name = new["metadata"]["name"]
        state = next((each for each in ("Complete", "Failed") if holds(new, each)), "")
        before = self._terminal.get(name, "")
        if before and state != before:
            self.violations.append(f"{name} was {before} and is {state or 'running'}")
        if state:
            self._terminal[name] = state

    def num_ended(self, state: str = "Complete") -> int:
        return sum(each == state for each in self._terminal.values())
