"""One replica whose API server lacks something: it lives, and tells what it waits for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
import pytest

from finetune_operator import app
from finetune_operator.config import OperatorConfig
from finetune_operator.integrations.kueue.workload import is_installed
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.transport import Transport
from kit.processes.eventually import eventually_async
from kit.servers.ports import free_port
from kit.servers.scripted_server import hang_up, reply_list, reply_status, scripted_server


@asynccontextmanager
async def served(server, **settings):
    """Run a replica; yields a function that asks its probes."""
    port = free_port()
    config = OperatorConfig(
        probe_port=port,
        metrics_port=0,
        progress_port=0,
        bind_address="127.0.0.1",
        leader_election=False,
        **settings,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(
        app.serve(config, connection=Connection(server=server.url), stop=stop, seed=1)
    )
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

        async def probe(path: str) -> tuple[int, str]:
            try:
                async with session.get(path) as response:
                    return response.status, await response.text()
            except aiohttp.ClientConnectionError as error:
                return 0, str(error)

        try:
            yield probe
            assert not running.done(), "a replica does not end by itself"
        finally:
            stop.set()
            await running


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (reply_status(404, "NotFound"), "CustomResourceDefinition of FineTuneJob is not installed"),
        (reply_status(403, "Forbidden"), "cannot list FineTuneJobs, will retry: list FineTuneJob"),
        (hang_up(), "is the API server reachable?"),
    ],
    ids=["no definition", "no rights", "no server"],
)
async def test_what_is_missing_at_start_leaves_the_pod_alive_and_not_ready(
    answer, told, monkeypatch
):
    monkeypatch.setattr(app, "CRD_RETRY_SECONDS", 0.02)
    async with scripted_server() as server:
        server.lists.append(answer)
        async with served(server) as probe:

            async def is_told():
                status, text = await probe("/readyz")
                return status == 503 and told in text

            await eventually_async(is_told, timeout=20)
            assert await probe("/healthz") == (200, "ok")


@pytest.mark.parametrize(
    ("namespaces", "is_there"),
    [(["gone", "team-a"], True), (["team-a", "gone"], True), (["gone"], False)],
)
async def test_one_namespace_that_may_be_listed_is_enough_to_begin(namespaces, is_there):
    async def list_kind(request):
        if "/namespaces/gone/" in request.path:
            return await reply_status(403, "Forbidden")(request)
        return await reply_list(version="5")(request)

    waited = []
    stop = asyncio.Event()
    manager = SimpleNamespace(
        config=OperatorConfig(namespaces=namespaces),
        wait_for=lambda problem: (waited.append(problem), stop.set()),
    )
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(list_kind)
        assert await app._wait_for_crd(client, manager, stop) is is_there
        assert await is_installed(client, namespaces) is is_there
    assert [("403" in problem) for problem in waited] == ([] if is_there else [True])


async def test_a_kueue_whose_webhook_is_down_is_installed():
    async with (
        scripted_server() as server,
        KubeClient(Transport(Connection(server=server.url))) as client,
    ):
        server.lists.append(reply_status(500, "InternalError", "conversion webhook failed"))
        assert await is_installed(client)
