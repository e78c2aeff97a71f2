"""Plans endpoints by what real fronts and agents report, without a cluster.

The pure core of the operator decides. Here are only its facts, the pods that it asks for, and the
file that stands for the stored objects.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from finetune_api.names import FRONT
from finetune_api.protocol.serving import FrontReport, ServerReport
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.observed import Observed, ServerPod, Workload
from finetune_operator.finetuneendpoint.plan import plan
from finetune_operator.finetuneendpoint.render.front import render_front
from finetune_operator.finetuneendpoint.render.server import render_server
from kit.serving.pods import HOST, Machine, Pod

Object = dict[str, Any]
LOOK_SECONDS = 0.5


class LocalOperator:
    """One namespace with one server.

    Args:
        machine: Where its pods run.
        config: The administrator's settings.

    Attributes:
        endpoints: The stored objects by name.
        jobs: The stored FineTuneJobs by name.
        servers: Running server pods by the name of their Deployment.
    """

    def __init__(self, machine: Machine, config: OperatorConfig) -> None:
        self._machine = machine
        self._config = config
        self.endpoints: dict[str, Object] = {}
        self.jobs: dict[str, Object] = {}
        self.servers: dict[str, Pod] = {}
        self.front: Pod | None = None
        self._written: dict[str, datetime] = {}
        self._store()

    @property
    def url(self) -> str:
        """Address of the front."""
        assert self.front is not None
        return f"http://{HOST}:{self.front.port}"

    def status(self, name: str) -> Object:
        """Return the stored status of an endpoint."""
        found: Object = self.endpoints[name].get("status") or {}
        return found

    def look(self) -> None:
        """Plan each endpoint once, store what was planned, and start the pods of the plans."""
        servers = {name: (pod.is_ready, pod.report()) for name, pod in self.servers.items()}
        told = self.front.report() if self.front is not None else None
        fronts = (told,) if isinstance(told, FrontReport) else ()
        now, has_changed = datetime.now(UTC), False
        for name, endpoint in self.endpoints.items():
            made = plan(self._observe(endpoint, servers, fronts), now)
            if made.status is not None:
                endpoint["status"] = json.loads(json.dumps(dict(made.status)))
                self._written[name] = now
                has_changed = True
            if made.serving is not None:
                for needed in made.serving.servers:
                    self._ensure_server(
                        render_server(needed.server, needed.replicas, needed.owners, self._config)
                    )
                self._ensure_front(made.serving.front)
        if has_changed:
            self._store()

    def until(
        self,
        is_so: Callable[[], Any],
        *,
        seconds: float,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        """Look again and again until something holds.

        Raises:
            AssertionError: It did not come to hold, or a process has ended.
        """
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.describe()
            self.check()
            meanwhile()
            self.look()
            time.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """Raise ``AssertionError`` if a process has ended."""
        for pod in self._pods():
            for name, process in pod.processes.items():
                text = f"{pod.name}: {name} ended with {process.poll()}"
                assert process.poll() is None, f"{text}:\n{pod.read_log(name)[-4000:]}"

    def describe(self) -> str:
        """Return the last decisions and the ends of all logs, for a failed test."""
        parts = [json.dumps(self.status(name), indent=1)[-3000:] for name in [*self.endpoints][:3]]
        for pod in self._pods():
            parts += [
                f"{pod.name}: {name}:\n{pod.read_log(name)[-2000:]}" for name in pod.processes
            ]
        return "\n".join(parts)

    def stop(self) -> None:
        """End all pods."""
        for pod in self._pods():
            pod.stop()

    def _pods(self) -> list[Pod]:
        return [*([self.front] if self.front is not None else []), *self.servers.values()]

    def _observe(
        self,
        endpoint: Object,
        servers: Mapping[str, tuple[bool, Any]],
        fronts: tuple[FrontReport, ...],
    ) -> Observed:
        spec = {key: value for key, value in endpoint.items() if key != "status"}
        workloads = {
            name: Workload(num_ready=int(is_ready), num_wanted=1)
            for name, (is_ready, _) in servers.items()
        }
        return Observed(
            endpoint=copy.deepcopy(endpoint),
            parsed=FineTuneEndpoint.from_stored(spec),
            job=self.jobs.get(endpoint["spec"]["jobRef"]["name"]),
            fronts=fronts,
            servers=tuple(
                ServerPod(
                    name=f"{name}-0",
                    server=name,
                    is_ready=is_ready,
                    report=report if isinstance(report, ServerReport) else None,
                )
                for name, (is_ready, report) in servers.items()
            ),
            workloads={FRONT: Workload(num_ready=1, num_wanted=1), **workloads},
            written_at=self._written.get(endpoint["metadata"]["name"]),
        )

    def _ensure_server(self, manifest: Object) -> None:
        name = manifest["metadata"]["name"]
        if name in self.servers:
            return
        assert not self.servers, f"{name} is a second server beside {[*self.servers]}"
        self.servers[name] = Pod(self._machine, manifest)
        self.servers[name].start()

    def _ensure_front(self, front: Any) -> None:
        if self.front is not None or not self.servers:
            return
        (server,) = self.servers.values()
        manifest = render_front(
            front.namespace, front.owners, front.key_secrets, self._config, front.store_secrets
        )
        self.front = Pod(self._machine, manifest)
        self.front.start(server_url=f"http://{HOST}:{server.port}")

    def _store(self) -> None:
        beside = self._machine.endpoints.with_suffix(".new")
        beside.write_text(json.dumps([*self.endpoints.values()]))
        beside.replace(self._machine.endpoints)
