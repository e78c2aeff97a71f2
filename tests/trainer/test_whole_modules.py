"""Modules that are trained whole beside an adapter learn in float32, whatever the base is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.model.adapters import build_lora_config
from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.ranks.whole import train_in_float32
from kit.models.measured_trainer import Case, make_trainer
from kit.processes.ranks import run_ranks

SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODULES = ("norm", "embed_tokens", "lm_head")


def make_base(dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZE, tie_word_embeddings=False)
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype)


def make_case(*, bfloat16: bool = True) -> Case:
    setup = Setup(use_gpu=False, rank=2, saved_modules=MODULES, bfloat16=bfloat16)
    return Case(family="llama", rows=2, length=8, setup=setup)


@pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
def test_weights_near_one_move_at_the_rates_of_adapters(tmp_path: Path) -> None:
    trainer = make_trainer(make_case(), make_base(torch.bfloat16), tmp_path)
    kinds: set[torch.dtype] = set()
    trainer.model.get_base_model().model.layers[1].register_forward_pre_hook(
        lambda _, inputs: kinds.add(inputs[0].dtype)
    )
    trainer.train()
    assert kinds == {torch.bfloat16}  # the model itself computes as without them
    trainer.model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    norm = saved["base_model.model.model.norm.weight"]
    # Two steps of 1e-4 from 1: in bfloat16, whose neighbours of 1 lie 4e-3 and 8e-3 away, none.
    assert norm.dtype == torch.float32
    assert 0 < (norm - 1).abs().max() < 1e-3
    for name in ("model.embed_tokens", "lm_head"):
        assert saved[f"base_model.model.{name}.weight"].dtype == torch.float32


@pytest.mark.filterwarnings("ignore")
def test_the_base_stays_as_it_is_behind_them(tmp_path: Path) -> None:
    base = make_base(torch.bfloat16)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trainer = make_trainer(make_case(), base, tmp_path)
    trainer.train()
    for name in MODULES:
        module = next(m for n, m in trainer.model.named_modules() if n.endswith("." + name))
        kept = module.original_module.weight
        assert kept.dtype == torch.bfloat16
        stored = next(value for key, value in before.items() if key.endswith(f"{name}.weight"))
        assert torch.equal(kept, stored)


@pytest.mark.parametrize(
    ("dtype", "kind", "strategy", "num_widened"),
    [
        (torch.bfloat16, "LoRA", "DDP", 3),
        (torch.bfloat16, "LoRA", "FSDP2", 3),
        (torch.bfloat16, "QLoRA", "DDP", 3),
        # FSDP2 takes trained weights of one type, and the adapter of a 4-bit base is bfloat16.
        (torch.bfloat16, "QLoRA", "FSDP2", 0),
        # DeepSpeed keeps float32 copies, and refuses trained weights of two types.
        (torch.bfloat16, "LoRA", "ZeRO3", 0),
        (torch.float32, "LoRA", "DDP", 0),
    ],
)
def test_only_narrow_modules_without_other_copies_are_widened(
    dtype: torch.dtype, kind: str, strategy: str, num_widened: int
) -> None:
    from peft import get_peft_model

    base = make_base(dtype)
    adapter = Adapter(rank=2, target_modules=["q_proj"], modules_to_save=list(MODULES))
    model = get_peft_model(base, build_lora_config(adapter, base))
    assert train_in_float32(model, adapter=kind, strategy=strategy) == num_widened
    assert train_in_float32(make_base(dtype), adapter=kind, strategy=strategy) == 0


@pytest.mark.filterwarnings("ignore")
def test_every_weight_beside_a_4_bit_base_moves_at_the_rates_of_adapters(tmp_path: Path) -> None:
    base = make_base(torch.bfloat16)
    base.is_loaded_in_4bit = True  # so that TRL makes the adapter bfloat16
    setup = Setup(use_gpu=False, adapter="QLoRA", rank=4, dropout=False)
    trainer = make_trainer(Case(family="llama", rows=2, length=8, setup=setup), base, tmp_path)
    base.is_loaded_in_4bit = False  # else transformers asks bitsandbytes for its size
    trainer.args.learning_rate, trainer.args.warmup_steps = 2.9e-5, 0
    weights = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    for weight in weights.values():
        torch.nn.init.normal_(weight, std=0.02)  # as after some training: B begins at 0
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    trainer.train()
    unmoved = sum(int((weights[name] == old).sum()) for name, old in before.items())
    assert unmoved / sum(old.numel() for old in before.values()) < 0.01
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.parametrize(
    "base",
    [
        "bfloat16",
        "4 bits",
    ],
)
def test_ranks_that_share_gradients_move_every_weight_of_a_float32_adapter(
    tmp_path: Path, tiny_model: Path, base: str
) -> None:
    """In the type that TRL chooses a large part of the weights does not move."""
    kind = base if base == "bfloat16" else str(tiny_model)
    first, second = run_ranks("kit.models.two_rank_adapter", str(tmp_path), kind)
    assert first == second
    ours, theirs = first
    assert (ours["num_ranks"], ours["types"]) == (2, ["torch.float32"])
    assert ours["unmoved"] < 0.01
    assert theirs["types"] == ["torch.bfloat16"]
    assert theirs["unmoved"] > 0.3
