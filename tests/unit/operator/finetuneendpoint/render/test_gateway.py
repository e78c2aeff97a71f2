"""What an inference gateway is told of the versions of an endpoint."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import MANAGED_BY, Owner
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.gateway import (
    kind_of,
    render_gateway_parts,
    render_split,
)
from finetune_operator.finetuneendpoint.render.metadata import Deployed

ENDPOINT = Owner(namespace="team-a", name="headlines", uid="uid-1", kind=ENDPOINT_KIND)
FRONT = Deployed(name="finetune-front", uid="uid-front")
WEIGHTS = ((3, 95), (4, 5))
AI, POOL = "Gateway/infra/ai", "InferencePool/fronts"
METADATA = {
    "name": "headlines",
    "namespace": "team-a",
    "labels": {"app.kubernetes.io/managed-by": MANAGED_BY},
    "ownerReferences": [
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneEndpoint",
            "name": "headlines",
            "uid": "uid-1",
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ],
}


def test_envoy_ai_gateway_sends_each_share_to_the_front_under_the_versions_name() -> None:
    assert render_split(ENDPOINT, WEIGHTS, AI) == {
        "apiVersion": "aigateway.envoyproxy.io/v1beta1",
        "kind": "AIGatewayRoute",
        "metadata": METADATA,
        "spec": {
            "parentRefs": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "namespace": "infra",
                    "name": "ai",
                }
            ],
            "rules": [
                {
                    "matches": [
                        {
                            "headers": [
                                {
                                    "type": "Exact",
                                    "name": "x-ai-eg-model",
                                    "value": "team-a.headlines",
                                }
                            ]
                        }
                    ],
                    "backendRefs": [
                        {
                            "name": "finetune-front",
                            "modelNameOverride": "headlines@3",
                            "weight": 95,
                            "priority": 0,
                        },
                        {
                            "name": "finetune-front",
                            "modelNameOverride": "headlines@4",
                            "weight": 5,
                            "priority": 0,
                        },
                    ],
                    "modelsOwnedBy": "team-a",
                    "timeouts": {"request": "0s"},
                }
            ],
        },
    }


def test_llm_d_rewrites_the_model_also_where_a_client_names_a_version() -> None:
    names = ("team-a.headlines", "headlines", "headlines@3", "headlines@4")
    assert render_split(ENDPOINT, WEIGHTS, POOL) == {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": METADATA,
        "spec": {
            "poolRef": {
                "group": "inference.networking.k8s.io",
                "kind": "InferencePool",
                "name": "fronts",
            },
            "rules": [
                {
                    "matches": [{"model": {"type": "Exact", "value": name}} for name in names],
                    "targets": [
                        {"modelRewrite": "headlines@3", "weight": 95},
                        {"modelRewrite": "headlines@4", "weight": 5},
                    ],
                }
            ],
        },
    }


def test_envoy_ai_gateway_reaches_the_front_by_its_service() -> None:
    backend, service = render_gateway_parts("team-a", FRONT, AI)
    assert (backend["kind"], service["kind"]) == ("Backend", "AIServiceBackend")
    for each in (backend, service):
        assert each["metadata"]["name"] == "finetune-front"
        assert each["metadata"]["ownerReferences"] == [FRONT.reference()]
    address = {"hostname": "finetune-front.team-a.svc", "port": 80}
    assert backend["spec"] == {"endpoints": [{"fqdn": address}]}
    assert service["spec"]["backendRef"] == {
        "group": "gateway.envoyproxy.io",
        "kind": "Backend",
        "name": "finetune-front",
    }
    assert render_gateway_parts("team-a", FRONT, POOL) == []


@pytest.mark.parametrize(
    ("gateway", "kind"),
    [("", ""), (AI, "AIGatewayRoute"), (POOL, "InferenceModelRewrite")],
)
def test_the_setting_decides_on_the_kind(gateway: str, kind: str) -> None:
    assert kind_of(OperatorConfig(gateway=gateway).gateway) == kind


@pytest.mark.parametrize(
    "gateway", ["ai", "Gateway/ai", "Gateway/a/b/c", "InferencePool/a/b", "Service/a", "Gateway//a"]
)
def test_a_setting_without_kind_and_names_is_refused(gateway: str) -> None:
    with pytest.raises(ValidationError, match="gateway"):
        OperatorConfig(gateway=gateway)
