"""What an endpoint may ask of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpointSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.admission import find_fault

CONFIG: dict[str, Any] = {"vllm_image": "vllm:1", "trainer_image": "trainer:1"}


def fault_of(serve: dict[str, Any], **settings: Any) -> Any:
    spec = FineTuneEndpointSpec.model_validate({"jobRef": {"name": "headlines"}, "serve": serve})
    return find_fault(spec, OperatorConfig(**{**CONFIG, **settings}))


@pytest.mark.parametrize(
    ("serve", "settings"),
    [
        ({}, {}),
        ({"engine": "Transformers"}, {"vllm_image": ""}),
        ({"image": "vllm:1"}, {}),
        ({"image": "registry.corp/vllm:2"}, {"allowed_serving_images": ["registry.corp/*"]}),
        ({"image": "own:2"}, {"vllm_image": "", "allowed_serving_images": ["*"]}),
        ({"replicas": {"min": 0, "max": 2}}, {"keda_prometheus_url": "http://prometheus:9090"}),
    ],
)
def test_what_the_settings_allow_is_allowed(
    serve: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert fault_of(serve, **settings) is None


@pytest.mark.parametrize(
    ("serve", "settings", "reason", "field"),
    [
        ({"image": "evil.io/vllm:2"}, {}, "ImageNotAllowed", "spec.serve.image"),
        (
            {"image": "registry.corp.evil.io/x"},
            {"allowed_serving_images": ["registry.corp/*"]},
            "ImageNotAllowed",
            "spec.serve.image",
        ),
        ({}, {"vllm_image": ""}, "EngineNotAllowed", "spec.serve.engine"),
        ({"replicas": {"min": 0, "max": 2}}, {}, "InvalidSpec", "spec.serve.replicas.min"),
        ({"routing": "Gateway"}, {}, "InvalidSpec", "spec.serve.routing"),
        (
            {"resources": {"gpuResource": "example.kubernetes.io/gpu"}},
            {},
            "InvalidSpec",
            "spec.serve.resources.gpuResource",
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
