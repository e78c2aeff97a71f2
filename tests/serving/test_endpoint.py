"""The life of an endpoint with a real vLLM: published, verified, rolled out, refused, rolled back.

The operator's pure core plans. Its rendered pods run as processes: front, agent and engine. Skipped
unless FINETUNE_VLLM_PYTHON names a Python with vLLM; `make endpoint-vllm` does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from finetune_operator.config import OperatorConfig
from kit.models.tiny_models import make_eager_model
from kit.processes.stages import COLOURS, Workbench, write_rows
from kit.servers.vllm_server import LEAST_EQUAL, NEEDS_VLLM, PYTHON
from kit.serving.adapters import AdapterMaker
from kit.serving.operator import LocalOperator
from kit.serving.pods import AGENT_CONTAINER, SERVING_ENGINE_CONTAINER, Machine
from kit.serving.versions import StoredVersion, change_weights, publish_changed, read_version

JOB = "tiny"
NUM_ROWS = 240
"""A quarter of them is held out: more than the agent asks."""
NUM_TOKENS = 16
NUM_KEYS = 40
NUM_ASKED_TOGETHER = 8
MIN_REQUESTS = 60
ROLLOUT = {"steps": [50, 100], "minRequests": MIN_REQUESTS}
SERVE = {
    "engine": "VLLM",
    "arguments": ["--enforce-eager", "--max-model-len=512"],
    "resources": {"gpus": 0, "cpu": "1", "memory": "8Gi"},
    "maxAdapters": 8,
}
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
START_SECONDS = 900
STEP_SECONDS = 600

pytestmark = [NEEDS_VLLM, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workbench, StoredVersion]:
    """The first version, trained, evaluated and published by the stages."""
    folder = tmp_path_factory.mktemp("endpoint")
    change = {
        "hyperparameters": {"maxSteps": 60},
        "checkpoint": {"everySteps": 1000},
        "evaluation": {"maxNewTokens": NUM_TOKENS, "baseline": "AsIs"},
    }
    bench = Workbench(
        folder=folder / "run",
        model=make_eager_model(folder / "model", num_heads=2),
        data=write_rows(folder / "rows.jsonl", NUM_ROWS),
        change=change,
    )
    bench.run_to("prepare", "train", "evaluate", timeout=1200)
    return bench, read_version(bench.output, JOB, 1)


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[LocalOperator]:
    assert PYTHON is not None
    machine = Machine(folder=tmp_path, vllm=PYTHON, variables=VARIABLES)
    keys = machine.keys / "keys"
    keys.mkdir(parents=True)
    for key in map(key_of, range(NUM_KEYS)):
        (keys / key).write_text(f"sha256:{hashlib.sha256(key.encode()).hexdigest()}\n")
    running = LocalOperator(machine, OperatorConfig(trainer_image="trainer:1", vllm_image="vllm:1"))
    running.endpoints[JOB] = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": JOB, "namespace": "default", "uid": "uid", "generation": 1},
        "spec": {
            "jobRef": {"name": JOB},
            "serve": SERVE,
            "rollout": ROLLOUT,
            "access": {"keysFrom": {"secretRef": {"name": "keys"}}},
        },
    }
    try:
        yield running
    finally:
        running.stop()


def key_of(number: int) -> str:
    return f"key-{number}"


@dataclass
class Users:
    """Many users who ask held-out questions, and compare with what the evaluation stored.

    Attributes:
        stored: Answers by question, by version.
        answered: Answers by version.
        differing: Answers that are not the stored ones of the version that the header names.
    """

    operator: LocalOperator
    stored: dict[int, dict[str, str]] = field(default_factory=dict)
    answered: Counter[int] = field(default_factory=Counter)
    differing: list[tuple[int, str, str]] = field(default_factory=list)
    number: Iterator[int] = field(default_factory=itertools.count)

    def ask(self, num_requests: int = 2 * NUM_ASKED_TOGETHER) -> None:
        """Ask so often, several at once; a request that fails raises."""
        with ThreadPoolExecutor(NUM_ASKED_TOGETHER) as pool:
            for _ in pool.map(self._ask, itertools.islice(self.number, num_requests)):
                pass

    def _ask(self, number: int) -> None:
        questions = [*self.stored[min(self.stored)]]
        question = questions[number % len(questions)]
        body = {
            "model": JOB,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": NUM_TOKENS,
            "user": f"user-{number}",
        }
        request = urllib.request.Request(
            f"{self.operator.url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Authorization": f"Bearer {key_of(number % NUM_KEYS)}",
            },
        )
        with urllib.request.urlopen(request, timeout=300) as reply:
            version = int(reply.headers["x-finetune-version"])
            text = json.load(reply)["choices"][0]["message"]["content"].strip()
        self.answered[version] += 1
        if text != self.stored[version][question]:
            self.differing.append((version, self.stored[version][question], text))


def make_version(
    source: StoredVersion, number: int, maker: AdapterMaker, answer: Callable[[str], str]
) -> StoredVersion:
    """Publish an adapter with the answers that Transformers gives with it."""
    weights = maker.make({question: answer(question) for question in source.answers})
    said = maker.ask(weights, [*source.answers], max_tokens=NUM_TOKENS)
    answers = dict(zip(source.answers, said, strict=True))
    num_right = sum(answers[question] == answer(question) for question in answers)
    assert num_right > 0.9 * len(answers), answers
    return publish_changed(
        source, number, lambda folder: maker.write(weights, folder), answers=answers
    )


def colour_of(question: str) -> str:
    return next(each for each in COLOURS if each in question)


def decisions_of(operator: LocalOperator) -> list[tuple[int, str]]:
    return [(d["version"], d["action"]) for d in operator.status(JOB).get("decisions", ())]


def serves(operator: LocalOperator, version: int) -> Callable[[], bool]:
    def is_so() -> bool:
        status: dict[str, Any] = operator.status(JOB)
        return (status.get("active") or {}).get("version") == version and "candidate" not in status

    return is_so


def rejection_of(operator: LocalOperator, version: int) -> str:
    rejected = operator.status(JOB).get("rejected", ())
    return next((each["reason"] for each in rejected if each["version"] == version), "")


def rejects(operator: LocalOperator, version: int) -> Callable[[], bool]:
    return lambda: bool(rejection_of(operator, version))


def test_versions_live_on_vllm_as_they_were_evaluated(
    first: tuple[Workbench, StoredVersion], operator: LocalOperator
) -> None:
    bench, version = first
    users = Users(operator)
    maker = AdapterMaker(folder=bench.model, rank=16)

    def publish(made: StoredVersion) -> None:
        users.stored[made.number] = dict(made.answers)
        operator.jobs[JOB] = made.published_by(bench.spec())

    publish(version)
    operator.until(serves(operator, 1), seconds=START_SECONDS)
    users.ask()
    assert users.answered == {1: users.answered[1]}
    (pod,) = operator.servers.values()

    second = make_version(version, 2, maker, colour_of)
    publish(second)
    operator.until(serves(operator, 2), seconds=STEP_SECONDS, meanwhile=users.ask)
    assert users.answered[2] >= MIN_REQUESTS
    assert decisions_of(operator)[-2:] == [(2, "Verified"), (2, "Promoted")]

    worse = make_version(version, 6, maker, lambda _: "I can't help.")
    damages = {
        3: (change_weights(rename_modules), "AnswersLikeBase"),
        4: (change_weights(without_effect), "AnswersLikeBase"),
        5: (lambda folder: copy_weights(worse.adapter, folder), "AnswersDiffer"),
    }
    for number, (damage, reason) in damages.items():
        publish(publish_changed(second, number, damage))
        # vLLM has loaded it and called that a success.
        assert_refused(users, number, reason)

    publish(worse)
    operator.until(rejects(operator, 6), seconds=STEP_SECONDS, meanwhile=users.ask)
    assert rejection_of(operator, 6) == "Worse"
    assert decisions_of(operator)[-2:] == [(6, "Verified"), (6, "RolledBack")]
    assert users.answered[6] > 0
    print(operator.status(JOB)["decisions"][-1]["message"])

    # Loaded again under its name, and after a new start of the engine.
    for name in (AGENT_CONTAINER, SERVING_ENGINE_CONTAINER):
        pod.restart(name)
        operator.until(lambda: not pod.is_ready, seconds=STEP_SECONDS)
        operator.until(lambda: pod.is_ready, seconds=START_SECONDS)
        before = users.answered.copy()
        users.ask()
        assert set(users.answered - before) == {2}

    num_answered = users.answered.total()
    print(f"{num_answered} answers, {len(users.differing)} differ: {dict(users.answered)}")
    assert len(users.differing) <= (1 - LEAST_EQUAL) * num_answered, users.differing


def test_a_clients_tool_calls_are_read_by_vllm_and_pass_the_front(
    first: tuple[Workbench, StoredVersion], operator: LocalOperator
) -> None:
    bench, version = first
    spec = operator.endpoints[JOB]["spec"]
    del spec["rollout"]
    parser = ["--enable-auto-tool-choice", "--tool-call-parser=pythonic"]
    spec["serve"] = {**SERVE, "arguments": [*SERVE["arguments"], *parser]}
    operator.jobs[JOB] = version.published_by(bench.spec())
    operator.until(serves(operator, 1), seconds=START_SECONDS)
    maker = AdapterMaker(folder=bench.model, rank=16)
    calling = make_version(version, 2, maker, lambda _: "[paint(x=1)]")
    operator.jobs[JOB] = calling.published_by(bench.spec())
    operator.until(serves(operator, 2), seconds=STEP_SECONDS)

    parameters = {"type": "object", "properties": {"x": {"type": "integer"}}}
    settings: dict[str, Any] = {
        "model": JOB,
        "messages": [{"role": "user", "content": next(iter(calling.answers))}],
        "tools": [{"type": "function", "function": {"name": "paint", "parameters": parameters}}],
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
    with openai.OpenAI(base_url=f"{operator.url}/v1", api_key=key_of(0)) as client:
        reply = client.chat.completions.create(**settings)
        (call,) = reply.choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == ("paint", {"x": 1})
        assert reply.choices[0].finish_reason == "tool_calls"
        name = arguments = ""
        for event in client.chat.completions.create(**settings, stream=True):
            for choice in event.choices:
                for part in choice.delta.tool_calls or ():
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
        assert (name, json.loads(arguments)) == ("paint", {"x": 1})


def assert_refused(users: Users, number: int, reason: str) -> None:
    """Wait for the refusal of a version; the second goes on answering, and the version never."""
    operator = users.operator
    operator.until(rejects(operator, number), seconds=STEP_SECONDS, meanwhile=users.ask)
    assert rejection_of(operator, number) == reason
    assert serves(operator, 2)()
    assert number not in users.answered


def rename_modules(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("mlp", "feed_forward"): value for name, value in tensors.items()}


def without_effect(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: value * ("lora_A" in name) for name, value in tensors.items()}


def copy_weights(source: Path, folder: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())
