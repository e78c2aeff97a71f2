"""What the operator keeps of jobs and of sweeps: ``python -m benchmarks.control_plane.kept``.

One process leads plain jobs and sweeps of ten trials through their lives, each kind by an operator
of its own (all of it but kopf) on an API server that is a dictionary, and then counts the objects
that are alive, part by part: while the trials wait for the choice, and after the end. No HTTP, no
other process: the same numbers on a busy machine. Beside them stands the processor time of the
operator's own code, driver and dictionary included.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import random
import sys
import time
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
from benchmarks.control_plane.driver import JobDriver
from benchmarks.control_plane.sweeping import NUM_TRIALS, Run, last_words, run_jobs, run_sweeps
from benchmarks.control_plane.world import until

from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep
from finetune_operator.config import OperatorConfig
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.kube.api.client import KubeClient, ObjectList, WatchEvent
from finetune_operator.kube.api.errors import AlreadyExists, Conflict, ObjectNotFound
from finetune_operator.kube.api.resource import EVENTS, Object, Resource
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.clock import SystemClock
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.manager import Manager
from kit.cluster.simulation import timestamp

NAMESPACE = "kept"
WATCH_SECONDS = 0.01
"""How much later a watch tells of a write than its answer does."""
_DEFAULTS = {FINETUNEJOBS: FineTuneJob, FINETUNESWEEPS: FineTuneSweep}
_OF_THE_PROGRAM = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
    types.BuiltinFunctionType,
    type(None),
    bool,
)


class Server:
    """An API server without a network, as far as the lives of jobs and sweeps need one.

    Objects are kept and handed out as JSON text, so that nothing is shared with whoever reads.

    Attributes:
        metrics: What the client of the operator counts.
        observe: Told of FineTuneJobs, for kopf is not there to do it.
    """

    def __init__(self) -> None:
        self.metrics = KubeMetrics()
        self.observe: Callable[[str, Object], None] = lambda kind, body: None
        self._version = 1000
        self._objects: dict[Resource, dict[tuple[str, str], bytes]] = {}
        self._watches: dict[Resource, list[asyncio.Queue[tuple[str, bytes]]]] = {}
        self._applied: dict[tuple[str, str], set[str]] = {}

    def budgeted(self, *, qps: float, burst: int) -> Server:
        """Return itself: nothing is held back."""
        return self

    async def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Read one object."""
        await asyncio.sleep(0)
        return self._find(resource, namespace, name)

    async def list(self, resource: Resource, namespace: str = "", **selectors: Any) -> ObjectList:
        """Read all objects of a kind."""
        await asyncio.sleep(0)
        found = self._objects.get(resource, {}).values()
        return ObjectList(
            items=[orjson.loads(text) for text in found], resource_version=str(self._version)
        )

    async def list_pages(
        self, resource: Resource, namespace: str = "", **selectors: Any
    ) -> AsyncIterator[ObjectList]:
        """Read all objects of a kind, in one page."""
        yield await self.list(resource, namespace)

    async def watch(
        self, resource: Resource, namespace: str = "", **options: Any
    ) -> AsyncIterator[WatchEvent]:
        """Yield the changes of a kind from now on."""
        queue: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self._watches.setdefault(resource, []).append(queue)
        while True:
            kind, text = await queue.get()
            yield kind, orjson.loads(text)

    async def create(
        self, resource: Resource, obj: Object, *, field_manager: str = "", strict: bool = False
    ) -> Object:
        """Create an object; Events are taken and thrown away."""
        await asyncio.sleep(0)
        metadata = obj["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if key in self._objects.get(resource, {}):
            raise AlreadyExists(f"create {key[1]}", status=409)
        made = {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creationTimestamp": timestamp(),
        }
        obj = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            **obj,
            "metadata": {**metadata, **made},
        }
        if (model := _DEFAULTS.get(resource)) is not None:
            obj["spec"] = cast("Any", model).from_wire(obj).to_wire()["spec"]
        return obj if resource == EVENTS else self._store(resource, obj, "ADDED")

    async def apply_status(
        self, resource: Resource, obj: Object, *, field_manager: str, force: bool = True
    ) -> Object:
        """Replace the sections of a status that a field manager owns."""
        await asyncio.sleep(0)
        metadata = obj["metadata"]
        old = self._find(resource, metadata["namespace"], metadata["name"], metadata)
        owner = (old["metadata"]["uid"], field_manager)
        gone = self._applied.get(owner, set()) - set(obj["status"])
        self._applied[owner] = set(obj["status"])
        kept = {key: value for key, value in (old.get("status") or {}).items() if key not in gone}
        return self._store(resource, {**old, "status": {**kept, **obj["status"]}}, "MODIFIED")

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Object,
        *,
        subresource: str = "",
        field_manager: str = "",
    ) -> Object:
        """Apply a JSON merge patch."""
        await asyncio.sleep(0)
        old = self._find(resource, namespace, name, patch.get("metadata") or {})
        new: Object = _merged(old, patch)
        if new["spec"] != old["spec"]:
            new["metadata"]["generation"] += 1
        return self._store(resource, new, "MODIFIED")

    def _find(
        self, resource: Resource, namespace: str, name: str, expected: Mapping[str, Any] = {}
    ) -> Object:
        text = self._objects.get(resource, {}).get((namespace, name))
        if text is None:
            raise ObjectNotFound(f"get {name}", status=404)
        found: Object = orjson.loads(text)
        for field in ("uid", "resourceVersion"):
            if expected.get(field, found["metadata"][field]) != found["metadata"][field]:
                raise Conflict(f"patch {name}", status=409)
        return found

    def _store(self, resource: Resource, obj: Object, kind: str) -> Object:
        self._version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self._version)}
        text = orjson.dumps({**obj, "metadata": metadata})
        self._objects.setdefault(resource, {})[metadata["namespace"], metadata["name"]] = text
        for queue in self._watches.get(resource, ()):
            queue.put_nowait((kind, text))
        if resource == FINETUNEJOBS:
            loop = asyncio.get_running_loop()
            loop.call_later(WATCH_SECONDS, self.observe, kind, orjson.loads(text))
        answer: Object = orjson.loads(text)
        return answer


def _merged(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    kept = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        kept[key] = _merged(kept.get(key), change)
    return {key: each for key, each in kept.items() if each is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is alive, in bytes by part; what several parts share counts for the first."""

    num_jobs: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts.values())


def count_kept(manager: Manager) -> Kept:
    """Count what an operator keeps, once what it has dropped is collected."""
    gc.collect()
    caches, recorder, reconciler = manager.caches, manager._recorder, manager._reconciler
    jobs = caches.finetunejobs.objects()
    sweeps = caches.sweeps.informer.store
    children = reconciler._children
    parts: dict[str, object] = {
        "FineTuneJobs: spec": [job.get("spec") for job in jobs],
        "FineTuneJobs: status": [job.get("status") for job in jobs],
        "FineTuneJobs: metadata, keys": _held_by(caches.finetunejobs),
        "Jobs": _held_by(caches.jobs),
        "pods": _held_by(caches.pods),
        "FineTuneSweeps: spec": [sweep.get("spec") for sweep in sweeps.objects()],
        "FineTuneSweeps: status": [sweep.get("status") for sweep in sweeps.objects()],
        "FineTuneSweeps: metadata, keys": _held_by(sweeps),
        "equal parts, to be found": caches._shared._known,
        "validated FineTuneJobs": reconciler._validated._known,
        "attempts of FineTuneJobs": reconciler._ledgers,
        "validated FineTuneSweeps": manager._sweeps.reconciler._memories,
        "validated parts, to be found": dict(manager._models._known),
        "warnings, refusals": (children._warnings._known, children._refusals._pauses),
        "Events": (recorder._known, recorder._buckets),
        "queues": [
            (queue._light, queue._heavy, queue._waiting, queue._due, queue._pauses)
            for queue in (each.queue for each in manager._controllers)
        ],
    }
    seen: set[int] = set()
    sizes = {name: _size_of(each, seen) for name, each in parts.items()}
    return Kept(num_jobs=len(jobs), parts=sizes)


def _held_by(store: Store) -> object:
    return store._objects, store._indexes


def _size_of(root: object, seen: set[int]) -> int:
    """Return the bytes of everything that is reached and was not seen before."""
    total = 0
    stack = [root]
    while stack:
        found = stack.pop()
        if id(found) in seen or isinstance(found, _OF_THE_PROGRAM):
            continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        stack.extend(_parts_of(found))
    return total


def _parts_of(found: object) -> Iterable[object]:
    if isinstance(found, dict):
        yield from found
        yield from found.values()
    elif isinstance(found, (list, tuple, set, frozenset)):
        yield from found
    elif not isinstance(found, (str, bytes, int, float)):
        yield getattr(found, "__dict__", None)
        slots = [name for kind in type(found).__mro__ for name in getattr(kind, "__slots__", ())]
        yield from (getattr(found, name, None) for name in slots)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lives:
    """What jobs came to.

    Attributes:
        peak: What was alive when it was the most, as far as it was seen.
        end: What is alive after the end.
        cpu_seconds: Processor time per job, of everything in the process.
    """

    peak: Kept
    end: Kept
    cpu_seconds: float


async def lead(
    run: Run,
    num_sweeps: int,
    *,
    every_seconds: float = 1.0,
    profiler: cProfile.Profile | None = None,
) -> Lives:
    """Lead jobs or sweeps through their lives.

    Args:
        run: What creates them and waits for their end.
        num_sweeps: Sweeps, or tens of jobs.
        every_seconds: How often to count what is alive.
        profiler: Measures the lives, and the counting with them.
    """
    server = Server()
    client = cast("KubeClient", server)
    config = OperatorConfig(
        namespaces=[NAMESPACE],
        leader_election=False,
        kueue="off",
        progress_url="http://127.0.0.1:1",
        progress_port=0,
        probe_port=0,
        metrics_port=0,
        bind_address="127.0.0.1",
    )
    manager = Manager(client, config, identity="kept", clock=SystemClock(), rng=random.Random(1))
    await manager.start()
    server.observe = manager.observe
    driver = JobDriver(client, NAMESPACE, last_words=last_words)
    driving = asyncio.create_task(driver.run())
    try:
        await driver.synced()
        await until(lambda: manager.is_ready, 60)
        peak = count_kept(manager)
        if profiler is not None:
            profiler.enable()
        begun, counting = time.process_time(), 0.0
        running = asyncio.create_task(run(client, NAMESPACE, driver, "kept", num_sweeps))
        while not running.done():
            await asyncio.wait({running}, timeout=every_seconds)
            counted = time.process_time()
            peak = max(peak, count_kept(manager), key=lambda kept: kept.total)
            counting += time.process_time() - counted
        await running
        cpu_seconds = time.process_time() - begun - counting
        if profiler is not None:
            profiler.disable()
        await asyncio.sleep(1.0)
        return Lives(
            peak=peak,
            end=count_kept(manager),
            cpu_seconds=cpu_seconds / num_sweeps / NUM_TRIALS,
        )
    finally:
        driving.cancel()
        await manager.stop()


def table_of(plain: Lives, sweeps: Lives) -> str:
    """Return what a job and what a trial keep, part by part, in KiB."""
    lines = [
        "| KiB | a job, at most | a trial, at most | a job, at the end | a trial, at the end |",
        "|---|---|---|---|---|",
    ]
    columns = [plain.peak, sweeps.peak, plain.end, sweeps.end]
    num_jobs = max(each.num_jobs for each in columns)

    def row(name: str, sizes: Iterable[int]) -> str:
        figures = [f"{size / 1024 / num_jobs:.2f}" for size in sizes]
        return f"| {name} | {' | '.join(figures)} |"

    for name in plain.end.parts:
        lines.append(row(name, (each.parts[name] for each in columns)))
    lines.append(row("**all**", (each.total for each in columns)))
    return "\n".join(lines)


def main() -> int:
    """Lead both kinds through their lives; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=50)
    parser.add_argument("--profile", type=Path, help="folder for cProfile's figures of both")
    options = parser.parse_args()
    found: list[Lives] = []
    for name, run in {"jobs": run_jobs, "sweeps": run_sweeps}.items():
        profiler = cProfile.Profile() if options.profile else None
        found.append(asyncio.run(lead(run, options.sweeps, profiler=profiler)))
        if profiler is not None:
            profiler.dump_stats(options.profile / name)
    plain, sweeps = found
    print(table_of(plain, sweeps))
    print(
        f"CPU, driver and dictionary included: {1000 * plain.cpu_seconds:.1f} ms a job,"
        f" {1000 * sweeps.cpu_seconds:.1f} ms a trial"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
