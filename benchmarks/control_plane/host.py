"""What kopf costs as the host that watches FineTuneJobs, beside an informer of our own.

``python benchmarks/control_plane/host.py [--jobs 2000] [--changes 3]`` has a process of its own
answer one list of FineTuneJobs and a watch with so many changes of each. They are taken in once by
kopf as ``app.py`` sets it up, and once by ``kube/cache/informer.py``. Both feed the same store. The
processor time of this process counts until the store holds every last change.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SPACE = "bench"
LIST_VERSION = 10
Object = dict[str, Any]


_NAMESPACED: Object = {
    "name": "finetunejobs",
    "singularName": "",
    "kind": "FineTuneJob",
    "namespaced": True,
    "verbs": ["get", "list", "watch", "patch"],
}


def job(number: int, version: int) -> Object:
    """Return a FineTuneJob as the API server would hold it in training: about 4 KiB."""
    from kit.cluster.simulation import finetunejob

    body = finetunejob(f"job-{number:05d}", SPACE)
    body["metadata"] |= {
        "uid": f"uid-{number}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-11-26T00:00:00Z",
    }
    told = {
        "status": "True",
        "reason": "Running",
        "message": "x" * 200,
        "lastTransitionTime": "2026-11-26T00:00:00Z",
    }
    body["status"] = {
        "phase": "Training",
        "conditions": [{"type": f"Condition{n}", **told} for n in range(8)],
        "progress": {"stage": "train", "step": version},
    }
    return body


async def serve(num_jobs: int, num_changes: int) -> None:
    """Answer lists and watches until killed; print the address."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("1", "true"):
            return await stream(request)
        items = [job(number, 1) for number in range(num_jobs)]
        metadata = {"resourceVersion": str(LIST_VERSION)}
        return web.json_response({"kind": "FineTuneJobList", "metadata": metadata, "items": items})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        version = LIST_VERSION
        for _ in range(num_changes):
            for number in range(num_jobs):
                version += 1
                event = {"type": "MODIFIED", "object": job(number, version)}
                await response.write(json.dumps(event).encode() + b"\n")
        await asyncio.sleep(3600)
        return response

    # kopf waits for namespaces to be known, whatever it watches.
    namespaces = {**_NAMESPACED, "name": "namespaces", "kind": "Namespace", "namespaced": False}
    version = {"groupVersion": "finetune.dev/v1alpha1", "version": "v1alpha1"}
    group = {"name": "finetune.dev", "versions": [version], "preferredVersion": version}
    discovery: dict[str, Object] = {
        "/api": {"versions": ["v1"]},
        "/api/v1": {"resources": [namespaces]},
        "/apis": {"groups": [group]},
        "/apis/finetune.dev/v1alpha1": {"resources": [_NAMESPACED]},
    }

    async def discover(request: web.Request) -> web.Response:
        return web.json_response(discovery[request.path])

    app = web.Application()
    for path in discovery:
        app.router.add_get(path, discover)
    app.router.add_get("/apis/finetune.dev/v1alpha1/namespaces/{n}/finetunejobs", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.sleep(3600)


@contextlib.asynccontextmanager
async def hosted_by_kopf(url: str) -> AsyncIterator[Any]:
    """Feed a store through kopf, as the operator does."""
    import kopf

    from finetune_operator.app import build_registry, configure_kopf
    from finetune_operator.finetunejob.state.observed import trim_finetunejob
    from finetune_operator.kube.api.connection import Connection
    from finetune_operator.kube.cache.store import Store

    store = Store(transform=trim_finetunejob)
    settings = kopf.OperatorSettings()
    configure_kopf(settings)
    stop = asyncio.Event()
    tasks = await kopf.spawn_tasks(
        registry=build_registry(Connection(server=url), store.observe),
        settings=settings,
        standalone=True,
        namespaces=[SPACE],
        stop_flag=stop,
    )
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored=asyncio.all_tasks() - set(tasks)))
    try:
        yield store
    finally:
        stop.set()
        await asyncio.gather(running, return_exceptions=True)


@contextlib.asynccontextmanager
async def watched_by_informer(url: str) -> AsyncIterator[Any]:
    """Feed a store through an informer."""
    from finetune_operator.controllers.memory.caches import FINETUNEJOBS
    from finetune_operator.finetunejob.state.observed import trim_finetunejob
    from finetune_operator.kube.api.client import KubeClient
    from finetune_operator.kube.api.connection import Connection
    from finetune_operator.kube.api.transport import Transport
    from finetune_operator.kube.cache.informer import Informer

    async with KubeClient(Transport(Connection(server=url))) as client:
        informer = Informer(client, FINETUNEJOBS, namespaces=[SPACE], transform=trim_finetunejob)
        running = asyncio.create_task(informer.run())
        try:
            yield informer.store
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def import_all() -> None:
    """Import what both need, so that it is not counted."""
    import kopf  # noqa: F401

    import finetune_operator.app  # noqa: F401


Host = Callable[[str], contextlib.AbstractAsyncContextManager[Any]]


async def measure(host: Host, url: str, num_jobs: int, num_changes: int) -> tuple[float, float]:
    """Return processor seconds and wall seconds until the store is up to date."""
    last = LIST_VERSION + num_jobs * num_changes
    cpu, wall = time.process_time(), time.monotonic()
    async with host(url) as store:
        while True:
            newest = store.get(SPACE, f"job-{num_jobs - 1:05d}")
            if newest is not None and newest["metadata"]["resourceVersion"] == str(last):
                break
            await asyncio.sleep(0.05)
        return time.process_time() - cpu, time.monotonic() - wall


def main() -> int:
    """Measure both, print a table."""
    sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("tools", "tests", "operator"))]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--changes", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.jobs, options.changes))
    import_all()
    hosts: dict[str, Host] = {"kopf": hosted_by_kopf, "informer": watched_by_informer}
    command = [sys.executable, __file__, "--serve"]
    command += ["--jobs", str(options.jobs), "--changes", str(options.changes)]
    events = options.jobs * (options.changes + 1)
    print("| host | processor seconds | microseconds per event | wall seconds |\n|---|---|---|---|")
    for name, host in hosts.items():
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = server.stdout.readline().strip()
                cpu, wall = asyncio.run(measure(host, url, options.jobs, options.changes))
            finally:
                server.kill()
        print(f"| {name} | {cpu:.2f} | {1e6 * cpu / events:.0f} | {wall:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
