"""A FineTuneEndpoint whose job, servers and fronts are facts that a test sets."""

from __future__ import annotations

import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.names import FRONT, adapter_name
from finetune_api.protocol.serving import FrontReport, ServerReport
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.actions import Plan
from finetune_operator.finetuneendpoint.observed import Observed, ServerPod, Workload
from finetune_operator.finetuneendpoint.plan import plan
from finetune_operator.status.conditions import find_condition
from kit.builders.events import events_of, requests_of
from kit.builders.jobs import NOW

Object = dict[str, Any]

NAMESPACE, NAME, JOB = "team-a", "headlines", "headline-sentiment"
OUTPUT = "s3://models/team-a"
ROLLOUT: Object = {"steps": [5, 25, 100], "minRequests": 200}


def digest_of(version: int) -> str:
    """Return the digest of a version's weights, which its job's status has."""
    return f"{version:064x}"


def manifest_digest_of(version: int) -> str:
    """Return the digest of a version's manifest, which server pods compute."""
    return f"{version:063x}f"


def published_job(version: int | None = 1, **spec: Any) -> Object:
    """Return a FineTuneJob that has published a version; None for none yet."""
    status: Object = {}
    if version is not None:
        manifest = f"{OUTPUT}/versions/{NAMESPACE}/{JOB}/{version}/manifest.json"
        sha256 = digest_of(version)
        status = {"artifact": {"version": version, "manifestUri": manifest, "sha256": sha256}}
    return {
        "metadata": {"name": JOB, "namespace": NAMESPACE, "uid": "uid-of-the-job"},
        "spec": {
            "model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct"},
            "output": {"uri": OUTPUT, "credentialsRef": {"name": "store"}},
            "method": {"adapter": {"type": "LoRA", "rank": 16}},
            **spec,
        },
        "status": status,
    }


def endpoint(name: str = NAME, **spec: Any) -> Object:
    """Return an endpoint that follows the job."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"uid-of-{name}",
            "generation": 1,
        },
        "spec": {"jobRef": {"name": JOB}, **spec},
    }


class EndpointWorld:
    """Plans one endpoint again and again, and keeps its status as the API server would.

    Attributes:
        answers: What server pods say of a version: its state and a reason. A key is the version, or
            the version with a server or with the number of a pod.
        failures: How often a pod has failed that says so.
        config: The administrator's settings.
        num_asked: Held-out questions that verifications rest on.
        manifests: Digests of manifests that were replaced, by version.
        traffic: Counts by front, weight and side, cumulative in the present rollout.
        tripped: Rollout in which the first front has taken the candidate out of rotation; ``*`` for
            any.
        pods: Ready pods per server.
        facts: Facts that replace those of this world.
        last: The last plan.
        again: The facts of the last plan, with the status that it made.
    """

    def __init__(self, job: Object | None = None, **spec: Any) -> None:
        self.endpoint = endpoint(**spec)
        self.job = job
        self.now = NOW
        self.answers: dict[Any, tuple[str, str]] = {}
        self.failures = 2
        self.config = OperatorConfig(vllm_image="vllm:1")
        self.num_asked = 60
        self.manifests: dict[int, str] = {}
        self.traffic: dict[tuple[str, int], tuple[Object, Object]] = {}
        self.tripped = ""
        self.pods = 1
        self.facts: Object = {}
        self.events: list[tuple[str, str]] = []
        self.num_writes = 0
        self.written_at: datetime | None = None
        self.last = Plan()
        self.again = self.observe()

    @property
    def status(self) -> Object:
        """The stored status."""
        found: Object = self.endpoint.get("status") or {}
        return found

    def edit(self, **spec: Any) -> None:
        """Change the spec; a value of None removes a field."""
        changed = {**self.endpoint["spec"], **spec}
        self.endpoint["spec"] = {k: v for k, v in changed.items() if v is not None}
        self.endpoint["metadata"]["generation"] += 1

    def condition(self, kind: str) -> tuple[str, str]:
        """Return status and reason of a condition."""
        found = find_condition(self.status["conditions"], kind)
        assert found is not None
        return found["status"], found["reason"]

    def versions(self) -> tuple[int | None, int | None, int | None]:
        """Return the numbers of the active, the candidate's and the previous version."""
        sections = (self.status.get(name) for name in ("active", "candidate", "previous"))
        active, candidate, previous = (each["version"] if each else None for each in sections)
        return active, candidate, previous

    def decided(self) -> list[tuple[int, str]]:
        """Return all recorded decisions."""
        return [(each["version"], each["action"]) for each in self.status.get("decisions", [])]

    def look(self, seconds: float = 1.0) -> Plan:
        """Let time pass, plan once, and store what was planned."""
        self.now += timedelta(seconds=seconds)
        observed = self.observe()
        self.last = plan(observed, self.now)
        if self.last.status is not None:
            self.endpoint["status"] = copy.deepcopy(dict(self.last.status))
            self.num_writes += 1
            self.written_at = self.now
        stored = copy.deepcopy(self.endpoint)
        self.again = replace(observed, endpoint=stored, written_at=self.written_at)
        self.events += [(each.reason, each.message) for each in self.last.events]
        return self.last

    def run(self, num_looks: int = 3) -> None:
        """Look several times, a second apart."""
        for _ in range(num_looks):
            self.look()

    def count(self, weight: int, *, front: str = "front-1", **sides: Object) -> None:
        """Set the counts of a front at a weight: ``active`` and ``candidate``."""
        self.traffic[(front, weight)] = (
            {"requests": 0, **sides.get("active", {})},
            {"requests": 0, **sides.get("candidate", {})},
        )

    def observe(self) -> Observed:
        """Return the facts of this moment."""
        endpoint = copy.deepcopy(self.endpoint)
        versions = [
            section
            for name in ("active", "candidate", "previous")
            if (section := self.status.get(name))
        ]
        servers = {each["server"] for each in versions}
        workloads = {name: Workload(num_ready=self.pods, num_wanted=1) for name in servers}
        observed = Observed(
            endpoint=endpoint,
            parsed=FineTuneEndpoint.from_stored(
                {key: value for key, value in endpoint.items() if key != "status"}
            ),
            config=self.config,
            job=self.job,
            fronts=tuple(self._front_reports()),
            servers=tuple(
                self._pod(name, number, versions)
                for name in sorted(servers)
                for number in range(self.pods)
            ),
            workloads={FRONT: Workload(num_ready=2, num_wanted=2), **workloads},
            written_at=self.written_at,
        )
        return replace(observed, **self.facts)

    def _front_reports(self) -> list[FrontReport]:
        candidate = self.status.get("candidate") or {}
        told: dict[str, list[Object]] = {"front-1": []}
        sides: dict[str, list[tuple[int, Object, Object]]] = {}
        for (front, weight), (active, new) in self.traffic.items():
            counts = {"active": requests_of(active), "candidate": requests_of(new)}
            told.setdefault(front, []).append({"weight": weight, **counts})
            sides.setdefault(front, []).append((weight, active, new))
        return [
            FrontReport.model_validate(
                {
                    "kind": "Front",
                    "id": front,
                    "endpoints": [
                        {
                            "name": NAME,
                            "candidate": candidate.get("adapter"),
                            "rolloutId": candidate.get("rolloutId"),
                            "streams": streams,
                            "events": events_of(front, sides.get(front, ())),
                            "tripped": [candidate["adapter"]]
                            if candidate
                            and front == "front-1"
                            and self.tripped in ("*", candidate["rolloutId"])
                            else [],
                        }
                    ],
                }
            )
            for front, streams in told.items()
        ]

    def _pod(self, server: str, number: int, versions: list[Object]) -> ServerPod:
        adapters = []
        for each in versions:
            if each["server"] != server:
                continue
            version, ways = each["version"], self.answers
            default = ways.get(version, ("Verified", ""))
            state, reason = ways.get((version, server), ways.get((version, number), default))
            told: Object = {
                "name": adapter_name(NAMESPACE, JOB, each["version"]),
                "version": each["version"],
                "sha256": self.manifests.get(each["version"], manifest_digest_of(each["version"])),
                "weightsSha256": each.get("weightsSha256"),
                "state": state,
                "verification": {"numAsked": self.num_asked, "numEqual": self.num_asked},
            }
            if state == "Failed":
                told["failures"] = self.failures
            if reason:
                told |= {"reason": reason, "message": f"It is {reason}."}
            adapters.append(told)
        report = ServerReport.model_validate(
            {
                "kind": "Server",
                "id": f"agent-{number}",
                "server": server,
                "engine": {"name": "Transformers", "isReady": True},
                "adapters": adapters,
            }
        )
        return ServerPod(
            name=f"{server}-{number}",
            server=server,
            node=f"node-{number}",
            is_ready=True,
            report=report,
        )
