"""One fresh API server with one operator, for one scenario: its start, its jobs and its end."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from benchmarks.control_plane.measure import (
    CpuMeter,
    Usage,
    num_writes,
    requests_by_kind,
    usage_of,
)

from devcluster.control_plane.controlplane import ControlPlane, ControlPlaneOptions
from devcluster.kueue.beside import start_kueue
from devcluster.starting import start_control_plane
from devcluster.teardown import remove_cluster
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import load_kubeconfig
from finetune_operator.kube.api.errors import NotFound
from finetune_operator.kube.api.resource import Resource
from finetune_operator.kube.api.transport import Transport
from kit.cluster.simulation import finetunejob
from kit.processes.audit_log import AuditLog

ROOT = Path(__file__).resolve().parents[2]
SERVICE_ACCOUNTS = Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount")
OPERATOR_AGENT = "finetune-operator"
CONTROLLERS = ",".join(
    f"{name}-controller" for name in ("job", "serviceaccount", "garbage-collector", "namespace")
)
"""What has a part in the life of a queued Job; there are no nodes for the others to look after."""
API_SERVER = {"GOGC": "400", "GOMEMLIMIT": "14GiB"}
"""With ten thousand jobs in Kueue its garbage collection took a quarter of two cores; memory is
what such a machine has left."""


class Operator:
    """The operator under measurement, in a process of its own.

    `tend` begins it again where it has ended, as its Deployment does: it ends by itself when it
    loses its Lease. What ended processes used is counted.
    """

    def __init__(
        self, cluster: ControlPlane, folder: Path, namespaces: list[str], *, kueue: str = "off"
    ) -> None:
        config = {
            "namespaces": namespaces,
            "leaderElectionNamespace": namespaces[0],
            "kueue": kueue,
            "progressUrl": "http://127.0.0.1:1",
            "progressPort": 18090,
            "probePort": 18081,
            "metricsPort": 18080,
            "bindAddress": "127.0.0.1",
        }
        self._config = folder / "config.yaml"
        self._config.write_text(yaml.safe_dump(config))
        self._kubeconfig = str(cluster.kubeconfig)
        self.log = folder / "operator.log"
        self.log.unlink(missing_ok=True)
        self.num_restarts = 0
        self._past = Usage(cpu_seconds=0.0, rss_mib=0.0, peak_rss_mib=0.0)
        self._begin()

    def _begin(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator", "--config", str(self._config)],
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT / "operator"),
                    "KUBECONFIG": self._kubeconfig,
                },
                stdout=log,
                stderr=log,
            )
        self._began = time.monotonic()

    def _ended(self) -> RuntimeError:
        return RuntimeError(f"the operator ended: {self.log.read_text()[-2000:]}")

    async def ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                if self.process.poll() is not None:
                    raise self._ended()
                try:
                    async with session.get("http://127.0.0.1:18081/readyz") as response:
                        if await response.text() == "leading":
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)

    def tend(self) -> None:
        """Begin the operator again if it has ended.

        Raises:
            RuntimeError: It ended within 10 s of its start: it cannot run.
        """
        if self.process.returncode is not None:
            return  # stopped
        pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
        if not pid:
            return
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if time.monotonic() - self._began < 10.0:
            raise self._ended()
        self._past = Usage(
            cpu_seconds=self._past.cpu_seconds + used.ru_utime + used.ru_stime,
            rss_mib=0.0,
            peak_rss_mib=max(self._past.peak_rss_mib, used.ru_maxrss / 1024),
        )
        self.num_restarts += 1
        self._begin()

    def usage(self) -> Usage:
        """Read what it has used since it was first begun, and what it holds now."""
        self.tend()
        now = usage_of(self.process.pid)
        return Usage(
            cpu_seconds=self._past.cpu_seconds + now.cpu_seconds,
            rss_mib=now.rss_mib,
            peak_rss_mib=max(self._past.peak_rss_mib, now.peak_rss_mib),
        )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


async def create_jobs(client: KubeClient, namespace: str, count: int, per_second: float) -> float:
    """Create jobs evenly, or all at once; return when the first was sent."""
    started = time.monotonic()

    async def create(index: int) -> None:
        if per_second:
            await asyncio.sleep(max(0.0, started + index / per_second - time.monotonic()))
        await client.create(FINETUNEJOBS, finetunejob(f"job-{index:05d}", namespace))

    await asyncio.gather(*(create(index) for index in range(count)))
    return started


async def until(predicate: Callable[[], bool], timeout: float, *, every: float = 0.05) -> None:
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError("the benchmark did not get there")
        await asyncio.sleep(every)


async def all_phase(
    client: KubeClient,
    namespace: str,
    phase: str,
    count: int,
    timeout: float,
    *,
    of: Resource = FINETUNEJOBS,
) -> None:
    deadline = time.monotonic() + timeout
    while True:
        listed = await client.list(of, namespace)
        done = sum((job.get("status") or {}).get("phase") == phase for job in listed.items)
        if done >= count:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{done} of {count} {of.plural} are {phase}")
        await asyncio.sleep(0.5)


async def settled(audit: AuditLog, timeout: float) -> None:
    """Wait until the operator has written nothing for 5 s: the start is not what is measured."""
    deadline = time.monotonic() + timeout
    while True:
        audit.mark()
        await asyncio.sleep(5.0)
        if not num_writes(requests_by_kind(audit.entries(OPERATOR_AGENT))):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the operator goes on writing although nothing happens")


def _new_namespace() -> str:
    return f"bench-{secrets.token_hex(3)}"


class World:
    """One fresh API server with one operator.

    Args:
        folder: For the operator's configuration and log.
        kueue: Kueue runs too, with these fields of its configuration, and the Job controller with
            it; None for neither.
        has_other: There is a namespace of another tenant, too.
    """

    def __init__(
        self, folder: Path, *, kueue: Mapping[str, Any] | None = None, has_other: bool = False
    ) -> None:
        self.namespace = _new_namespace()
        self.other = f"{self.namespace}-other" if has_other else ""
        self.cluster = start_control_plane(
            options=ControlPlaneOptions(
                audit_log=True,
                controllers=None if kueue is None else CONTROLLERS,
                api_server_environment={} if kueue is None else API_SERVER,
            ),
            owner_pid=os.getpid(),
        )
        self._kueue = kueue
        self.audit = AuditLog(Path(self.cluster.audit_log))
        self.connection = load_kubeconfig([Path(self.cluster.kubeconfig)])
        self._folder = folder

    async def __aenter__(self) -> World:
        self.cluster.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        transport = Transport(
            self.connection, user_agent="benchmark-driver", qps=5000, burst=5000,
            max_connections=48, request_timeout_seconds=120,
        )  # fmt: skip
        self.client = KubeClient(transport)
        await self._until_served()
        self.session = self.connection.open_session(
            max_connections=16, user_agent="benchmark-driver", attach_credentials=True
        )
        if self._kueue is not None:
            start_kueue(self.cluster, settings=self._kueue, only_jobs=True)
        await self._begin()
        return self

    async def renew(self) -> None:
        """Go on with an operator that has no past, in a namespace where nothing is."""
        await self._end()
        self.namespace = _new_namespace()
        await self._begin()

    async def _begin(self) -> None:
        for namespace in self._namespaces:
            self.cluster.kubectl("create", "namespace", namespace)
            if self._kueue is None:
                account = {"metadata": {"name": "default", "namespace": namespace}}
                await self.client.create(SERVICE_ACCOUNTS, account)
        await self._begin_operator()

    @property
    def _namespaces(self) -> list[str]:
        return [name for name in (self.namespace, self.other) if name]

    async def begin_again(self) -> None:
        """Stop the operator and begin another one, which finds all that there is."""
        await self._end()
        await self._begin_operator()

    async def _begin_operator(self) -> None:
        self.operator = Operator(
            self.cluster,
            self._folder,
            self._namespaces,
            kueue="off" if self._kueue is None else "on",
        )
        await self.operator.ready()
        self._tending = asyncio.create_task(self._tend(self.operator))

    async def _tend(self, operator: Operator) -> None:
        while True:
            operator.tend()
            await asyncio.sleep(0.5)

    async def _end(self) -> None:
        """Stop the operator, and what would begin it again before that.

        Raises:
            RuntimeError: It had ended and could not be begun again.
        """
        self._tending.cancel()
        ended = await asyncio.gather(self._tending, return_exceptions=True)
        self.operator.stop()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def meter(self) -> CpuMeter:
        """Begin to count the processor time of the operator and of all it works with."""
        readers: dict[str, Callable[[], Usage]] = {
            process.name: partial(usage_of, process.pid) for process in self.cluster.state.processes
        }
        return CpuMeter({**readers, "operator": self.operator.usage})

    def usage_of(self, process: str) -> Usage:
        """Read what one of the cluster's processes has used."""
        return usage_of(next(p.pid for p in self.cluster.state.processes if p.name == process))

    async def _until_served(self) -> None:
        """Wait for FineTuneJobs; `kubectl wait` fails on a CRD that has no conditions yet."""
        deadline = time.monotonic() + 30.0
        while True:
            try:
                await self.client.list(FINETUNEJOBS, self.namespace)
            except NotFound:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
            else:
                return

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._end()
        finally:
            await self.session.close()
            await self.client.aclose()
            remove_cluster(self.cluster.name)
