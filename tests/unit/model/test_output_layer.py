"""The matrix of an output layer is multiplied once for a whole batch, on every processor.

torch multiplies row by row without our help, and on processors whose oneDNN multiplies bfloat16
(those with AVX-512) copies the matrix for each row. Tests assert what holds on all of them.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import profile
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedConfig

from finetune_trainer.model.kernels.output_layer import pack_output_input

pytestmark = pytest.mark.slow  # it needs torch

VOCABULARY = 640
HIDDEN = 32
NUM_ROWS = 6
LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
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


def ask(model: Any) -> tuple[torch.Tensor, dict[str, int]]:
    """Return logits of the last positions, and operations that got a matrix for each row.

    By their names, how many matrices of the vocabulary. It does not matter whether these are copies
    or views of the same memory: that is up to torch and the processor.
    """
    ids = torch.randint(1, VOCABULARY, (NUM_ROWS, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), profile(record_shapes=True) as profiled:
        logits: torch.Tensor = model(input_ids=ids, logits_to_keep=3).logits
    repeated: dict[str, int] = {}
    for each in profiled.events():
        for shape in each.input_shapes:
            if sorted(shape[1:]) == [HIDDEN, VOCABULARY]:
                repeated[each.name] = shape[0]
    return logits, repeated


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("targets", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_slice_of_positions_takes_the_matrix_once_and_gives_the_same_logits(
    config: PreTrainedConfig, targets: Any
) -> None:
    model, tuned = make_model(config, targets)
    expected, _ = ask(tuned)
    pack_output_input(model)
    logits, repeated = ask(tuned)
    # As far apart as bfloat16 leaves two orders of the same sum.
    torch.testing.assert_close(logits, expected, rtol=0.016, atol=1e-5)
    assert repeated == {}
