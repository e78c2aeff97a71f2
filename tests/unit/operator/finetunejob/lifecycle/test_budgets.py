"""Whose requests wait for whose: reconciling, pushes and the Lease have budgets of their own."""

from __future__ import annotations

import asyncio
import random

from aiohttp import web
from aiohttp.test_utils import TestServer

from finetune_operator.config import OperatorConfig
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.resource import PODS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.clock import SystemClock
from finetune_operator.manager import Manager
from kit.processes.eventually import eventually_async

CONFIG = OperatorConfig(
    kueue="off",
    bind_address="127.0.0.1",
    progress_port=0,
    probe_port=0,
    metrics_port=0,
    leader_election_namespace="system",
    # Longer than a starved machine stands still: a Lease that is lost is renewed no more.
    lease_duration_seconds=60.0,
    renew_deadline_seconds=50.0,
    retry_period_seconds=0.1,
)


class EmptyCluster:
    """Lists nothing, watches in silence, keeps one Lease."""

    def __init__(self):
        self.lease = None
        self.num_renewals = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "leases" in request.path:
            return await self.elect(request)
        if "watch" in request.query:
            await asyncio.sleep(60)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async def elect(self, request: web.Request) -> web.Response:
        if request.can_read_body:
            body = await request.json()
            self.num_renewals += 1
            metadata = {**body["metadata"], "resourceVersion": str(self.num_renewals)}
            self.lease = {**body, "metadata": metadata}
        if self.lease is None:
            return web.json_response({"kind": "Status", "reason": "NotFound"}, status=404)
        return web.json_response(self.lease)


async def test_a_lease_is_renewed_on_time_while_all_other_requests_wait():
    cluster = EmptyCluster()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", cluster.handle)
    async with TestServer(app) as server:
        connection = Connection(server=str(server.make_url("")).rstrip("/"))
        async with KubeClient(Transport(connection, qps=5, burst=20)) as client:
            rng = random.Random(1)
            manager = Manager(client, CONFIG, identity="me", clock=SystemClock(), rng=rng)
            await manager.start()
            await eventually_async(lambda: manager.is_leader)
            waiting = [asyncio.create_task(client.get(PODS, "ns", "p")) for _ in range(400)]
            before = cluster.num_renewals
            await eventually_async(lambda: cluster.num_renewals >= before + 15)
            assert manager.is_leader
            assert not all(task.done() for task in waiting), "the others had to wait"
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await manager.stop()
