"""The matrix of an output layer is never copied for the rows of a batch."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import profile
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedConfig

from finetune_trainer.model.output_layer import pack_output_input

VOCABULARY = 640
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "its own": LlamaConfig(**LLAMA, tie_word_embeddings=False),
    "of Gemma": Gemma3TextConfig(**LLAMA, head_dim=8),
}
ADAPTERS = {
    "frozen": None,
    "elsewhere": "all-linear",
    "on it": ["lm_head"],
}


def make_model(config: PreTrainedConfig, targets: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.bfloat16)
    model = model.eval().requires_grad_(False)
    if targets is None:
        return model, model
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    return model, tuned.eval()


def ask(model: Any) -> tuple[torch.Tensor, int]:
    """Return logits of the last positions, and matrices of the vocabulary that were copied."""
    ids = torch.randint(1, VOCABULARY, (6, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), profile(record_shapes=True) as profiled:
        logits: torch.Tensor = model(input_ids=ids, logits_to_keep=3).logits
    copied = [each.input_shapes[0] for each in profiled.events() if each.name == "aten::clone"]
    return logits, sum(shape[0] for shape in copied if VOCABULARY in shape[1:])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("targets", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_slice_of_positions_copies_no_matrix_and_gives_the_same_logits(
    config: PreTrainedConfig, targets: Any
) -> None:
    model, tuned = make_model(config, targets)
    expected, num_copied = ask(tuned)
    assert num_copied, "torch copies nothing any more: the module is not needed"
    pack_output_input(model)
    logits, num_copied = ask(tuned)
    torch.testing.assert_close(logits, expected)
    assert num_copied == 0
