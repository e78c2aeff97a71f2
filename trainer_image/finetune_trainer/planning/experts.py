"""Mixtures whose experts an adapter reaches, and what it changes where the job leaves that open."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_trainer.planning.architecture import Architecture

ALL_LINEAR = ("all-linear",)
OPEN_CHOICES = ((), ("auto",))
"""Targets of a job that leaves the choice open. The API server stores no default of its own, so a
job that an older operator starts keeps that one's."""

ADAPTED_EXPERTS = frozenset(
    (
        "afmoe", "beam", "cohere2_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1",
        "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe", "glm4_moe_lite", "glm4v_moe",
        "glm_moe_dsa", "hunyuan_v1_moe", "longcat_flash", "mellum", "minimax", "minimax_m2",
        "mixtral", "olmoe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_omni_moe_text",
        "qwen3_omni_moe_thinker", "solar_open",
    )
)  # fmt: skip
"""Model types whose experts PEFT adapts under ``all-linear``: those that kept them as linear layers
in transformers 4. Of the others (gpt-oss, Llama 4, Qwen2-MoE) they are parameters to it, which
``all-linear`` does not name.

Source: ``_convert_peft_config_moe`` of PEFT 0.21, which a test compares this with."""
_EXPERT_NAMES = frozenset(("down_proj", "gate", "gate_proj", "up_proj", "w1", "w2", "w3"))
"""Last parts of names that PEFT takes for experts or router of these model types, wherever found.

Source: ``_MOE_TARGET_MODULE_MAPPING`` of PEFT 0.21, which a test compares this with."""


def find_expert_names(model_type: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that PEFT takes for a mixture's experts or router.

    Dense layers and shared experts of these names get no adapter then.
    """
    if model_type not in ADAPTED_EXPERTS:
        return ()
    return tuple(name for name in names if name.rsplit(".", 1)[-1] in _EXPERT_NAMES)


def reaches_experts(model_type: str, targets: tuple[str, ...]) -> bool:
    """Whether an adapter with these targets changes a mixture's experts or router."""
    if targets == ALL_LINEAR:
        return model_type in ADAPTED_EXPERTS
    return bool(find_expert_names(model_type, targets))


def choose_targets(asked: Iterable[str], model: Architecture) -> tuple[str, ...]:
    """Return the names of the adapted modules, or ``all-linear``.

    An open choice leaves out the stacked experts of a mixture that ``all-linear`` would reach:
    their adapters are as large as a model, and know no dropout.
    """
    targets = tuple(asked)
    if targets not in OPEN_CHOICES:
        return targets
    if reaches_experts(model.model_type, ALL_LINEAR) and model.num_experts:
        return model.attention_names or ALL_LINEAR
    return ALL_LINEAR


def trains_router(model_type: str, adapter: str, targets: tuple[str, ...]) -> bool:
    """Whether a run changes how a mixture chooses its experts."""
    return adapter == "Full" or reaches_experts(model_type, targets)
