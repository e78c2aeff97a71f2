"""What Prometheus is told of endpoints that do not answer with the version that is wanted."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from finetune_api.protocol.serving import RecordReport
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.observed import Workload
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.metrics.endpoints import EndpointMetrics
from kit.builders.endpoints import NAME, NAMESPACE, ROLLOUT, EndpointWorld, published_job
from kit.processes.clock import FakeClock

WORSE: dict[str, Any] = {
    "active": {"requests": 1140, "errors": 5},
    "candidate": {"requests": 60, "errors": 20},
}


def tell(endpoints: list[Any], clock: FakeClock) -> CollectorRegistry:
    registry = CollectorRegistry()
    EndpointMetrics(SimpleNamespace(objects=lambda: endpoints), registry, clock=clock)  # type: ignore[arg-type]
    return registry


def waits(world: EndpointWorld, *, after: float = 600) -> list[tuple[str, str, str, float]]:
    """Return version, state, reason and seconds that are told some time after the last look."""
    registry = tell([world.endpoint], FakeClock(world.now + timedelta(seconds=after)))
    (family,) = (
        each for each in registry.collect() if each.name == "finetune_endpoint_waiting_seconds"
    )
    return [
        (
            sample.labels["version"],
            sample.labels["state"],
            sample.labels["reason"],
            sample.value,
        )
        for sample in family.samples
    ]


def serving(**spec: Any) -> EndpointWorld:
    world = EndpointWorld(published_job(1), **spec)
    world.run()
    assert waits(world) == []
    return world


def away(world: EndpointWorld) -> None:
    server = world.status["active"]["server"]
    world.facts = {
        "workloads": {
            "finetune-front": Workload(num_ready=2, num_wanted=2),
            server: Workload(num_ready=0, num_wanted=1),
        }
    }


def fail_second(world: EndpointWorld) -> None:
    world.job = published_job(2)
    world.answers[2] = ("Failed", "AnswersLikeBase")


def make_worse(world: EndpointWorld) -> None:
    world.job = published_job(2)
    world.run()
    world.count(5, **WORSE)


def begin(world: EndpointWorld) -> None:
    world.job = published_job(2)


def keep_verifying(world: EndpointWorld) -> None:
    world.job = published_job(2)
    world.answers[2] = ("Verifying", "WordOfAPod")


def damage(world: EndpointWorld) -> None:
    world.answers[1] = ("Failed", "FilesDamaged")


def refuse_decisions(world: EndpointWorld) -> None:
    refused = RecordReport(name=NAME, state="Failed", reason="AccessDenied")
    (pod,) = world.observe().servers
    assert pod.report is not None
    report = pod.report.model_copy(update={"records": [refused]})
    world.facts = {"servers": (replace(pod, report=report),)}


def damage_one_pod(world: EndpointWorld) -> None:
    world.pods = 2
    world.answers[(1, 1)] = ("Failed", "FilesDamaged")


def lack_a_pod(world: EndpointWorld) -> None:
    found = Workload(num_ready=1, num_wanted=2, problem="Insufficient nvidia.com/gpu")
    tell_of_server(world, world.status["active"]["server"], found)


def say_nothing(world: EndpointWorld) -> None:
    silent = tuple(replace(pod, report=None) for pod in world.observe().servers)
    world.facts = {"servers": silent}


def refuse_second_and_damage_one_pod(world: EndpointWorld) -> None:
    fail_second(world)
    world.look()
    damage_one_pod(world)


def tell_of_server(world: EndpointWorld, name: str, found: Workload) -> None:
    world.facts = {"workloads": {**world.observe().workloads, name: found}}


def begin_move(world: EndpointWorld, image: str) -> str:
    world.config = OperatorConfig(vllm_image=image)
    world.answers[1] = ("Verifying", "")
    world.answers[(1, world.status["active"]["server"])] = ("Verified", "")
    world.look()
    return str(world.status["candidate"]["server"])


def refuse_move(world: EndpointWorld) -> None:
    world.answers[(1, begin_move(world, "vllm:wrong"))] = ("Failed", "AnswersDiffer")


def block_move(world: EndpointWorld) -> None:
    server = begin_move(world, "vllm:none")
    tell_of_server(world, server, Workload(num_ready=0, num_wanted=1, problem="ErrImagePull"))


def forbid(world: EndpointWorld) -> None:
    world.facts = {"fault": Refusal(reason="ImageNotAllowed", message="no")}


@pytest.mark.parametrize(
    ("change", "spec", "version", "state", "reason"),
    [
        (away, {}, "1", "NotAvailable", "ServerNotReady"),
        (fail_second, {}, "2", "Refused", "AnswersLikeBase"),
        (damage, {}, "1", "NotAvailable", "FilesDamaged"),
        (damage_one_pod, {}, "1", "Incomplete", "PodsRefuse"),
        (lack_a_pod, {}, "1", "Incomplete", "PodsMissing"),
        (say_nothing, {}, "1", "Incomplete", "NotReported"),
        (refuse_second_and_damage_one_pod, {}, "1", "Incomplete", "PodsRefuse"),
        (refuse_move, {}, "1", "MoveFailed", "MoveRefused"),
        (block_move, {}, "1", "MoveFailed", "MoveStuck"),
        (make_worse, {"rollout": ROLLOUT}, "2", "RolledBack", "Worse"),
        (make_worse, {"rollout": {**ROLLOUT, "onWorse": "Hold"}}, "2", "Stalled", "Held"),
        (forbid, {}, "", "Stalled", "ImageNotAllowed"),
        (begin, {"rollout": ROLLOUT}, "2", "RollingOut", "RollingOut"),
        (keep_verifying, {}, "2", "Verifying", "Other"),
        (refuse_decisions, {}, "1", "NotRecorded", "Other"),
    ],
)
def test_the_gravest_trouble_of_an_endpoint_is_told_with_its_version(
    change: Any, spec: dict[str, Any], version: str, state: str, reason: str
) -> None:
    world = serving(**spec)
    change(world)
    world.run(2)
    ((*said, seconds),) = waits(world)
    assert said == [version, state, reason]
    assert 600 <= seconds <= 603
    assert waits(world, after=7200)[0][-1] == seconds + 6600


def test_a_first_version_that_was_refused_is_told_and_one_that_is_awaited_is_not() -> None:
    waiting = EndpointWorld(published_job(None))
    waiting.run()
    assert waits(waiting) == []
    lost = EndpointWorld()
    lost.run()
    assert waits(lost)[0][:3] == ("", "Stalled", "JobNotFound")
    refused = EndpointWorld(published_job(1))
    refused.answers[1] = ("Failed", "AnswersDiffer")
    refused.run()
    assert waits(refused)[0][:3] == ("1", "Refused", "AnswersDiffer")


def test_a_later_version_ends_the_trouble() -> None:
    world = serving()
    fail_second(world)
    world.run()
    world.job = published_job(3)
    world.run()
    assert waits(world) == []


def test_a_step_of_a_rollout_begins_its_wait_anew() -> None:
    world = serving(rollout=ROLLOUT)
    begin(world)
    world.run()
    world.look(3600)
    assert waits(world, after=0)[0][-1] > 3600
    world.count(5, active={"requests": 3800}, candidate={"requests": 200})
    world.look()
    assert waits(world, after=0) == [("2", "RollingOut", "RollingOut", 0.0)]


def test_endpoints_are_counted_by_phase_and_few_of_them_have_series() -> None:
    world = serving()
    away(world)
    world.run()
    metadata = world.endpoint["metadata"]
    many = [
        {**world.endpoint, "metadata": {**metadata, "name": f"e{number}"}} for number in range(150)
    ]
    registry = tell([*many, {"metadata": metadata}], FakeClock(world.now))
    for phase, number in (("Degraded", 150), ("Pending", 1)):
        labels = {"namespace": NAMESPACE, "phase": phase}
        assert registry.get_sample_value("finetune_endpoints", labels) == number
    told = [s for f in registry.collect() for s in f.samples if "finetuneendpoint" in s.labels]
    assert len(told) == 100
    assert NAME not in {each.labels["finetuneendpoint"] for each in told}


def drifted(*endpoints: Any, clock: FakeClock) -> dict[tuple[str, str], float]:
    (family,) = (
        each
        for each in tell(list(endpoints), clock).collect()
        if each.name == "finetune_endpoint_drifted_seconds"
    )
    return {
        (sample.labels["finetuneendpoint"], sample.labels["signal"]): sample.value
        for sample in family.samples
    }


def test_changed_traffic_is_told_with_its_signal_and_nothing_that_anybody_else_may_write() -> None:
    world = serving()
    clock = FakeClock(world.now + timedelta(seconds=600))
    assert drifted(world.endpoint, clock=clock) == {}
    since = world.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {"type": "Drifted", "status": "True", "lastTransitionTime": since}
    for reason, told in (("Vocabulary", "Vocabulary"), ("x" * 63, "Other")):
        world.endpoint["status"]["conditions"] = [{**condition, "reason": reason}]
        assert drifted(world.endpoint, clock=clock) == {(NAME, told): 600}
    world.endpoint["status"]["conditions"][0]["status"] = "Unknown"
    assert drifted(world.endpoint, clock=clock) == {}


@pytest.mark.parametrize(
    ("quality", "told"),
    [
        ({"high": "0.85", "goal": "0.9"}, 0.05),
        ({"high": "0.9", "goal": "0.9"}, None),
        ({"high": "0.85"}, None),
        ({"goal": "0.9", "numPeople": 3}, None),
    ],
)
def test_an_interval_below_the_goal_is_told_whatever_else_the_endpoint_does(
    quality: dict[str, Any], told: float | None
) -> None:
    world = serving()
    fail_second(world)
    world.run()
    world.endpoint["status"]["monitor"] = {"quality": quality}
    labels = {"namespace": NAMESPACE, "finetuneendpoint": NAME}
    found = tell([world.endpoint], FakeClock(world.now)).get_sample_value(
        "finetune_endpoint_below_goal_ratio", labels
    )
    assert found == (None if told is None else pytest.approx(told))
