"""A QLoRA model is evaluated as it was trained, its base in 4 bits; these also run on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from finetune_trainer.model.load import load_model
from finetune_trainer.model.pair import ModelPair
from finetune_trainer.model.size import weight_bytes


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    base = load_model(tiny_model, dtype=torch.bfloat16)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(5, 25)[None]).logits.float()


def test_base_and_tuned_model_are_those_of_training(tiny_model: Path, adapter: Path) -> None:
    trained = load_model(
        tiny_model, dtype=torch.bfloat16, quantize=True, device_map={"": "cpu"}
    ).eval()
    whole = ModelPair(tiny_model, adapter, dtype=torch.bfloat16)
    pair = ModelPair(tiny_model, adapter, dtype=torch.bfloat16, quantize=True)
    with pair.base() as model, whole.base() as original:
        assert torch.equal(logits(model), logits(trained))
        assert not torch.equal(logits(model), logits(original))
    with pair.tuned() as model:
        assert not torch.equal(logits(model), logits(trained))


def test_weights_that_fsdp_can_shard_compute_the_same(tiny_model: Path) -> None:
    models = [
        load_model(
            tiny_model,
            dtype=torch.bfloat16,
            quantize=True,
            shardable=shardable,
            device_map={"": "cpu"},
        )
        for shardable in (False, True)
    ]
    layers = [model.model.layers[0].mlp.up_proj.weight for model in models]
    assert [layer.dtype for layer in layers] == [torch.uint8, torch.bfloat16]
    assert torch.equal(logits(models[0]), logits(models[1]))


def test_evaluation_leaves_the_weights_of_training_as_they_are(tiny_model: Path) -> None:
    model = load_model(tiny_model, dtype=torch.float32, quantize=True, device_map={"": "cpu"})
    before = logits(model.train())
    logits(model.eval())
    assert torch.equal(logits(model.train()), before)


def test_the_size_is_known_before_loading(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, dtype=torch.bfloat16, quantize=True, device_map={"": "cpu"})
    estimate = weight_bytes(tiny_model, value_bytes=2, quantize=True)
    assert estimate == pytest.approx(loaded.get_memory_footprint(return_buffers=False), rel=0.03)
