"""What an endpoint may ask of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.patterns import STORED
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpointSpec
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.admission import find_fault, find_source_fault
from finetune_operator.finetuneendpoint.servers import Server

CONFIG: dict[str, Any] = {"vllm_image": "vllm:1", "trainer_image": "trainer:1"}


def fault_of(serve: dict[str, Any], **settings: Any) -> Any:
    spec = FineTuneEndpointSpec.model_validate({"jobRef": {"name": "headlines"}, "serve": serve})
    config = OperatorConfig(**{**CONFIG, **settings})
    return find_fault(spec, config)


@pytest.mark.parametrize(
    ("serve", "settings"),
    [
        ({}, {}),
        ({"engine": "Transformers"}, {"vllm_image": ""}),
        ({"image": "vllm:1"}, {}),
        ({"image": "registry.corp/vllm:2"}, {"allowed_serving_images": ["registry.corp/*"]}),
        ({"image": "own:2"}, {"vllm_image": "", "allowed_serving_images": ["*"]}),
        ({"replicas": {"max": 2}}, {"keda_prometheus_url": "http://prometheus:9090"}),
        ({"replicas": {"max": 2}, "resources": {"gpus": 0}}, {}),
        ({"resources": {"gpus": 4}, "arguments": ["--tensor-parallel-size=2"]}, {}),
        ({"resources": {"gpus": 0}, "arguments": ["--tensor-parallel-size=2"]}, {}),
        (
            {"engine": "Transformers", "resources": {"gpus": 1}},
            {"vllm_arguments": ["--tensor-parallel-size=2"]},
        ),
    ],
)
def test_what_the_settings_allow_is_allowed(
    serve: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert fault_of(serve, **settings) is None


@pytest.mark.parametrize(
    ("serve", "settings", "reason", "field"),
    [
        ({"replicas": {"max": 2}}, {}, "InvalidSpec", "spec.serve.replicas.max"),
        ({"image": "evil.io/vllm:2"}, {}, "ImageNotAllowed", "spec.serve.image"),
        (
            {"image": "registry.corp.evil.io/x"},
            {"allowed_serving_images": ["registry.corp/*"]},
            "ImageNotAllowed",
            "spec.serve.image",
        ),
        ({}, {"vllm_image": ""}, "EngineNotAllowed", "spec.serve.engine"),
        (
            {"resources": {"gpuResource": "example.kubernetes.io/gpu"}},
            {},
            "InvalidSpec",
            "spec.serve.resources.gpuResource",
        ),
        (
            {
                "resources": {"gpus": 2},
                "arguments": ["--tensor-parallel-size=2", "--pipeline-parallel-size=2"],
            },
            {},
            "InvalidSpec",
            "spec.serve.arguments",
        ),
        (
            {"nodeSelector": {"pool": "other"}},
            {"allowed_node_selectors": ["pool=team-a"]},
            "NodeSelectorNotAllowed",
            "spec.serve.nodeSelector",
        ),
        (
            {"tolerations": [{"key": "dedicated", "operator": "Exists"}]},
            {},
            "TolerationNotAllowed",
            "spec.serve.tolerations",
        ),
    ],
)
def test_what_they_do_not_allow_is_told_with_field_and_remedy(
    serve: dict[str, Any], settings: dict[str, Any], reason: str, field: str
) -> None:
    fault = fault_of(serve, **settings)
    assert (fault.reason, fault.is_final) == (reason, True)
    assert fault.message.startswith(f"{field}: ")
    assert "; " in fault.message


@pytest.mark.parametrize("uri", ["file:///tmp/answers", "pvc://answers/../other"])
def test_answers_are_stored_only_where_the_cluster_allows_it(uri: str) -> None:
    given = {"jobRef": {"name": "headlines"}, "capture": {"uri": uri}}
    spec = FineTuneEndpointSpec.model_validate(given, context=STORED)
    fault = find_fault(spec, OperatorConfig(**CONFIG))
    assert fault is not None
    assert (fault.reason, fault.is_final) == ("URINotAllowed", True)
    assert fault.message.startswith("spec.capture.uri: ")
    allowed = OperatorConfig(**CONFIG, allowed_file_paths=["/tmp"])
    assert (find_fault(spec, allowed) is None) == uri.startswith("file")


@pytest.mark.parametrize("name", ["finetune-serving-token", "finetune-serving"])
@pytest.mark.parametrize("field", ["keysFrom", "editorsFrom", "secretRef"])
def test_nobody_names_what_the_operator_makes_for_serving_pods(field: str, name: str) -> None:
    spec: dict[str, Any] = {"jobRef": {"name": "headlines"}, "capture": {"openToAll": True}}
    if field == "keysFrom":
        spec = {"jobRef": {"name": "headlines"}, "access": {field: {"secretRef": {"name": name}}}}
    elif field == "editorsFrom":
        spec["capture"] = {field: {"secretRef": {"name": name}}}
    else:
        spec["capture"][field] = {"name": name}
    with pytest.raises(ValidationError, match="must not begin with finetune-serving"):
        FineTuneEndpointSpec.model_validate(spec)


def test_the_operator_refuses_the_name_where_the_api_server_did_not() -> None:
    stored = {"capture": {"openToAll": True, "secretRef": {"name": "finetune-serving-token"}}}
    spec = FineTuneEndpointSpec.model_validate(
        {"jobRef": {"name": "headlines"}, **stored}, context=STORED
    )
    fault = find_fault(spec, OperatorConfig(**CONFIG))
    assert fault is not None
    assert (fault.reason, fault.is_final) == ("InvalidSpec", True)
    assert fault.message.startswith("spec.capture.secretRef.name: ")


def source_fault_of(base_model: str = "hf://org/model", **storage: Any) -> Any:
    server = Server(
        namespace="team-a",
        base_model=base_model,
        storage=ServedStorage.model_validate({"uri": "s3://models", **storage}),
        serve=Serve(),
    )
    settings = {"allowed_endpoints": ["https://s3.corp"], "allowed_file_paths": ["/data"]}
    return find_source_fault(server, OperatorConfig(**CONFIG, **settings))


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"endpoint": "https://s3.corp/"},
        {"uri": "file:///data/models"},
        {"base_model": "pvc://models/base"},
    ],
    ids=str,
)
def test_servers_fetch_from_where_jobs_may(source: dict[str, Any]) -> None:
    assert source_fault_of(**source) is None


@pytest.mark.parametrize(
    ("source", "reason", "field"),
    [
        ({"endpoint": "https://evil.example"}, "EndpointNotAllowed", "spec.s3.endpoint"),
        ({"uri": "file:///var/run/secrets"}, "URINotAllowed", "spec.output.uri"),
        ({"uri": "file:///data/../etc"}, "URINotAllowed", "spec.output.uri"),
        ({"base_model": "file:///etc"}, "URINotAllowed", "spec.model.uri"),
        ({"base_model": "pvc://models/../../etc"}, "URINotAllowed", "spec.model.uri"),
    ],
)
def test_servers_fetch_from_nowhere_else(source: dict[str, Any], reason: str, field: str) -> None:
    fault = source_fault_of(**source)
    assert (fault.reason, fault.is_final) == (reason, False)
    assert fault.message.startswith(f"{field} of the job")
