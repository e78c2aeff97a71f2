"""What an agent reports at its second port: to the operator, to probes, and to Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from finetune_api.protocol.serving import (
    MAX_REPORT_BYTES,
    MAX_REPORTED,
    AdapterReport,
    AdapterState,
    EngineReport,
    ServerReport,
    Verification,
)
from finetune_trainer.serve.agent.decisions import Decisions
from finetune_trainer.serve.agent.engine import Engine
from finetune_trainer.serve.agent.keeper import Adapter, Keeper
from finetune_trainer.serve.verification import Verdict

MESSAGE_CHARACTERS = 1024
BRIEF_CHARACTERS = 32
STATES = get_args(AdapterState)
PASSED_METRICS = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
)
"""Metrics of vLLM that are passed on: they name no adapter and quote nobody."""


class Reporter:
    """Answers the cluster.

    Args:
        boot_id: Names this process.
        server: Name of the server Deployment.
        engine: Whose load is passed on.
        keeper: Knows the adapters.
        decisions: Knows which endpoints' decisions are stored.
    """

    def __init__(
        self, *, boot_id: str, server: str, engine: Engine, keeper: Keeper, decisions: Decisions
    ) -> None:
        self._boot_id = boot_id
        self._server = server
        self._engine = engine
        self._keeper = keeper
        self._decisions = decisions
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "finetune_agent_requests",
            "Requests passed to the engine, by adapter and status.",
            ["adapter", "code"],
            registry=self.registry,
        )
        self._counted: set[str] = set()
        """Adapters with series, which go with the adapter."""
        self._adapters = Gauge(
            "finetune_agent_adapters", "Adapters by state.", ["state"], registry=self.registry
        )
        self._loads = Gauge(
            "finetune_agent_loads", "Loads of adapters since the start.", registry=self.registry
        )

    def count(self, adapter: str, code: int) -> None:
        """Count an answer."""
        self._counted.add(adapter)
        self._requests.labels(adapter, str(code)).inc()

    @property
    def is_engine_hung(self) -> bool:
        """Whether the engine takes requests and answers none."""
        return self._keeper.is_engine_hung

    @property
    def is_ready(self) -> bool:
        """Whether requests may come."""
        return self._keeper.is_ready

    def report(self) -> bytes:
        """Return the JSON that the operator polls."""
        return dump(self._make_report())

    def _make_report(self) -> ServerReport:
        keeper = self._keeper
        return ServerReport(
            id=self._boot_id,
            server=self._server,
            engine=EngineReport(
                name=keeper.about.name,
                version=keeper.about.version,
                is_ready=keeper.is_engine_ready,
            ),
            adapters=[_describe(adapter) for adapter in self._list_staying()[:MAX_REPORTED]],
            records=self._decisions.list_open(),
        )

    def _list_staying(self) -> list[Adapter]:
        return [each for each in self._keeper.adapters.values() if not each.is_leaving]

    async def read_metrics(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        staying = self._list_staying()
        states: Tally[str] = Tally(adapter.state for adapter in staying)
        for state in STATES:
            self._adapters.labels(state).set(states[state])
        present = {adapter.wanted.name for adapter in staying}
        for gone in self._counted - present:
            self._requests.remove_by_labels({"adapter": gone})
        self._counted &= present
        self._loads.set(self._keeper.num_loads)
        passed = _select(await self._engine.read_metrics())
        return generate_latest(self.registry) + passed.encode()


def dump(report: ServerReport) -> bytes:
    """Return a report as the operator reads it; one that is too long goes without the details."""
    body = report.model_dump_json(by_alias=True, exclude_none=True).encode()
    if len(body) <= MAX_REPORT_BYTES:
        return body
    brief = [
        each.model_copy(
            update={
                "message": "" if each.state == "Verified" else each.message[:BRIEF_CHARACTERS],
                # How much a verification rests on decides what follows from it.
                "verification": each.verification
                and Verification(num_asked=each.verification.num_asked),
            }
        )
        for each in report.adapters
    ]
    shorter = report.model_copy(update={"adapters": brief})
    return shorter.model_dump_json(by_alias=True, exclude_none=True).encode()


def _select(text: str) -> str:
    """Return the lines of the metrics that are passed on."""
    kept = []
    for line in text.splitlines():
        words = line.split(" ", 3)
        name = words[2] if line.startswith("#") and len(words) > 2 else line.partition("{")[0]
        if name in PASSED_METRICS:
            kept.append(line + "\n")
    return "".join(kept)


def _describe(adapter: Adapter) -> AdapterReport:
    wanted, verdict = adapter.wanted, adapter.verdict
    return AdapterReport(
        name=wanted.name,
        version=wanted.version,
        sha256=adapter.sha256,
        weights_sha256=wanted.weights_sha256 or None,
        state=adapter.state,
        failures=adapter.num_failures,
        reason=adapter.reason or None,
        message=adapter.message[:MESSAGE_CHARACTERS],
        verification=_verification(verdict, has_failed=adapter.state == "Failed")
        if verdict
        else None,
    )


def _verification(verdict: Verdict, *, has_failed: bool) -> Verification:
    return Verification(
        num_asked=verdict.num_asked,
        num_equal=verdict.num_equal,
        num_like_base=verdict.num_like_base,
        score=None if verdict.score is None else f"{verdict.score:.4f}",
        metric=verdict.metric or None,
        differing=list(verdict.differing) if has_failed else [],
    )
