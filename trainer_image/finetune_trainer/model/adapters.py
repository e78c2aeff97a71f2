"""Turns ``spec.method.adapter`` into a PEFT configuration and checks it against the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import UserError
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import choose_targets, find_expert_names, reaches_experts

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedModel

ALL_LINEAR = "all-linear"
AUTO = "auto"
STATE_SPACE_TYPES = frozenset({"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"})
FUSED_IN_STATE_SPACE = ("conv1d", "out_proj")
"""Model types, and their modules that PEFT refuses to adapt: their kernels bypass an adapter.
Source: ``_check_lora_target_modules_mamba`` of PEFT 0.21."""


def name_targets(adapter: Adapter, model: Architecture) -> Adapter:
    """Return the adapter with the modules that ``auto`` means for this model."""
    targets = list(choose_targets(adapter.target_modules, model))
    return adapter.model_copy(update={"target_modules": targets})


def linear_module_names(model: nn.Module) -> dict[str, int]:
    """Count the linear modules of ``model`` by the last part of their names, without the head."""
    from torch import nn

    counts: dict[str, int] = {}
    for name, module in model.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if is_linear and leaf != "lm_head":
            counts[leaf] = counts.get(leaf, 0) + 1
    return counts


def check_target_names(adapter: Adapter, model_type: str) -> None:
    """Refuse names that mean a mixture's stacked experts to PEFT, before the model is loaded.

    Raises:
        UserError: Names them.
    """
    names = find_expert_names(model_type, adapter.target_modules)
    if names and adapter.type != "Full":
        raise UserError(
            "InvalidTargetModules",
            f"method.adapter.targetModules: in this mixture ({model_type}) PEFT takes "
            f"{', '.join(names)} for the experts or their router, and dense layers and shared "
            "experts of these names get no adapter; write [all-linear] for the experts too, or "
            "only other names, such as those of attention ([auto] takes them)",
        )


def check_target_modules(adapter: Adapter, model: nn.Module) -> None:
    """Refuse targets that match nothing, or other modules than they name.

    Raises:
        UserError: Names the ``targetModules`` without a match; lists the modules there are.
    """
    if adapter.type == "Full" or adapter.target_modules == [ALL_LINEAR]:
        return
    check_target_names(adapter, _kind_of(model))
    counts = linear_module_names(model)
    known = sorted(counts.keys() - find_expert_names(_kind_of(model), counts))
    names = [name for name, _ in _named_modules(model)]
    missing = [
        target
        for target in adapter.target_modules
        if not any(name == target or name.endswith("." + target) for name in names)
    ]
    if alone := [word for word in (ALL_LINEAR, AUTO) if word in missing]:
        raise UserError(
            "InvalidTargetModules",
            f"method.adapter.targetModules {adapter.target_modules}: {alone[0]} stands alone; "
            "drop the other names",
        )
    if missing:
        raise UserError(
            "NoMatchingModules",
            f"method.adapter.targetModules: {', '.join(map(repr, missing))} matches no module of "
            f"the base model; its linear modules are {', '.join(known)} (or use "
            f"{ALL_LINEAR})",
        )
    fused = sorted({t.rsplit(".", 1)[-1] for t in adapter.target_modules} & set(_excluded(model)))
    if fused:
        raise UserError(
            "InvalidTargetModules",
            f"method.adapter.targetModules: {', '.join(fused)} of a model with state-space layers "
            f"cannot carry an adapter (its kernels read the weights directly); leave it out, or "
            f"use {ALL_LINEAR}, which does",
        )
    heads = [target for target in adapter.target_modules if target == "lm_head"]
    if heads:
        raise UserError(
            "InvalidTargetModules",
            "method.adapter.targetModules: lm_head cannot carry an adapter (the loss never "
            "materialises its output); leave it out",
        )


def check_saved_modules(adapter: Adapter, model: PreTrainedModel) -> None:
    """Refuse modules to be trained whole that are not there or cannot be.

    Raises:
        UserError: A name in ``modulesToSave`` matches no module, or a tied one, or one that also
            gets an adapter.
    """
    leaves = [name for name, module in _named_modules(model) if not list(module.children())]
    for wanted in adapter.modules_to_save:
        field, leaf = f"method.adapter.modulesToSave: {wanted!r}", wanted.rsplit(".", 1)[-1]
        matching = [name for name in leaves if name == wanted or name.endswith("." + wanted)]
        if not matching:
            known = sorted({name.rsplit(".", 1)[-1] for name in leaves})
            raise UserError(
                "NoMatchingModules",
                f"{field} matches no module of the base model; it has {', '.join(known)}",
            )
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        is_tied = head is not None and head.weight is embeddings.weight
        modules = [model.get_submodule(name) for name in matching]
        if is_tied and any(module is head or module is embeddings for module in modules):
            raise UserError(
                "TiedModules",
                f"{field}: the base model ties its embeddings to its output head, and training "
                "one would part them; leave it out",
            )
        # Of the names that mean experts, PEFT adapts only the router's module itself.
        is_expert = find_expert_names(_kind_of(model), [leaf])
        is_linear = leaf == "gate" if is_expert else leaf in linear_module_names(model)
        if wanted in adapter.target_modules or (
            adapter.target_modules == [ALL_LINEAR] and is_linear
        ):
            raise UserError(
                "InvalidModulesToSave",
                f"{field} gets an adapter by method.adapter.targetModules; name it in one of them",
            )


def _named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules but stacked experts, which cannot be named to PEFT."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] != "experts":
            yield name, module


def _kind_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def _excluded(model: nn.Module) -> tuple[str, ...]:
    """Return the modules that ``all-linear`` has to leave out of this model."""
    return FUSED_IN_STATE_SPACE if _kind_of(model) in STATE_SPACE_TYPES else ()


def has_fused_experts(model: nn.Module) -> bool:
    """Whether the model keeps the weights of all experts of a layer in one parameter."""
    return any(
        parameter.ndim == 3 and "experts" in name.split(".")
        for name, parameter in model.named_parameters()
    )


def adapts_experts(adapter: Adapter, model: nn.Module) -> bool:
    """Whether the adapter changes the model's fused experts."""
    targets = tuple(adapter.target_modules)
    return has_fused_experts(model) and reaches_experts(_kind_of(model), targets)


def decide_dropout(adapter: Adapter, model: nn.Module) -> float:
    """Return the dropout on the adapter's input, or 0 where PEFT cannot apply it.

    Fused experts have no such input (``ParamWrapper``).
    """
    return 0.0 if adapts_experts(adapter, model) else float(adapter.dropout)


def _name_saved(adapter: Adapter, model: nn.Module) -> list[str]:
    """Return names of whole modules that PEFT takes for no other module.

    PEFT matches ends of names: ``norm`` would train ``input_layernorm`` too. Then full names are
    given.
    """
    names = [name for name, _ in model.named_modules()]
    found: set[str] = set()
    for wanted in adapter.modules_to_save:
        meant = {name for name in names if name == wanted or name.endswith("." + wanted)}
        taken = {name for name in names if name.endswith(wanted)}
        found |= {wanted} if taken == meant else meant
    return sorted(found)


def build_lora_config(adapter: Adapter, model: nn.Module) -> LoraConfig | None:
    """Build the PEFT configuration for a model, or None for full fine-tuning."""
    if adapter.type == "Full":
        return None
    from peft import LoraConfig

    targets: str | list[str] = sorted(adapter.target_modules)
    excluded: list[str] | None = None
    if adapter.target_modules == [ALL_LINEAR]:
        targets = ALL_LINEAR
        excluded = list(_excluded(model)) or None
    return LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=decide_dropout(adapter, model),
        target_modules=targets,
        exclude_modules=excluded,
        use_dora=adapter.type == "DoRA",
        use_rslora=adapter.type == "RsLoRA",
        bias="none",
        modules_to_save=_name_saved(adapter, model) or None,
        task_type="CAUSAL_LM",
    )


def keep_input_types(model: nn.Module) -> int:
    """Let adapters take inputs as they come, where autocast gives both factors one type anyway.

    PEFT widens each bfloat16 input to the adapter's float32, and autocast narrows it again: the
    same bytes, after a copy that autograd keeps. Dropout would round otherwise, and DoRA computes
    norms from the input, so both keep the copy.

    Returns:
        Layers that take their input as it comes.
    """
    from peft.tuners.lora import Linear

    layers = [each for each in model.modules() if isinstance(each, Linear)]
    found = [
        each
        for each in layers
        if not each.lora_variant
        and all(not getattr(drop, "p", 0.0) for drop in each.lora_dropout.values())
    ]
    for layer in found:
        layer.cast_input_dtype_enabled = False
    return len(found)


def compute_updates_as_trained(model: nn.Module) -> None:
    """Compute LoRA's updates in the type of the weights that they are added to, as training does.

    PEFT loads them in float32 and would convert every layer's input. DoRA's norms, modules of
    ``modulesToSave``, and updates of 4-bit weights and fused experts keep their type.
    """
    from peft.tuners.lora import Linear

    for layer in model.modules():
        if not isinstance(layer, Linear):
            continue
        dtype = layer.get_base_layer().weight.dtype
        for name in layer.lora_A.keys() - layer.lora_variant.keys():
            layer.lora_A[name].to(dtype)
            layer.lora_B[name].to(dtype)
