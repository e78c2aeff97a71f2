"""How the ranks' pods are told of the network."""

from __future__ import annotations

import pytest

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.pod import render_pod_template
from kit.builders.jobs import job

NAMES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_DEBUG")
ALL = {"interface": "^docker0,virbr", "rdmaDevices": ["mlx5_0", "mlx5_1:1"], "debug": "Warn"}


def told(network, *, stage=Stage.TRAIN, nodes=2, env=(), **settings):
    """Return the network's variables of a stage's pods."""
    resources = {"nodes": nodes, "gpusPerNode": 8}
    if network is not None:
        resources["network"] = network
    template = {"env": [{"name": name, "value": value} for name, value in env]}
    spec = FineTuneJob.from_wire(job(resources=resources, podTemplate=template)).spec
    owner = Owner(namespace="n", name="j", uid="u")
    pod = render_pod_template(spec, stage, owner, OperatorConfig(**settings))["spec"]
    found = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    return {name: found[name] for name in NAMES if name in found}


@pytest.mark.parametrize("nodes", [1, 2])
def test_every_field_sets_its_variable_on_one_node_and_on_several(nodes):
    assert told(ALL, nodes=nodes) == {
        "NCCL_SOCKET_IFNAME": "^docker0,virbr,lo",
        "NCCL_IB_HCA": "=mlx5_0,mlx5_1:1",
        "NCCL_DEBUG": "WARN",
    }


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.TRAIN])
def test_stages_without_ranks_are_told_nothing(stage):
    assert told(ALL, stage=stage, default_network_interface="eth0") == {}


@pytest.mark.parametrize(
    ("network", "env", "settings", "expected"),
    [
        (None, (), {}, None),
        ({"debug": "Off"}, (), {}, None),
        ({"interface": "eth,bond0"}, (), {}, "eth,bond0"),
        ({"interface": "^=docker0"}, (), {}, "^=docker0,lo"),
        (None, (), {"default_network_interface": "^docker"}, "^docker,lo"),
        ({"interface": "net1"}, (), {"default_network_interface": "eth0"}, "net1"),
        (None, (("NCCL_SOCKET_IFNAME", "net2"),), {"default_network_interface": "eth0"}, "net2"),
        (None, (), {"default_network_interface": "a0",
                    "trainer_environment": {"NCCL_SOCKET_IFNAME": "b0"}}, "b0"),
    ],
)  # fmt: skip
def test_a_job_stands_above_the_default_and_below_the_administrator(
    network, env, settings, expected
):
    assert told(network, env=env, **settings).get("NCCL_SOCKET_IFNAME") == expected
