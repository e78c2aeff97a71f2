"""Rules on ``resources.network``: what needs GPUs, and one place for each variable of NCCL."""

from __future__ import annotations

from finetune_api.rule import Rule
from finetune_api.v1alpha1.spec.resources import NETWORK_VARIABLES

_NETWORK = "self.resources.network"
_IS_SET = {
    "interface": f"has({_NETWORK}.interface)",
    "rdmaDevices": f"has({_NETWORK}.rdmaDevices) && size({_NETWORK}.rdmaDevices) > 0",
    "debug": f"{_NETWORK}.debug != 'Off'",
}
"""CEL that a field sets its variable."""
_SETS = " || ".join(
    f"(e.name == '{variable}' && {_IS_SET[field]})" for field, variable in NETWORK_VARIABLES.items()
)

NETWORK_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            f"!has({_NETWORK}) || self.resources.gpusPerNode > 0 || "
            f"!(({_IS_SET['rdmaDevices']}) || {_IS_SET['debug']})"
        ),
        message=(
            "resources.network.rdmaDevices and debug are for NCCL, which needs GPUs: set "
            "resources.gpusPerNode, or leave them out"
        ),
        field="resources.network",
        check=lambda s: (
            s.resources.network is None
            or s.resources.gpus_per_node > 0
            or not (s.resources.network.rdma_devices or s.resources.network.debug != "Off")
        ),
    ),
    Rule(
        rule=(
            f"!has({_NETWORK}) || !has(self.podTemplate) || !has(self.podTemplate.env) || "
            f"!self.podTemplate.env.exists(e, {_SETS})"
        ),
        message=(
            "podTemplate.env and resources.network set the same variable (interface: "
            "NCCL_SOCKET_IFNAME, rdmaDevices: NCCL_IB_HCA, debug: NCCL_DEBUG): remove one of them"
        ),
        field="podTemplate.env",
        check=lambda s: (
            s.resources.network is None
            or s.pod_template is None
            or s.resources.network.environment.keys().isdisjoint(v.name for v in s.pod_template.env)
        ),
    ),
)
