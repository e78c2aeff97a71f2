"""Which modules get an adapter, on models whose modules cannot all carry one."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import FalconH1Config, FalconH1ForCausalLM

from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import UserError
from finetune_trainer.model.adapters import (
    build_lora_config,
    check_saved_modules,
    check_target_modules,
    compute_updates_as_trained,
    keep_input_types,
    name_targets,
)
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.planning.experts import ADAPTED_EXPERTS, find_expert_names
from finetune_trainer.planning.headers import Stored

pytestmark = pytest.mark.slow  # it needs torch


@pytest.fixture
def hybrid() -> Any:
    """A tiny model of attention and state-space layers."""
    return FalconH1ForCausalLM(
        FalconH1Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            mamba_d_ssm=32,
            mamba_n_heads=2,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=16,
        )
    )


def test_all_linear_leaves_out_what_kernels_read_past_the_adapter(hybrid: Any) -> None:
    from peft import get_peft_model

    adapted = get_peft_model(
        hybrid, build_lora_config(Adapter(target_modules=["all-linear"]), hybrid)
    )
    names = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert any("in_proj" in name for name in names)
    assert any("o_proj" in name for name in names)
    assert not any("out_proj" in name for name in names)


def test_such_a_module_cannot_be_asked_for(hybrid: Any) -> None:
    with pytest.raises(UserError, match="out_proj"):
        check_target_modules(Adapter(target_modules=["in_proj", "out_proj"]), hybrid)


def make_mixture(family: str) -> Any:
    """A tiny mixture of experts."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    }
    kinds = {"mixtral": transformers.MixtralConfig, "gpt_oss": transformers.GptOssConfig}
    return transformers.AutoModelForCausalLM.from_config(kinds[family](**sizes))


@pytest.mark.parametrize(("family", "reached"), [("mixtral", True), ("gpt_oss", False)])
@pytest.mark.filterwarnings("ignore")  # of shapes smaller than real ones
def test_dropout_is_left_out_only_where_experts_get_an_adapter(family: str, reached: bool) -> None:
    from peft import get_peft_model

    model = make_mixture(family)
    config = build_lora_config(Adapter(target_modules=["all-linear"], dropout="0.05"), model)
    assert config is not None
    assert config.lora_dropout == (0.0 if reached else 0.05)
    adapted = get_peft_model(model, config)
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert any("self_attn" in name for name in names)
    assert any("experts" in name for name in names) is reached


@pytest.mark.parametrize(("family", "is_left_out"), [("mixtral", True), ("gpt_oss", False)])
@pytest.mark.filterwarnings("ignore")  # of shapes smaller than real ones
def test_by_default_only_attention_of_a_mixture_gets_an_adapter(
    family: str, is_left_out: bool
) -> None:
    from peft import get_peft_model

    model = make_mixture(family)
    shapes = {name: Stored(tuple(each.shape), "F32") for name, each in model.named_parameters()}
    adapter = name_targets(
        Adapter(dropout="0.05"), describe_architecture(model.config.to_dict(), shapes)
    )
    assert (adapter.target_modules == ["all-linear"]) is not is_left_out
    check_target_modules(adapter, model)
    config = build_lora_config(adapter, model)
    assert config is not None
    assert config.lora_dropout == 0.05
    adapted = get_peft_model(model, config)
    names = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert {name.split(".self_attn.")[1].split(".")[0] for name in names} == {
        "q_proj", "k_proj", "v_proj", "o_proj",
    }  # fmt: skip


def test_a_word_for_several_modules_stands_alone() -> None:
    for word in ("all-linear", "auto"):
        adapter = Adapter(target_modules=["q_proj", word])
        with pytest.raises(UserError, match=f"{word} stands alone") as refused:
            check_target_modules(adapter, make_mixture("mixtral"))
        assert refused.value.reason == "InvalidTargetModules"


def test_the_list_of_families_with_adapted_experts_is_that_of_the_installed_peft() -> None:
    from peft.utils import transformers_weight_conversion as conversion

    families = conversion._MODEL_TO_CONVERSION_PATTERN.items()
    known = {kind for kind, pattern in families if pattern in conversion._MOE_FUSED_TARGETS}
    assert {kind for kind in known if kind.islower()} == ADAPTED_EXPERTS
    names = {name for each in conversion._MOE_TARGET_MODULE_MAPPING.values() for name in each}
    assert set(find_expert_names("mixtral", ["q_proj", "shared_expert_gate", *names])) == names


EXPERTS = ["down_proj", "gate_proj", "up_proj"]


def make_layered(family: str) -> Any:
    """A tiny model; a mixture has a dense layer, and shared experts where the family has them."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    more: dict[str, dict[str, Any]] = {
        "mixtral": {"num_local_experts": 4},
        "qwen3_moe": {"num_experts": 4, "mlp_only_layers": [0]},
        "qwen2_moe": {"num_experts": 4, "shared_expert_intermediate_size": 16},
        "gpt_oss": {"num_local_experts": 4},
        "deepseek_v3": {
            "n_routed_experts": 4, "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
            "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
            "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
        },
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(family, **sizes, **more.get(family, {}))
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("family", "targets", "problem"),
    [
        ("deepseek_v3", ["o_proj", *EXPERTS], "(deepseek_v3) PEFT takes down_proj, gate_proj, up_"),
        ("deepseek_v3", ["mlp.gate_proj", "mlp.up_proj"], "mlp.gate_proj, mlp.up_proj for the exp"),
        ("deepseek_v3", ["shared_experts.down_proj"], "shared_experts.down_proj for the experts"),
        ("deepseek_v3", ["q_projs"], "linear modules are kv_a_proj_with_mqa, kv_b_proj, o_proj, q"),
        ("deepseek_v3", ["o_proj", "kv_b_proj"], None),
        ("qwen3_moe", ["o_proj", *EXPERTS], "write [all-linear] for the experts too"),
        ("qwen3_moe", ["model.layers.0.mlp.down_proj"], "PEFT takes model.layers.0.mlp.down_proj"),
        ("qwen3_moe", ["o_proj", "mlp.gate"], "PEFT takes mlp.gate for the experts or their rout"),
        ("qwen3_moe", ["q_proj", "experts"], "'experts' matches no module"),
        ("qwen3_moe", ["q_proj"], None),
        ("mixtral", ["w1", "w2", "w3"], "(mixtral) PEFT takes w1, w2, w3 for the experts"),
        ("mixtral", ["q_proj", "o_proj"], None),
        ("qwen2_moe", ["o_proj", *EXPERTS], None),
        ("gpt_oss", ["o_proj", "experts"], "'experts' matches no module"),
        ("gpt_oss", ["o_proj", "k_proj"], None),
        ("llama", ["o_proj", *EXPERTS], None),
        ("llama", ["mlp.gate_proj"], None),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of shapes smaller than real ones
def test_an_adapter_changes_the_modules_that_are_named_or_is_refused(
    family: str, targets: list[str], problem: str | None
) -> None:
    from peft import get_peft_model

    model, adapter = make_layered(family), Adapter(target_modules=targets)
    if problem:
        with pytest.raises(UserError, match=re.escape(problem)):
            check_target_modules(adapter, model)
        return
    check_target_modules(adapter, model)
    linear = {name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear)}
    named = {name for name in linear if any(name.endswith("." + each) for each in targets)}
    adapted = get_peft_model(model, build_lora_config(adapter, model))
    found = {name for name, each in adapted.named_parameters() if each.requires_grad}
    found = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in found}
    assert found == named


@pytest.mark.parametrize(
    ("family", "targets", "saved", "problem"),
    [
        ("qwen3_moe", ["all-linear"], "gate", "'gate' gets an adapter"),
        ("qwen3_moe", ["all-linear"], "mlp.gate_proj", None),
        ("deepseek_v3", ["all-linear"], "down_proj", None),
        ("llama", ["all-linear"], "mlp.gate_proj", "'mlp.gate_proj' gets an adapter"),
        ("qwen3_moe", ["q_proj"], "experts", "'experts' matches no module"),
        ("qwen3_moe", ["q_proj"], "gate", None),
        ("gpt_oss", ["q_proj"], "mlp.experts", "'mlp.experts' matches no module"),
        ("deepseek_v3", ["o_proj"], "mlp.gate_proj", None),
        ("llama", ["q_proj"], "down_proj", None),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of shapes smaller than real ones
def test_experts_are_never_trained_whole_beside_an_adapter(
    family: str, targets: list[str], saved: str, problem: str | None
) -> None:
    from peft import get_peft_model

    model, adapter = make_layered(family), Adapter(target_modules=targets, modules_to_save=[saved])
    if problem:
        with pytest.raises(UserError, match=problem):
            check_saved_modules(adapter, model)
        return
    check_saved_modules(adapter, model)
    adapted = get_peft_model(model, build_lora_config(adapter, model))
    found = {name for name, each in adapted.named_parameters() if each.requires_grad}
    whole = {name for name in found if f".{saved}.modules_to_save" in name}
    assert whole
    assert all("lora_" in name for name in found - whole)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("norm", ["model.norm"]),  # input_layernorm ends so too
        ("model.norm", ["model.norm"]),
        ("lm_head", ["lm_head"]),
        ("input_layernorm", ["input_layernorm"]),
    ],
)
def test_a_whole_module_is_named_so_that_peft_takes_no_other(wanted: str, named: list[str]) -> None:
    adapter = Adapter(target_modules=["all-linear"], modules_to_save=[wanted])
    config = build_lora_config(adapter, make_mixture("mixtral"))
    assert config is not None
    assert config.modules_to_save == named


def adapt(kind: Any, dtype: torch.dtype, **settings: Any) -> Any:
    """A tiny model with an adapter that changes its answers, loaded as PEFT does."""
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, **heads)).to(dtype)
    adapter = Adapter(type=kind, target_modules=["all-linear"], **settings)
    model = get_peft_model(base, build_lora_config(adapter, base)).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


@torch.no_grad()
def test_updates_are_computed_exactly_as_training_validates() -> None:
    model, ids = adapt("RsLoRA", torch.bfloat16), torch.arange(40).reshape(2, 20)
    with torch.autocast("cpu", torch.bfloat16):
        trained = model(ids).logits
    in_float32 = model(ids).logits
    compute_updates_as_trained(model)
    assert torch.equal(model(ids).logits, trained)
    assert not torch.equal(in_float32, trained)


@pytest.mark.parametrize(
    ("kind", "weights", "updates"),
    [
        ("LoRA", torch.bfloat16, torch.bfloat16),
        ("LoRA", torch.float32, torch.float32),
        ("DoRA", torch.bfloat16, torch.float32),
    ],
)
def test_updates_take_the_type_of_weights_but_not_where_norms_are_taken(
    kind: str, weights: torch.dtype, updates: torch.dtype
) -> None:
    model = adapt(kind, weights)
    compute_updates_as_trained(model)
    adapter = {name: p.dtype for name, p in model.named_parameters() if "lora_" in name}
    assert adapter
    assert set(adapter.values()) == {updates}


def learn(model: Any) -> tuple[dict[str, torch.Tensor], int]:
    """Take three steps in bfloat16; return what was learned and the bytes that autograd held."""
    ids = torch.arange(40).reshape(2, 20)
    held: dict[int, int] = {}

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    torch.manual_seed(1)
    for _ in range(3):
        held.clear()
        hooks = torch.autograd.graph.saved_tensors_hooks(weigh, lambda each: each)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return trained, sum(held.values())


def test_inputs_that_stay_narrow_teach_the_same_bytes_in_less_memory() -> None:
    plain = adapt("LoRA", torch.bfloat16, dropout="0").train()
    light = adapt("LoRA", torch.bfloat16, dropout="0").train()
    assert keep_input_types(light) == 14
    expected, all_bytes = learn(plain)
    learned, fewer_bytes = learn(light)
    assert all(torch.equal(learned[name], weight) for name, weight in expected.items())
    assert fewer_bytes < 0.95 * all_bytes


@pytest.mark.parametrize(("kind", "dropout"), [("LoRA", "0.05"), ("DoRA", "0")])
def test_inputs_that_round_otherwise_are_widened_as_before(kind: str, dropout: str) -> None:
    assert keep_input_types(adapt(kind, torch.bfloat16, dropout=dropout)) == 0
