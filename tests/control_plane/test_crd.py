"""The CRD on a real API server: it judges as the models do, and it reads well."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.crd import immutable_message
from finetune_api.messages.messages import InvalidJobError, parse_job
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint, fixed_in_endpoint_message
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS
from finetune_api.v1alpha1.rules.queue import (
    PRIORITY_IS_KEPT,
    PRIORITY_OF_RUNNING,
    QUEUE_IS_KEPT,
    QUEUE_IS_LATE,
    QUEUE_OF_RUNNING,
)
from finetune_api.v1alpha1.rules.selection import HOLD_IS_NOT_ADDED, PRUNE_IS_KEPT
from kit.cases.endpoint_cases import ENDPOINT_CASES, minimal_endpoint
from kit.cases.schedule_cases import SCHEDULE_CASES
from kit.cases.spec_cases import CASES, FULL_SPEC, Case, changed, minimal_job
from kit.cluster.crd import install_crd, install_gateway_api
from kit.cluster.raw_api import APPLY, MERGE, RawApi
from kit.processes.eventually import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def api(control_plane: Any) -> Iterator[RawApi]:
    api = RawApi(control_plane.kubeconfig)
    install_crd(api)
    yield api
    api.close()


@pytest.fixture
def jobs(namespace: str) -> str:
    return f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"


@pytest.fixture
def create(api: RawApi, jobs: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def create(body: dict[str, Any]) -> dict[str, Any]:
        status, answer = api.send("POST", f"{jobs}?fieldValidation=Strict", body)
        assert status == 201, answer.get("message")
        return answer

    return create


def test_api_server_and_models_judge_alike(api: RawApi, namespace: str) -> None:
    jobs = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
    disagreements = []
    for case in CASES:
        verdict = _disagreement(api, jobs, case)
        if verdict:
            disagreements.append(f"{case.name}: {verdict}")
    assert not disagreements, "\n".join(disagreements)


def _disagreement(api: RawApi, jobs: str, case: Case) -> str | None:
    status, answer = api.send("POST", f"{jobs}?dryRun=All&fieldValidation=Strict", case.body)
    try:
        parse_job(case.body)
    except InvalidJobError:
        refused_here = True
    else:
        refused_here = False
    if (status >= 400) != refused_here:
        return f"API server {status} {answer.get('message')}, models refused: {refused_here}"
    if status >= 400 and case.server_expected not in answer["message"]:
        return f"expected {case.server_expected!r} in {answer['message']!r}"
    return None


@pytest.mark.parametrize("name", ["ingress", "httproute"])
def test_an_api_server_takes_the_ways_in_from_outside(
    name: str, control_plane: Any, namespace: str
) -> None:
    install_gateway_api(control_plane)
    document = (EXAMPLES / "05-endpoint" / f"{name}.yaml").read_text(encoding="utf-8")

    def is_taken() -> bool:
        """The kind is known a moment after its CRD."""
        said = control_plane.kubectl(
            *("-n", namespace, "create", "--validate=strict", "-f", "-"), stdin=document
        )
        return "created" in said

    eventually(is_taken, timeout=30)


def test_api_server_and_models_judge_endpoints_alike(api: RawApi, namespace: str) -> None:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetuneendpoints"
    disagreements = []
    for case in ENDPOINT_CASES:
        status, answer = api.send("POST", f"{path}?dryRun=All&fieldValidation=Strict", case.body)
        message = answer.get("message", "")
        if (status >= 400) is (case.expected is None) or case.server_expected not in message:
            disagreements.append(f"{case.name}: {status} {message}")
    assert not disagreements, "\n".join(disagreements)


def test_api_server_and_models_judge_schedules_alike(api: RawApi, namespace: str) -> None:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetuneschedules"
    disagreements = []
    for case in SCHEDULE_CASES:
        status, answer = api.send("POST", f"{path}?dryRun=All&fieldValidation=Strict", case.body)
        message = answer.get("message", "")
        if (status >= 400) is (case.expected is None) or case.server_expected not in message:
            disagreements.append(f"{case.name}: {status} {message}")
    assert not disagreements, "\n".join(disagreements)


def test_the_job_of_an_endpoint_is_fixed_and_its_version_is_not(
    api: RawApi, namespace: str
) -> None:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetuneendpoints"
    status, stored = api.send("POST", path, minimal_endpoint("fixed"))
    assert status == 201, stored["message"]
    defaults = FineTuneEndpoint.from_wire(minimal_endpoint()).spec.to_wire()["serve"]
    # The API server leaves out lists and maps that are empty by default.
    assert stored["spec"]["serve"] == {
        key: of for key, of in defaults.items() if of not in ([], {})
    }
    for spec, expected in (
        ({"version": 2}, 200),
        ({"version": None, "rollout": {}}, 200),
        ({"jobRef": {"name": "other"}}, 422),
    ):
        status, answer = api.send("PATCH", f"{path}/fixed", {"spec": spec}, content_type=MERGE)
        assert status == expected, answer
    assert fixed_in_endpoint_message("jobRef") in answer["message"]


def test_stored_defaults_equal_the_models_defaults(
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    stored = create(minimal_job())
    assert parse_job(stored).spec == parse_job(minimal_job()).spec
    assert stored["spec"]["hyperparameters"]["learningRate"] == "auto"
    assert stored["spec"]["method"]["adapter"]["rank"] == 16
    assert stored["spec"]["dataset"]["split"]["testPercent"] == 20


CHANGES: dict[str, Any] = {
    "goal": {"metric": "bleu", "atLeast": "0.1"},
    "model": {"uri": "hf://other/model"},
    "dataset": {"sources": [{"uri": "s3://data/other.jsonl"}]},
    "method": {"adapter": {"rank": 32}},
    "hyperparameters": {"learningRate": "1e-3"},
    "initFrom": {"uri": "s3://models/runs/default/other/1f/checkpoints/step-9"},
    "checkpoint": {"everySteps": 7},
    "evaluation": {"maxSamples": 7},
    "output": {"uri": "s3://elsewhere"},
    "s3": {"region": "other"},
    "resources": {"nodes": 3},
    "trainer": {"image": "example.org/trainer:2"},
    "podTemplate": {"affinity": {"podAffinity": {}}},
    "tracking": {"mlflow": {"uri": "https://elsewhere.example.org"}},
    "requestedBy": "somebody-else@example.com",
}


def test_every_immutable_field_has_a_change_to_try() -> None:
    assert set(CHANGES) == set(IMMUTABLE_FIELDS)


@pytest.mark.parametrize("field", IMMUTABLE_FIELDS)
def test_what_to_train_cannot_change(
    field: str, api: RawApi, jobs: str, create: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    create({**minimal_job(), "spec": FULL_SPEC})
    patch = {"spec": {field: CHANGES[field]}}
    status, answer = api.send("PATCH", f"{jobs}/example", patch, content_type=MERGE)
    assert status == 422
    assert immutable_message(field) in answer["message"]


@pytest.mark.parametrize("field", ["goal", "podTemplate", "requestedBy"])
def test_optional_fields_cannot_be_added_or_removed(
    field: str, api: RawApi, jobs: str, create: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    create(minimal_job("without"))
    create(changed(minimal_job("with"), {f"spec.{field}": FULL_SPEC[field]}))
    for name, value in (("without", FULL_SPEC[field]), ("with", None)):
        patch = {"spec": {field: value}}
        status, answer = api.send("PATCH", f"{jobs}/{name}", patch, content_type=MERGE)
        assert status == 422
        assert immutable_message(field) in answer["message"]


@pytest.mark.parametrize(
    "patch",
    [
        {"suspend": True},
        {"queueName": "team-b"},
        {"priorityClassName": "low"},
        {"backoffLimit": 9},
        {"activeDeadlineSeconds": 60},
        {"ttlSecondsAfterFinished": 60},
    ],
    ids=lambda patch: next(iter(patch)),
)
def test_life_cycle_fields_can_change(
    patch: dict[str, Any],
    api: RawApi,
    jobs: str,
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    before = create(minimal_job())
    status, after = api.send("PATCH", f"{jobs}/example", {"spec": patch}, content_type=MERGE)
    assert status == 200, after
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Training",
    "reason": "Running",
    "conditions": [
        {
            "type": "Accepted",
            "status": "True",
            "reason": "Valid",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
    ],
    "progress": {"stage": "train", "step": 120, "totalSteps": 600, "percent": 20},
    "metrics": [
        {"name": "grad_norm", "value": "0.9", "step": 120},
        {"name": "loss", "value": "1.234", "step": 120},
    ],
    "artifact": {"uri": "s3://models/runs/a/adapter"},
    "lastFailure": {"class": "Evicted", "reason": "Preempted", "time": "2026-01-01T00:00:00Z"},
}


def test_status_is_a_subresource(
    api: RawApi, jobs: str, create: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    created = create({**minimal_job(), "status": STATUS})
    assert "status" not in created
    status, after = api.send(
        "PATCH",
        f"{jobs}/example/status",
        {"status": STATUS, "spec": {"suspend": True}},
        content_type=MERGE,
    )
    assert status == 200, after
    assert after["status"] == STATUS
    assert after["spec"]["suspend"] is False
    assert after["metadata"]["generation"] == created["metadata"]["generation"]


@pytest.mark.parametrize(
    ("phase", "before", "edit", "refusal"),
    [
        ("Queued", {"queueName": "a"}, {"queueName": "b"}, None),
        ("Suspended", {"queueName": "a"}, {"queueName": "b"}, None),
        ("Training", {"queueName": "a"}, {"queueName": "b"}, QUEUE_OF_RUNNING),
        ("Evaluating", {"queueName": "a"}, {"queueName": "b"}, QUEUE_OF_RUNNING),
        ("Training", {"queueName": "a"}, {"queueName": "b", "suspend": True}, None),
        ("Succeeded", {"queueName": "a"}, {"queueName": "b"}, None),
        ("Preparing", {"queueName": "a"}, {"queueName": None}, QUEUE_IS_KEPT),
        ("Preparing", {}, {"queueName": "a"}, None),
        ("Training", {}, {"queueName": "a"}, QUEUE_IS_LATE),
        ("Suspended", {}, {"queueName": "a"}, QUEUE_IS_LATE),
        ("Training", {"priorityClassName": "low"}, {"priorityClassName": "high"}, None),
        ("Queued", {"priorityClassName": "low"}, {"priorityClassName": None}, PRIORITY_IS_KEPT),
        ("Queued", {}, {"priorityClassName": "high"}, None),
        ("Training", {}, {"priorityClassName": "high"}, PRIORITY_OF_RUNNING),
        ("Training", {"queueName": "a"}, {"backoffLimit": 9}, None),
    ],
)
def test_edits_that_kueue_cannot_follow_are_refused(
    phase: str,
    before: dict[str, Any],
    edit: dict[str, Any],
    refusal: str | None,
    api: RawApi,
    jobs: str,
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    create(changed(minimal_job(), {f"spec.{name}": value for name, value in before.items()}))
    told = {"status": {**STATUS, "phase": phase}}
    status, answer = api.send("PATCH", f"{jobs}/example/status", told, content_type=MERGE)
    assert status == 200, answer
    status, answer = api.send("PATCH", f"{jobs}/example", {"spec": edit}, content_type=MERGE)
    if refusal is None:
        assert status == 200, answer
    else:
        assert (status, refusal in answer["message"]) == (422, True), answer


@pytest.mark.parametrize(
    ("before", "edit", "refusal"),
    [
        ({"holdAfter": "Train"}, {"holdAfter": None}, None),
        ({"holdAfter": "Train"}, {"suspend": True}, None),
        ({}, {"holdAfter": "Train"}, HOLD_IS_NOT_ADDED),
        ({}, {"prune": True}, None),
        ({"prune": True}, {"suspend": True}, None),
        ({"prune": True}, {"prune": False}, PRUNE_IS_KEPT),
        ({"prune": True}, {"prune": None}, PRUNE_IS_KEPT),
        ({"holdAfter": "Train"}, {"holdAfter": None, "prune": True}, None),
    ],
)
def test_a_hold_is_only_removed_and_a_prune_only_set(
    before: dict[str, Any],
    edit: dict[str, Any],
    refusal: str | None,
    api: RawApi,
    jobs: str,
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    create(changed(minimal_job(), {f"spec.{name}": value for name, value in before.items()}))
    status, answer = api.send("PATCH", f"{jobs}/example", {"spec": edit}, content_type=MERGE)
    if refusal is None:
        assert status == 200, answer
    else:
        assert (status, refusal in answer["message"]) == (422, True), answer


def test_two_field_managers_share_the_status(
    api: RawApi, jobs: str, create: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    create(minimal_job())
    head = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "example"},
    }
    progress = {"progress": STATUS["progress"], "metrics": STATUS["metrics"]}
    rest = {"phase": "Training", "conditions": STATUS["conditions"]}
    for manager, content in (("finetune-progress", progress), ("finetune-operator", rest)):
        path = f"{jobs}/example/status?fieldManager={manager}"
        status, answer = api.send("PATCH", path, {**head, "status": content}, content_type=APPLY)
        assert status == 200, answer["message"]
    assert answer["status"] == {**progress, **rest}
    before = answer["metadata"]["resourceVersion"]
    _, again = api.send("PATCH", path, {**head, "status": rest}, content_type=APPLY)
    assert again["metadata"]["resourceVersion"] == before


def test_table_shows_where_a_job_is(
    control_plane: Any,
    namespace: str,
    api: RawApi,
    jobs: str,
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    create(changed(minimal_job(), {"spec.queueName": "team-a"}))
    api.send("PATCH", f"{jobs}/example/status", {"status": STATUS}, content_type=MERGE)
    narrow = control_plane.kubectl("-n", namespace, "get", "ftj").splitlines()
    assert narrow[0].split() == ["NAME", "PHASE", "PROGRESS", "STEP", "LOSS", "QUEUE", "AGE"]
    assert narrow[1].split()[:-1] == ["example", "Training", "20", "120", "1.234", "team-a"]
    wide = control_plane.kubectl("-n", namespace, "get", "ml", "-o", "wide").splitlines()
    assert wide[0].split()[-2:] == ["REASON", "ADAPTER"]
    assert wide[1].split()[-2:] == ["Running", "s3://models/runs/a/adapter"]


def test_jobs_can_be_selected_by_queue_and_phase(
    control_plane: Any,
    namespace: str,
    api: RawApi,
    jobs: str,
    create: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    create(changed(minimal_job("a"), {"spec.queueName": "team-a"}))
    create(changed(minimal_job("b"), {"spec.queueName": "team-b"}))
    api.send("PATCH", f"{jobs}/b/status", {"status": STATUS}, content_type=MERGE)
    for selector, name in (("spec.queueName=team-a", "a"), ("status.phase=Training", "b")):
        arguments = ("-n", namespace, "get", "ftj", "-o", "name", "--field-selector", selector)
        assert control_plane.kubectl(*arguments).split() == [f"finetunejob.finetune.dev/{name}"]


def test_server_side_apply_of_the_same_yaml_changes_nothing(
    control_plane: Any, namespace: str, api: RawApi, tmp_path: Path
) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**minimal_job(), "spec": FULL_SPEC}))
    apply = ("-n", namespace, "apply", "--server-side", "-o", "json", "-f", str(file))
    first = yaml.safe_load(control_plane.kubectl(*apply))
    second = yaml.safe_load(control_plane.kubectl(*apply))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    client_side = control_plane.kubectl("-n", namespace, "diff", "-f", str(file))
    assert client_side == ""


def test_explain_describes_nested_fields(api: RawApi, control_plane: Any) -> None:
    text = control_plane.kubectl("explain", "ftj.spec.method.adapter.rank")
    assert "Rank of the update matrices" in text
    assert "<integer>" in text
    text = control_plane.kubectl("explain", "ftj.spec.hyperparameters")
    assert "learningRate\t<Object>" in text  # a whole number or text
    assert "Peak learning rate" in text
