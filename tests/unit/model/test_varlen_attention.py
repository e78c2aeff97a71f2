"""Attention by boundaries computes what SDPA computes with a block-diagonal mask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from finetune_trainer.errors import UserError
from finetune_trainer.model.adapters import name_targets
from finetune_trainer.model.kernels import varlen_attention
from finetune_trainer.model.kernels.attention import (
    VARLEN_FAMILIES,
    AttentionSupport,
    explain_varlen,
)
from finetune_trainer.model.kernels.varlen_attention import (
    NAME,
    attend_by_boundaries,
    attend_one_by_one,
    find_fault,
    register_varlen,
)
from finetune_trainer.model.load import load_model, read_model_architecture
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.train.ranks.outcome import name_attention
from finetune_trainer.train.ranks.start import load_base
from unit.trainer.test_estimate import resolved

ROWS = [[3 + (i * 7 + j) % 50 for j in range(length)] for i, length in enumerate((5, 1, 9))]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
EXTRA: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": EXPERTS,
    "gemma3_text": {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
}
MODEL = Architecture(
    model_type="llama",
    num_layers=2,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=1000,
    num_parameters=10**9,
    linears=(),
)

pytestmark = pytest.mark.slow  # it needs torch


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_varlen(attend_one_by_one)


def make_model(family: str) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **SIZES, **EXTRA.get(family, {}))
    config._attn_implementation = "sdpa"
    return transformers.AutoModelForCausalLM.from_config(config)


def run(model: Any, implementation: str, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Return the logits and the gradients of one loss."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    logits = model(**batch, use_cache=False).logits
    logits.square().mean().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def join(**settings: Any) -> dict[str, Any]:
    collate = DataCollatorForLanguageModeling(pad_token_id=0, **settings)
    batch: dict[str, Any] = collate([{"input_ids": ids} for ids in ROWS])
    del batch["labels"]
    return batch


@pytest.mark.parametrize("family", sorted(VARLEN_FAMILIES))
def test_joined_examples_have_the_logits_and_gradients_of_sdpa(family: str) -> None:
    model, batch = make_model(family), join(padding_free=True)
    for ours, theirs in zip(run(model, NAME, batch), run(model, "sdpa", batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_boundaries_are_read_from_positions_where_none_are_handed_over() -> None:
    model, batch = make_model("llama"), join(padding_free=True)
    bare = {name: batch[name] for name in ("input_ids", "position_ids")}
    torch.testing.assert_close(run(model, NAME, bare)[0], run(model, "sdpa", batch)[0])


def test_padded_rows_go_to_sdpa() -> None:
    model, batch = make_model("llama"), join()
    assert torch.equal(run(model, NAME, batch)[0], run(model, "sdpa", batch)[0])


def test_answers_from_a_cache_are_those_of_sdpa() -> None:
    model = make_model("llama").eval()
    answers = []
    for implementation in (NAME, "sdpa"):
        model.set_attn_implementation(implementation)
        prompt = torch.tensor([ROWS[0]])
        answers.append(model.generate(prompt, max_new_tokens=6, do_sample=False))
    assert torch.equal(*answers)


@pytest.mark.parametrize("needs", [{"dropout": 0.1}, {"softcap": 30.0}])
def test_what_the_kernel_lacks_is_refused(needs: dict[str, float]) -> None:
    part = torch.zeros(1, 2, 3, 8)
    with pytest.raises(ValueError, match=next(iter(needs))):
        attend_by_boundaries(
            SimpleNamespace(),  # type: ignore[arg-type]
            *(part, part, part, None),
            kernel=attend_one_by_one,
            **needs,  # type: ignore[arg-type]
        )


def test_a_kernel_is_believed_only_where_it_computes_what_sdpa_does() -> None:
    def see_all(*inputs: Any, **settings: Any) -> torch.Tensor:
        """Forget the boundaries."""
        end = inputs[3][[0, -1]]
        query, key, value, _, _, longest, _ = inputs
        return attend_one_by_one(query, key, value, end, end, longest, longest, **settings)

    assert find_fault(4, 2, 16, device="cpu", kernel=attend_one_by_one) == ""
    assert "off by" in find_fault(4, 2, 16, device="cpu", kernel=see_all)
    assert "does not run here" in find_fault(4, 2, 16, device="cpu")


@pytest.mark.parametrize(
    ("joins_rows", "fault", "loaded"),
    [(True, "", NAME), (True, "the kernel is off by 0.3 here", "sdpa"), (False, "", "sdpa")],
)
def test_auto_loads_it_for_joined_rows_where_the_kernel_is_right(
    joins_rows: bool, fault: str, loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    gpu = AttentionSupport(has_gpu=True, has_flash=False, is_half_precision=True)
    monkeypatch.setattr("finetune_trainer.model.load.detect_attention_support", lambda _: gpu)
    monkeypatch.setattr("finetune_trainer.model.load.find_fault", lambda *_: fault)
    model = load_model(tmp_path, dtype=torch.bfloat16, joins_rows=joins_rows)
    assert model.config._attn_implementation == loaded
    if fault:
        with pytest.raises(UserError, match=fault) as caught:
            load_model(tmp_path, dtype=torch.bfloat16, attention="Varlen")
        assert caught.value.reason == "AttentionUnsupported"


@pytest.mark.parametrize(
    ("adapter", "bfloat16", "stored", "loaded"),
    [
        ("LoRA", True, torch.bfloat16, NAME),
        ("Full", True, torch.float32, NAME),  # autocast, or FSDP2, computes in bfloat16
        ("Full", False, torch.float32, "sdpa"),
    ],
)
def test_the_type_of_computation_decides_and_not_that_of_the_weights(
    adapter: str,
    bfloat16: bool,
    stored: torch.dtype,
    loaded: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("finetune_trainer.model.load.find_fault", lambda *_: "")
    spec: dict[str, Any] = {"method": {"adapter": {"type": adapter}}}
    recipe: Any = SimpleNamespace(
        bfloat16=bfloat16,
        strategy="DDP",
        padding_free=True,
        packing=False,
        use_gpu=True,
        world_size=1,
    )
    plan: Any = SimpleNamespace(
        model_dir=str(tmp_path), use_gpu=True, resume_dir=None, origin_dir=None
    )
    job = resolved(**spec)
    adapted = name_targets(job.spec.method.adapter, read_model_architecture(tmp_path))
    model = load_base(plan, job, adapted, recipe, local_rank=0, tell=print)
    assert model.dtype == stored
    assert model.config._attn_implementation == loaded


def test_all_ranks_take_sdpa_if_the_kernel_is_wrong_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    gpu = AttentionSupport(has_gpu=True, has_flash=False, is_half_precision=True)
    monkeypatch.setattr("finetune_trainer.model.load.detect_attention_support", lambda _: gpu)
    monkeypatch.setattr("finetune_trainer.model.load.find_fault", lambda *_: "")
    found: list[str] = []

    def agree(fault: str) -> str:
        found.append(fault)
        return "it is off on rank 3"

    model = load_model(tmp_path, dtype=torch.bfloat16, joins_rows=True, agree=agree)
    assert (model.config._attn_implementation, found) == ("sdpa", [""])


def test_a_model_with_code_of_its_own_keeps_the_attention_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {}
    (tmp_path / "config.json").write_text(json.dumps(config))
    gpu = AttentionSupport(has_gpu=True, has_flash=False, is_half_precision=True)
    monkeypatch.setattr("finetune_trainer.model.load.detect_attention_support", lambda _: gpu)
    monkeypatch.setattr("finetune_trainer.model.load.find_fault", lambda *_: "")
    model = load_model(tmp_path, dtype=torch.bfloat16, joins_rows=True, trust_remote_code=True)
    assert model.config._attn_implementation == "sdpa"


def test_rows_with_padding_are_recorded_as_what_computed_them() -> None:
    assert name_attention(NAME, joins_rows=True) == NAME
    assert name_attention(NAME, joins_rows=False) == "sdpa"
    assert name_attention("eager", joins_rows=False) == "eager"


@pytest.mark.parametrize("limit", [4, 3])
def test_the_kernel_alone_runs_backwards_in_a_fixed_order_if_the_row_is_short(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(varlen_attention, "ORDERED_TOKENS", limit)
    seen: list[bool] = []

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(context: Any, *grads: Any) -> Any:
            seen.append(torch.are_deterministic_algorithms_enabled())
            return grads[0]

    note: Any = Noting.apply

    def attend(query: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        noted: torch.Tensor = note(query)
        return noted

    query = torch.ones(1, 2, 4, 8, requires_grad=True)
    part = note(query)
    out, _ = attend_by_boundaries(torch.nn.Module(), part, part, part, None, kernel=attend)
    note(out).sum().backward()
    assert seen == [False, limit == 4, False]
    assert query.grad is not None


def test_a_full_gpu_says_nothing_of_the_kernel() -> None:
    def fill(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        find_fault(4, 2, 16, device="cpu", kernel=fill)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"model_type": "bloom"}, "bloom"),
        ({"attention_dropout": True}, "dropout"),
        ({"head_dim": 512}, "512"),
        ({"head_dim": 100}, "multiples of 8"),
    ],
)
def test_models_that_the_kernel_does_not_suit_are_named(
    changed: dict[str, Any], words: str
) -> None:
    why = explain_varlen(replace(MODEL, **changed))
    assert bool(why) is bool(words)
    assert words in why
