"""Names of servers: equal needs share one, and what is secret to one is not shared."""

from __future__ import annotations

import json

import pytest

from finetune_api.v1alpha1.spec.serving import Serve
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.server import render_server
from finetune_operator.finetuneendpoint.servers import Server, rank_class, server_of
from finetune_operator.finetuneendpoint.versions import published_version
from kit.builders.endpoints import NAMESPACE, published_job

CONFIG = OperatorConfig()


def server(
    serve=None, uid="uid-1", namespace=NAMESPACE, version=1, config=CONFIG, **spec
) -> Server:
    served = published_version(published_job(version, **spec), namespace)
    assert served is not None
    settings = Serve.model_validate(serve or {})
    return server_of(served, settings, config, namespace=namespace, endpoint_uid=uid)


def test_versions_of_one_base_model_share_a_server():
    assert server().name == server(version=7, uid="uid-2").name
    assert server().name.startswith("fts-")
    assert len(server().name) == len("fts-") + 24


@pytest.mark.parametrize(
    "serve",
    [
        {"replicas": {"min": 2, "max": 4}},
        {"engine": "VLLM"},
        {"resources": {"gpuResource": "nvidia.com/gpu"}},
    ],
)
def test_settings_of_scale_and_defaults_that_are_written_out_keep_the_server(serve):
    assert server(serve).name == server().name


@pytest.mark.parametrize(
    "serve",
    [
        {"engine": "Transformers"},
        {"image": "registry.example/vllm:2"},
        {"arguments": ["--max-model-len=4096"]},
        {"resources": {"gpus": 2}},
        {"maxAdapters": 8},
        {"queueName": "gpus"},
        {"nodeSelector": {"gpu": "h100"}},
        {"tolerations": [{"key": "gpu"}]},
        {"dedicated": True},
    ],
)
def test_other_settings_need_another_server(serve):
    assert server(serve).name != server().name


@pytest.mark.parametrize(
    "spec",
    [
        {"model": {"uri": "hf://org/other"}},
        {"model": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "v2"}},
        {"output": {"uri": "s3://models/team-a", "credentialsRef": {"name": "other"}}},
        {"s3": {"endpoint": "https://s3.example.org"}},
        {"method": {"adapter": {"type": "LoRA", "rank": 128}}},
        {"method": {"adapter": {"type": "Full"}}},
    ],
)
def test_another_base_model_storage_or_size_needs_another_server(spec):
    assert server(**spec).name != server().name


def test_outputs_that_the_same_credentials_open_share_a_server():
    elsewhere = {"uri": "s3://models/team-b", "credentialsRef": {"name": "store"}}
    assert server(output=elsewhere).name == server().name


def test_another_claim_needs_another_server_and_another_folder_of_it_does_not():
    one, other = ({"output": {"uri": f"pvc://{claim}/models"}} for claim in ("a", "b"))
    assert server(**one).name != server(**other).name
    assert server(**one).name == server(output={"uri": "pvc://a/other"}).name


def test_dedicated_servers_of_two_endpoints_differ():
    dedicated = {"dedicated": True}
    assert server(dedicated, uid="uid-1").name != server(dedicated, uid="uid-2").name


def test_whole_weights_have_a_server_for_each_version():
    full = {"method": {"adapter": {"type": "Full"}}}
    assert server(version=1, **full).name != server(version=2, **full).name


def test_another_namespace_has_other_names():
    assert server(namespace="team-b").name != server().name


@pytest.mark.parametrize(("rank", "class_"), [(1, 64), (64, 64), (65, 128), (300, 320), (512, 512)])
def test_a_server_takes_ranks_up_to_its_class(rank, class_):
    assert rank_class(rank) == class_


OTHER_SETTINGS = {
    "trainer_image": "trainer:2",
    "trainer_image_pull_policy": "Always",
    "image_pull_secrets": ["pull"],
    "vllm_image": "vllm:2",
    "vllm_arguments": ["--gpu-memory-utilization=0.8"],
    "agent_cpu": "2",
    "agent_memory": "3Gi",
    "default_cpu": "7",
    "default_cpu_per_gpu": "9",
    "default_memory": "21Gi",
    "default_memory_per_gpu": "33Gi",
    "default_shared_memory": "5Gi",
    "default_node_selector": {"gpu": "h200"},
    "default_tolerations": [{"key": "gpu"}],
    "scratch_size": "50Gi",
    "scratch_request": "3Gi",
    "cache_claim": "models",
    "trainer_environment": {"HF_ENDPOINT": "https://hub.example"},
    "allow_trust_remote_code": True,
    "allow_cpu": True,
    "garak_image": "garak:1",
    "front_replicas": 3,
    "prepare_cpu": "3",
}


@pytest.mark.parametrize("serve", [{}, {"engine": "Transformers"}, {"resources": {"gpus": 4}}])
@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_settings_of_the_administrator_that_change_the_pods_need_another_server(name, serve):
    config = CONFIG.model_validate({**CONFIG.model_dump(), name: OTHER_SETTINGS[name]})
    before, after = server(serve), server(serve, config=config)

    def pods_of(made, settings):
        # Under one name, of which labels and variables have copies.
        text = json.dumps(render_server(made, made.serve.replicas, [], settings)["spec"])
        return text.replace(made.name, "NAME")

    changes_pods = pods_of(before, CONFIG) != pods_of(after, config)
    assert (before.name != after.name) == changes_pods
