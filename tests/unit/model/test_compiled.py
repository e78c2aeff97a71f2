from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch._dynamo.testing import CompileCounterWithBackend

from finetune_trainer.model.kernels.compiled import compile_blocks
from finetune_trainer.model.kernels.lora import fuse_lora

pytestmark = pytest.mark.slow  # it needs torch

NUM_BLOCKS = 3


def make_model(compiler: Any, *, fused: bool) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=64,
        use_cache=False,
    )
    base = transformers.LlamaForCausalLM(config)
    if compiler is not None:
        compile_blocks(base, backend=compiler)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    if fused:
        fuse_lora(model)
    return model.train()


@pytest.mark.filterwarnings("ignore")  # torch, while it traces
@pytest.mark.parametrize("fused", [False, True])
def test_blocks_share_their_code_and_compute_as_before(fused: bool) -> None:
    """Traced by torch and run as traced: its compiler takes a minute here."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    results, names = [], []
    for compiler in (None, counter):
        model, found = make_model(compiler, fused=fused), []
        for length in (7, 9):
            model.zero_grad()
            logits = model(input_ids=torch.arange(length)[None] + 3).logits
            logits.square().mean().backward()
            grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found += [logits.detach(), *grads]
        results.append(found)
        names.append(list(model.state_dict()))
    torch._dynamo.reset()
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-6)
    assert names[0] == names[1]
    # The first block, whose input needs no gradient, and all others.
    assert counter.frame_count == 2
