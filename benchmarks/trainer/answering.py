"""The planner's estimate of the evaluation against measured peaks, over families of models.

The models are tiny and random; they answer and score as the evaluation has them do, few rows at
once and many, which are read in parts. Counted are all tensors that are alive. Bar: the estimate is
within 15 % of the measurement and never under it by more than 5 %, and that of the cache within
1 %.

Usage: python benchmarks/trainer/answering.py [FAMILY ...]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from allocations import AllocationMeter
from memory import BASE, FULL, LORA, describe

from finetune_trainer.planning.answering import Asked, estimate_answering

OVER, UNDER = 1.15, 0.95
MIB = 2**20
VOCABULARY = 2048
ROWS, PROMPT, ANSWER, COUNTED = 8, 200, 24, 100
MANY_ROWS = 64
"""With their prompts more than go through a model at once."""
LATENT = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 64, "q_lora_rank": 64,
    "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 32, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "first_k_dense_replace": 1,
    "n_group": 1, "topk_group": 1,
}  # fmt: skip
MAMBA = {"mamba_d_ssm": 256, "mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 32}
DELTA = {
    "head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "linear_num_value_heads": 4,
    "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128,
}  # fmt: skip
JAMBA = {
    "num_experts": 2, "num_experts_per_tok": 1, "mamba_dt_rank": 16, "attn_layer_period": 3,
    "attn_layer_offset": 1, "use_mamba_kernels": False,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 64}),
    "mistral": ("MistralConfig", {"sliding_window": 64}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 64, "sliding_window": 64}),
    "gpt2": ("GPT2Config", {}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": ("DeepseekV3Config", LATENT),
    "lfm2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"] * 3}),
    "falcon_h1": ("FalconH1Config", MAMBA),
    "qwen3_next": ("Qwen3NextConfig", DELTA),
    "jamba": ("JambaConfig", JAMBA),
}
STATES = frozenset(("lfm2", "falcon_h1", "qwen3_next", "jamba"))
"""They read what they are asked in one piece, and so few rows at once."""
IN_PARTS = {"deepseek_v3": {"v_head_dim": 48}}
"""Where queries and values differ in width and there is a mask, torch has no kernel on CPUs, and
writes out all scores; GPUs have one."""
WITHOUT_KERNELS = frozenset(("falcon_h1", "qwen3_next", "jamba"))
"""Their scan is written out here, and holds what no planner can know; the cache is as it is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Estimates beside measurements, in bytes."""

    peak: int
    estimated_peak: int
    cache: int
    estimated_cache: int

    @property
    def ratio(self) -> float:
        """Estimate of the peak over its measurement."""
        return self.estimated_peak / self.peak

    @property
    def cache_ratio(self) -> float:
        """Estimate of the cache over its measurement."""
        return self.estimated_cache / self.cache


def make_model(family: str, *, bfloat16: bool, change: Mapping[str, Any] | None = None) -> Any:
    """Return a tiny random model of a family."""
    import torch
    import transformers

    name, own = FAMILIES[family]
    values = {**BASE, **own, **(change or {})}
    if name == "GPT2Config":
        values = {"vocab_size": VOCABULARY, "n_embd": 256, "n_layer": 6, "n_head": 8}
    torch.manual_seed(0)
    config = getattr(transformers, name)(**values)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    return transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()


def measure(family: str, *, bfloat16: bool = True) -> Outcome:
    """Let a tiny model of a family answer and score, and return the peaks beside the estimates."""
    model = make_model(family, bfloat16=bfloat16)
    held = [*model.parameters(), *model.buffers()]
    answering, cache = answer(model, held)
    scoring = score(model, held)
    architecture = describe(model)
    asked = Asked(
        rows=ROWS, prompt_tokens=PROMPT, answer_tokens=ANSWER, reference_tokens=ANSWER,
        scored_rows=ROWS, scored_tokens=ROWS * PROMPT, counted_tokens=ROWS * COUNTED,
    )  # fmt: skip
    setup = replace(FULL, bfloat16=bfloat16)
    # The last token of an answer is never read.
    per_row = architecture.cache.num_bytes(PROMPT + ANSWER - 1, setup.value_bytes)
    return Outcome(
        peak=max(answering, scoring),
        estimated_peak=estimate_answering(architecture, setup, asked).allocated,
        cache=cache,
        estimated_cache=ROWS * per_row,
    )


def measure_parts(family: str) -> tuple[int, int]:
    """Have many rows answered and their references scored; returns the peak and its estimate."""
    from unittest import mock

    import torch

    from finetune_trainer.evaluate.inference.engine import Prompt
    from finetune_trainer.evaluate.inference.transformers_engine import generate_batch
    from finetune_trainer.model.encoding import TokenizedExample

    model = make_model(family, bfloat16=True, change=IN_PARTS.get(family))
    prompts = torch.randint(5, 200, (MANY_ROWS, PROMPT)).tolist()
    asked = [
        Prompt(
            token_ids=prompt,
            max_new_tokens=ANSWER,
            reference=TokenizedExample(
                input_ids=prompt + [7] * ANSWER, spans=((PROMPT, PROMPT + ANSWER),), num_cut=0
            ),
        )
        for prompt in prompts
    ]
    held = [*model.parameters(), *model.buffers()]
    # In inference mode the softmax inside the loss is one operation, whose own tensors hide.
    with mock.patch("torch.inference_mode", torch.no_grad), AllocationMeter(held) as meter:
        generate_batch(model, asked, stop_ids=(VOCABULARY - 1,), pad_id=0)
    shape = Asked(
        rows=MANY_ROWS, prompt_tokens=PROMPT, answer_tokens=ANSWER, reference_tokens=ANSWER,
        scored_rows=1, scored_tokens=1, counted_tokens=0,
    )  # fmt: skip
    return int(meter.peak), estimate_answering(describe(model), FULL, shape).allocated


def answer(model: Any, held: list[Any]) -> tuple[int, int]:
    """Generate as the evaluation does; returns the peak and the bytes of the cache at the end."""
    import torch

    ids = torch.randint(5, 200, (ROWS, PROMPT))
    with torch.inference_mode(), AllocationMeter(held) as meter:
        made = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER,
            min_new_tokens=ANSWER, do_sample=False, pad_token_id=0, return_dict_in_generate=True,
            use_cache=True,
        )  # fmt: skip
    tensors = []
    for layer in made.past_key_values.layers:
        tensors += [getattr(layer, name, None) for name in ("keys", "values")]
        for name in ("conv_states", "recurrent_states"):
            tensors += (getattr(layer, name, None) or {}).values()
    kept = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
    return int(meter.peak), kept


def score(model: Any, held: list[Any]) -> int:
    """Score references as the evaluation does; returns the peak."""
    from unittest import mock

    import torch

    from finetune_trainer.evaluate.inference.reading import score_batch
    from finetune_trainer.model.encoding import TokenizedExample

    spans = ((PROMPT - COUNTED, PROMPT),)
    rows = [TokenizedExample(input_ids=[7] * PROMPT, spans=spans, num_cut=0)] * ROWS
    # In inference mode the softmax inside the loss is one operation, whose own tensors hide.
    with mock.patch("torch.inference_mode", torch.no_grad), AllocationMeter(held) as meter:
        score_batch(model, rows, pad_id=0)
    return int(meter.peak)


def main() -> int:
    """Measure and print the table."""
    print(
        "| family | measured peak, MiB | estimate, MiB | ratio | ratio of the cache | ratio of "
        f"{MANY_ROWS} rows in parts |"
    )
    print("|---|---|---|---|---|---|")
    is_good = True
    for family in sys.argv[1:] or FAMILIES:
        found = measure(family, bfloat16=LORA.bfloat16)
        ratio = "no kernel" if family in WITHOUT_KERNELS else f"{found.ratio:.3f}"
        parts = "in one piece"
        if family not in STATES:
            peak, estimate = measure_parts(family)
            parts = f"{estimate / peak:.3f}"
            is_good &= UNDER <= estimate / peak <= OVER
        print(
            f"| {family} | {found.peak / MIB:.1f} | {found.estimated_peak / MIB:.1f} | {ratio} | "
            f"{found.cache_ratio:.3f} | {parts} |",
            flush=True,
        )
        is_good &= abs(found.cache_ratio - 1) <= 0.01
        is_good &= family in WITHOUT_KERNELS or UNDER <= found.ratio <= OVER
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
