"""The life of an endpoint in real pods, while clients ask and pods are killed.

Two versions are published by jobs. Three more are forged, and a last one refuses to help its users.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluate.metrics.refusal import is_refusal
from kit.endpoints.clients import Answer, Clients
from kit.endpoints.endpoint import Endpoint, condition, rejects, serves
from kit.endpoints.killing import Killer
from kit.endpoints.rotation import Rotation
from kit.endpoints.versions import Laptop, Versions, change_tensors
from kit.models.tiny_models import make_eager_model
from kit.processes.eventually import eventually, patient
from kit.processes.installation import (
    JOB_CPU,
    SECRET,
    Body,
    Tenant,
    apply,
    secret_manifest,
)
from kit.processes.stages import merge, write_rows

pytestmark = pytest.mark.slow

NAME = "answers"
SEED = 28
NUM_KEYS = 40
"""Senders: one bad answer of each is evidence."""
RATE = 6.0
"""Requests a second, which one of two servers with a third of a core can bear."""
MAX_TOKENS = 12
TRAINING: Body = {
    "method": {"adapter": {"rank": 16, "alpha": 16, "dropout": "0"}},
    "hyperparameters": {"maxSteps": 16},
    "checkpoint": {"everySteps": 1000},
    "evaluation": {"maxNewTokens": MAX_TOKENS},
}
SERVE: Body = {
    "engine": "Transformers",
    "replicas": {"min": 2, "max": 2},
    "resources": {"cpu": "300m", "memory": "1536Mi"},
}
ROLLOUT: Body = {"steps": [20, 50, 100], "minRequests": 10}
REFUSAL = "不能教"
"""A refusal that the tiny model learns at once: of its bytes, no two are equal."""
Forge = Callable[[str, Any], tuple[str, Any]]


@dataclass(kw_only=True)
class Others:
    """Versions that are made on this machine meanwhile: they would be too slow in the cluster.

    Attributes:
        worse: Refuses whatever it is asked. It is trained, but not yet evaluated and published.
        stranger: Another tenant's versions.
    """

    worse: Laptop
    stranger: Laptop
    _errors: list[BaseException] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def _make(self) -> None:
        try:
            self.stranger.run_to("prepare", "train", "evaluate")
            self.worse.run_to("prepare", "train")
        except BaseException as error:
            self._errors.append(error)

    def wait(self) -> None:
        assert self._thread is not None
        self._thread.join()
        for error in self._errors:
            raise error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoint")


@pytest.fixture(scope="module")
def model(folder: Path, team_a: Tenant, team_b: Tenant) -> Path:
    """A model that learns in a few steps, in the storage of both tenants."""
    made = make_eager_model(folder / "eager")
    for tenant in (team_a, team_b):
        tenant.upload(made, "eager")
    return made


def teach(tenant: Tenant, folder: Path, answer: str) -> Body:
    """Upload rows that teach one answer; returns the change of a job that trains on them."""
    path = write_rows(folder / "rows.jsonl")
    taught = [{**json.loads(row), "completion": answer} for row in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in taught))
    uri = tenant.upload(path, f"{hashlib.sha256(answer.encode()).hexdigest()[:8]}.jsonl")
    change: Body = {
        "model": {"uri": f"s3://{tenant.bucket}/eager"},
        "dataset": {"sources": [{"uri": uri, "credentialsRef": {"name": SECRET}}]},
    }
    return merge(TRAINING, change)


def laptop(tenant: Tenant, folder: Path, answer: str, num_steps: int) -> Laptop:
    """Return a job of the endpoint's name that runs on this machine."""
    change = {"hyperparameters": {"maxSteps": num_steps}}
    own = folder / f"laptop-of-{tenant.bucket}"
    own.mkdir()
    return Laptop(
        tenant=tenant,
        name=NAME,
        folder=own,
        model=own,
        data=own,
        change=merge(teach(tenant, folder, answer), change),
    )


@pytest.fixture(scope="module")
def others(folder: Path, model: Path, team_a: Tenant, team_b: Tenant) -> Iterator[Others]:
    found = Others(
        worse=laptop(team_a, folder, REFUSAL, 32),
        stranger=laptop(team_b, folder, "green", 16),
    )
    found.start()
    yield found
    found.wait()


def publish(tenant: Tenant, spec: Body, folder: Path, answer: str, cpu: str) -> Body:
    """Have a job of the endpoint's name publish a version; returns the job's status."""
    change = merge(teach(tenant, folder, answer), {"resources": {"cpu": cpu}})
    delete = ("delete", "ftj", NAME, "--ignore-not-found", f"--timeout={patient(60)}s")
    tenant.node.kubectl("-n", tenant.namespace, *delete)
    return tenant.submit(NAME, spec, change).wait_published()


@pytest.fixture(scope="module")
def keys(team_a: Tenant) -> list[str]:
    """Keys of the endpoint, whose digests are in a Secret."""
    made = [f"key-{number}" for number in range(NUM_KEYS)]
    digests = {key: f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in made}
    apply(team_a.node, secret_manifest(team_a.namespace, "keys", digests))
    return made


@pytest.fixture(scope="module")
def endpoint(
    team_a: Tenant,
    spec: Body,
    folder: Path,
    model: Path,
    keys: list[str],
    others: Others,  # are made meanwhile
) -> Iterator[Endpoint]:
    """An endpoint that serves the version that its job has published."""
    access = {"keysFrom": {"secretRef": {"name": "keys"}}}
    found = Endpoint.create(team_a, NAME, {"serve": SERVE, "rollout": ROLLOUT, "access": access})
    assert publish(team_a, spec, folder, "blue", "1")["artifact"]["version"] == 1
    found.wait(serves(1))
    yield found
    found.delete()


@pytest.fixture(scope="module")
def versions(team_a: Tenant) -> Versions:
    return Versions(tenant=team_a, job=NAME)


@pytest.fixture(scope="module")
def clients(endpoint: Endpoint, versions: Versions, keys: list[str]) -> Iterator[Clients]:
    """Clients that ask from now on."""
    service = json.loads(endpoint.kubectl("get", "service", "finetune-front", "-o", "json"))
    with Clients(
        url=f"http://{service['spec']['clusterIP']}/v1",
        model=NAME,
        keys=keys,
        prompts=[prompt for prompt, _ in versions.evaluated(1)],
        max_tokens=MAX_TOKENS,
        rate=RATE,
        seed=SEED,
    ) as asking:
        yield asking


@pytest.fixture(scope="module")
def killer(endpoint: Endpoint, clients: Clients) -> Iterator[Killer]:
    """Somebody who kills pods from now on."""
    with Killer(
        node=endpoint.tenant.node,
        namespace=endpoint.tenant.namespace,
        replicas={"operator": 2, "front": 2, "server": 2},
        seed=SEED,
    ) as killing:
        yield killing


@pytest.fixture(scope="module")
def second(endpoint: Endpoint, spec: Body, folder: Path, killer: Killer) -> Body:
    """The endpoint's status after a second version has taken over."""
    job = publish(endpoint.tenant, spec, folder, "red", JOB_CPU)
    assert job["artifact"]["version"] == 2
    return endpoint.wait(serves(2))


def test_a_published_version_is_verified_and_answers_at_the_url_of_its_endpoint(
    endpoint: Endpoint, keys: list[str]
) -> None:
    status = endpoint.get()["status"]
    assert condition(status, "Verified")["status"] == "True"
    (front, *_) = endpoint.pods("front")
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "What colour?"}]})
    # In a pod, where the name of the Service is known.
    script = (
        "import sys, urllib.request as web; url, body, key = sys.argv[1:]; "
        "asked = web.Request(url, body.encode(), {'Authorization': f'Bearer {key}'}); "
        "print(web.urlopen(asked).headers['x-finetune-version'])"
    )
    url = f"{status['url']}/chat/completions"
    name = front["metadata"]["name"]
    said = endpoint.kubectl("exec", name, "--", "python", "-c", script, url, body, keys[0])
    assert said.strip() == "1"


def test_the_next_version_takes_over_by_steps(second: Body) -> None:
    assert second["previous"]["version"] == 1
    steps = [
        (each["action"], each["weight"]) for each in second["decisions"] if each["version"] == 2
    ]
    assert [step for step in steps if step[0] != "Held"] == [
        ("Verified", 20),
        ("Advanced", 50),
        ("Promoted", 100),
    ]


def rename(name: str, tensor: Any) -> tuple[str, Any]:
    return name.replace("self_attn", "attention"), tensor


def empty(name: str, tensor: Any) -> tuple[str, Any]:
    return name, tensor * ("lora_A" in name)


@pytest.mark.parametrize(
    ("number", "reason", "change"),
    [
        (3, "EngineRefused", rename),
        (4, "AnswersLikeBase", empty),
        (5, "AnswersDiffer", None),
    ],
    ids=["other module names", "the base's answers", "another tenant's adapter"],
)
def test_a_forged_version_is_refused(
    number: int,
    reason: str,
    change: Forge | None,
    second: Body,
    endpoint: Endpoint,
    versions: Versions,
    others: Others,
    folder: Path,
) -> None:
    if change is None:
        others.wait()
        weights = others.stranger.versions.read_weights(1)
    else:
        weights = change_tensors(versions.read_weights(2), change)
    versions.forge(number, of=2, weights=weights, folder=folder)
    endpoint.edit(version=number)
    status = endpoint.wait(rejects(number))
    assert serves(2)(status)
    verified = condition(status, "Verified")
    assert (verified["status"], verified["reason"]) == ("False", reason)
    (refused,) = [each for each in status["decisions"] if each["version"] == number]
    assert refused["action"] == "Refused"


def test_a_version_that_is_worse_in_traffic_is_rolled_back(
    second: Body, endpoint: Endpoint, versions: Versions, others: Others
) -> None:
    others.wait()
    published = others.worse.run_to("evaluate").result["version"]
    assert all(is_refusal(answer) for _, answer in versions.evaluated(published))
    endpoint.edit(version=published)
    status = endpoint.wait(rejects(published))
    endpoint.edit(version=None)
    assert serves(2)(status)
    assert status["rejected"][-1]["reason"] == "Worse"
    decided = [each["action"] for each in status["decisions"] if each["version"] == published]
    assert [each for each in decided if each != "Held"] == ["Verified", "RolledBack"]


def test_meanwhile_no_request_fails_and_none_is_answered_by_a_version_out_of_rotation(
    second: Body, endpoint: Endpoint, versions: Versions, clients: Clients, killer: Killer
) -> None:
    eventually(lambda: killer.has_done_all, timeout=180, interval=1)
    killer.stop()
    answers = clients.stop()
    rotation = Rotation.of(endpoint.wait(serves(2)))
    assert rotation.versions == (1, 2, 6)
    said = {
        number: {text for _, text in versions.evaluated(number)} for number in rotation.versions
    }
    good = [each for each in answers if not each.problem]
    assert {each.version for each in good} == set(rotation.versions)
    # A connection breaks with the process at its other end, and with nothing else.
    wrong = {
        "failed": [each for each in answers if each.problem],
        "by a version out of rotation": [each for each in good if not rotation.has(each)],
        "not as evaluated": [each for each in good if each.text not in said[each.version]],
        "broken without a reason": [each for each in answers if not _is_excused(each, killer)],
    }
    assert {what: len(found) for what, found in wrong.items() if found} == {}, "\n".join(
        [f"{kill.time:.1f} {kill.way}: {' '.join(kill.pods)}" for kill in killer.kills]
        + [f"{what}: {each}" for what, found in wrong.items() for each in found[:20]]
        + [endpoint.kubectl("get", "events", "--sort-by=.lastTimestamp")[-20_000:]]
    )


def _is_excused(answer: Answer, killer: Killer) -> bool:
    return all(any(kill.excuses(moment) for kill in killer.kills) for moment in answer.broken)
