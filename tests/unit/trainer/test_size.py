"""How large weights are in memory, and what 4 bits need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.model.load import require_bitsandbytes
from finetune_trainer.model.size import weight_bytes
from finetune_trainer.run import RunStorage
from finetune_trainer.train import stage
from kit.cases.spec_cases import changed, minimal_job


def write_weights(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """Write the header of a safetensors file; the weights themselves are never read."""
    entries = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for name, (dtype, shape) in tensors.items()
    }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def model(folder: Path, config: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


LINEAR, EMBEDDING = ("BF16", [640, 64]), ("BF16", [1000, 64])


@pytest.mark.parametrize(
    ("tensors", "settings", "expected"),
    [
        ({"a.weight": LINEAR}, {"value_bytes": 2}, 81_920),
        ({"a.weight": LINEAR}, {"value_bytes": 4}, 163_840),
        ({"a.weight": ("F32", [640, 64])}, {"value_bytes": 2}, 81_920),
        ({"a.weight": ("F8_E4M3", [640, 64])}, {"value_bytes": 2}, 40_960),
        ({"a.weight": LINEAR, "norm.weight": ("BF16", [64])}, {"value_bytes": 2}, 82_048),
        ({"a.weight": LINEAR}, {"value_bytes": 2, "quantize": True}, 21_130),
        ({"embed_tokens.weight": EMBEDDING}, {"value_bytes": 2, "quantize": True}, 128_000),
        ({"lm_head.weight": EMBEDDING}, {"value_bytes": 2, "quantize": True}, 128_000),
    ],
)
def test_weights_are_counted_as_they_are_loaded(
    tensors: dict[str, Any], settings: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    write_weights(tmp_path / "model.safetensors", tensors)
    assert weight_bytes(model(tmp_path), **settings) == expected


def test_experts_stay_unquantised(tmp_path: Path) -> None:
    write_weights(tmp_path / "model.safetensors", {"mlp.experts.0.up_proj.weight": LINEAR})
    mixture = model(tmp_path, {"num_local_experts": 8})
    assert weight_bytes(mixture, value_bytes=2, quantize=True) == 81_920


def test_a_second_layout_of_the_same_weights_does_not_count(tmp_path: Path) -> None:
    parts = {f"model-{n}.safetensors": {f"{n}.weight": LINEAR} for n in (1, 2)}
    for name, tensors in parts.items():
        write_weights(tmp_path / name, tensors)
    write_weights(tmp_path / "consolidated.safetensors", {"1.w": LINEAR, "2.w": LINEAR})
    index = {tensor: name for name, tensors in parts.items() for tensor in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert weight_bytes(model(tmp_path), value_bytes=2) == 2 * 81_920


@pytest.mark.slow
def test_the_size_of_a_saved_model_is_that_of_the_loaded_one(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from kit.models.tiny_models import make_model

    folder = make_model(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert weight_bytes(folder, value_bytes=4) == loaded.get_memory_footprint(return_buffers=False)


@pytest.mark.parametrize("content", [b"", b"pickle?", b"\xff" * 16])
def test_what_is_not_safetensors_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors") as refused:
        weight_bytes(model(tmp_path), value_bytes=2)
    assert refused.value.reason == "ModelUnreadable"


@pytest.mark.parametrize(
    ("image", "words"), [("my/trainer:1", "trainer.image my/trainer:1"), (None, "environment")]
)
def test_4_bits_without_their_library_name_the_image_and_the_remedy(
    image: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=words) as refused:
        require_bitsandbytes(image)
    assert refused.value.reason == "QuantizationUnavailable"
    assert "finetune-operator[quantization]" in refused.value.message


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (
            {"spec.hyperparameters": {"optimizer": "AdamW8bit"}},
            "OptimizerUnavailable",
            ["hyperparameters.optimizer AdamW8bit", "bitsandbytes", "Adafactor"],
        ),
        (
            {"spec.method": {"adapter": {"type": "QLoRA"}}},
            "QuantizationUnavailable",
            ["method.adapter.type QLoRA", "bitsandbytes", "use LoRA"],
        ),
    ],
)
def test_training_without_bitsandbytes_refuses_the_settings_that_need_it(
    change: dict[str, Any], reason: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_ALLOW_CPU", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    hardware = Hardware(num_gpus=0, memory_bytes=2**34, supports_bfloat16=False, num_cpus=2)
    job = FineTuneJob.from_wire(changed(minimal_job(), change))
    storage = RunStorage(job=resolve_job(job, namespace="a", uid="u"), stage=Stage.TRAIN, say=print)
    with pytest.raises(UserError) as refused:
        stage._require_device(storage, hardware)
    assert refused.value.reason == reason
    assert [word for word in words if word not in refused.value.message] == []
