"""A closed loop in real pods: users ask, an editor corrects, a schedule trains and promotes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from finetune_api.names import SKIP_STEPS_ANNOTATION
from finetune_trainer.data.keys import dataset_prefix
from finetune_trainer.data.responses import RESPONSES_NAME
from finetune_trainer.storage import ObjectStore, open_store
from kit.endpoints.endpoint import Endpoint, serves
from kit.endpoints.versions import Versions
from kit.models.tiny_models import make_eager_model
from kit.processes.eventually import eventually
from kit.processes.installation import (
    JOB_CPU,
    POLL_SECONDS,
    SECRET,
    Body,
    Tenant,
    apply,
    secret_manifest,
)
from kit.processes.stages import merge, write_rows

pytestmark = pytest.mark.slow

NAME = "colours"
NUM_ANSWERS = 48
MAX_TOKENS = 12
BEFORE, WANTED = "blue", "red"
MAIL = "max.mustermann@example-firma.de"
COUNTED_SECONDS = 240.0
"""Recorder and front count once a minute each."""
CYCLE_SECONDS = 480.0
TRAINING: Body = {
    "method": {"adapter": {"rank": 16, "alpha": 16, "dropout": "0"}},
    "hyperparameters": {"maxSteps": 16},
    "checkpoint": {"everySteps": 1000},
    "evaluation": {"maxNewTokens": MAX_TOKENS},
}
GATES = [{"name": "better", "metric": "loss", "overPublished": "0"}]
SERVE: Body = {
    "engine": "Transformers",
    "replicas": {"min": 1, "max": 1},
    "resources": {"cpu": "300m", "memory": "1536Mi"},
}


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """An answer that an editor has corrected.

    Attributes:
        id: Its response id.
    """

    id: str
    prompt: str


def digests(*keys: str) -> dict[str, str]:
    """Return the entries of a Secret with keys."""
    return {key: f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in keys}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that teach one answer, which is not the wanted one."""
    path = write_rows(tmp_path_factory.mktemp("loop") / "colours.jsonl")
    taught = [{**json.loads(row), "completion": BEFORE} for row in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in taught))
    return path


@pytest.fixture(scope="module")
def change(team_b: Tenant, rows: Path) -> Body:
    """What the jobs of the loop have in common."""
    team_b.upload(make_eager_model(rows.parent / "eager"), "eager")
    own: Body = {
        "model": {"uri": f"s3://{team_b.bucket}/eager"},
        "resources": {"cpu": JOB_CPU},
    }
    return merge(TRAINING, own)


@pytest.fixture(scope="module")
def endpoint(team_b: Tenant, spec: Body, change: Body, rows: Path) -> Iterator[Endpoint]:
    """An endpoint that captures all answers of its first version."""
    for name, keys in (("askers", ("asker",)), ("editors", ("editor",))):
        apply(team_b.node, secret_manifest(team_b.namespace, name, digests(*keys)))
    made = Endpoint.create(
        team_b,
        NAME,
        {
            "serve": SERVE,
            "access": {"keysFrom": {"secretRef": {"name": "askers"}}},
            "capture": {
                "include": "All",
                "sample": "1",
                "editorsFrom": {"secretRef": {"name": "editors"}},
            },
        },
    )
    source = {"uri": team_b.upload(rows, rows.name), "credentialsRef": {"name": SECRET}}
    first = merge(change, {"dataset": {"sources": [source]}})
    job = team_b.submit(NAME, spec, first)
    assert job.wait_published()["artifact"]["version"] == 1
    made.wait(serves(1))
    yield made
    made.delete()


def client_of(endpoint: Endpoint, key: str) -> openai.OpenAI:
    service = json.loads(endpoint.kubectl("get", "service", "finetune-front", "-o", "json"))
    url = f"http://{service['spec']['clusterIP']}/v1"
    return openai.OpenAI(base_url=url, api_key=key, max_retries=5)


def ask(client: openai.OpenAI, prompt: str, user: str) -> tuple[str, str]:
    """Return the id and the text of an answer."""
    answer = client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=MAX_TOKENS,
        user=user,
    )
    return answer.id, (answer.choices[0].message.content or "").strip()


@pytest.fixture(scope="module")
def corrected(endpoint: Endpoint, rows: Path) -> list[Corrected]:
    """Answers that an editor has corrected through the client of OpenAI."""
    prompts = [json.loads(row)["prompt"] for row in rows.read_text().splitlines()]
    found: list[Corrected] = []
    with client_of(endpoint, "asker") as asker, client_of(endpoint, "editor") as editor:
        for number, prompt in enumerate(prompts[:NUM_ANSWERS]):
            response_id, text = ask(asker, prompt, f"{number}.{MAIL}")
            assert text == BEFORE
            found.append(Corrected(id=response_id, prompt=prompt))
        for each in found:
            entry = {"rating": "down", "correction": WANTED, "reason": f"ask {MAIL}"}
            editor.chat.completions.update(each.id, metadata=entry)
    return found


def schedule_of(tenant: Tenant, spec: Body, change: Body) -> Body:
    """Return a schedule that trains on corrections and lets traffic decide."""
    job = merge(
        tenant.document(NAME, spec, change)["spec"],
        {
            "dataset": {"sources": [{"uri": f"traffic://{NAME}"}]},
            "evaluation": {"gates": GATES},
        },
    )
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneSchedule",
        "metadata": {"name": "corrections", "namespace": tenant.namespace},
        "spec": {
            "endpointRef": {"name": NAME},
            "triggers": {"newFeedback": NUM_ANSWERS},
            "promote": "Auto",
            "jobTemplate": {"spec": job},
        },
    }


def test_corrections_are_trained_on_promoted_and_traced(
    endpoint: Endpoint, corrected: list[Corrected], spec: Body, change: Body
) -> None:
    tenant = endpoint.tenant
    apply(tenant.node, schedule_of(tenant, spec, change))

    def history() -> list[Body]:
        found = json.loads(endpoint.kubectl("get", "ftsch", "corrections", "-o", "json"))
        return list(found.get("status", {}).get("history", []))

    def waits_for_person() -> bool:
        conditions = endpoint.get()["status"]["conditions"]
        return any((c["type"], c["reason"]) == ("Verified", "FewQuestions") for c in conditions)

    # Ten held-out questions are too few to replace a version: a person does.
    eventually(waits_for_person, COUNTED_SECONDS + CYCLE_SECONDS, interval=POLL_SECONDS)
    endpoint.kubectl("annotate", "finetuneendpoint", NAME, f"{SKIP_STEPS_ANNOTATION}=2")
    try:
        (cycle,) = eventually(history, COUNTED_SECONDS + CYCLE_SECONDS, interval=POLL_SECONDS)
    except AssertionError as error:
        told = endpoint.kubectl("get", "ftsch,ftj", "-o", "yaml")
        raise AssertionError(f"{error}\n{told}\n{endpoint.report()}") from None
    assert (cycle["trigger"], cycle["outcome"], cycle["version"]) == ("NewFeedback", "Promoted", 2)
    assert serves(2)(endpoint.get()["status"])
    with client_of(endpoint, "asker") as asker:
        for each in corrected[:5]:
            assert ask(asker, each.prompt, MAIL)[1] == WANTED
    # From the adapter back to the answers behind it.
    versions = Versions(tenant=tenant, job=NAME)
    origins = read_origins(versions.store, versions.read(2).inputs["dataset"])
    assert origins <= {each.id.removeprefix("chatcmpl-") for each in corrected}
    assert len(origins) > NUM_ANSWERS / 2
    at_rest = read_all(versions.store, "traffic/")
    assert MAIL not in at_rest
    assert "<EMAIL_1>" in at_rest


def read_origins(store: ObjectStore, digest: str) -> set[str]:
    """Return the response ids that rows of a data set come from."""
    lines = store.read_bytes(f"{dataset_prefix(digest)}/{RESPONSES_NAME}").decode().splitlines()
    return {json.loads(line)["responseId"] for line in lines}


def read_all(store: ObjectStore, prefix: str) -> str:
    """Return all that is stored below a prefix."""
    return "\n".join(store.read_bytes(each.key).decode() for each in store.list(prefix))


def test_a_deletion_reaches_what_is_at_rest(endpoint: Endpoint, corrected: list[Corrected]) -> None:
    tenant, gone = endpoint.tenant, corrected[-1]
    with client_of(endpoint, "editor") as editor:
        editor.chat.completions.delete(gone.id)
        with pytest.raises(openai.NotFoundError):
            editor.chat.completions.retrieve(gone.id)
    store = open_store(f"s3://{tenant.bucket}/out", tenant.access)
    at_rest = read_all(store, "traffic/")
    assert gone.id.removeprefix("chatcmpl-") not in at_rest
    assert corrected[0].id.removeprefix("chatcmpl-") in at_rest
