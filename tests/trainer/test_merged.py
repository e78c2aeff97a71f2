"""The second output format: base and adapter in one model, beside the adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.storage import open_store, verify_folder
from kit.models.tiny_models import make_model
from kit.processes.stages import StageRun, Workbench

MERGED = {"output": {"formats": ["Adapter", "Merged"]}}


def logits_of(model: Any) -> Any:
    import torch

    torch.manual_seed(0)
    ids = torch.randint(3, 200, (2, 24))
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits.float()


def train_merged(bench: Callable[..., Workbench], **change: Any) -> tuple[Workbench, StageRun]:
    model = change.pop("model", None)
    workbench = bench({**change, **MERGED}, **({"model": model} if model else {}))
    workbench.run_to("prepare")
    return workbench, workbench.run_to("train")


@pytest.fixture
def lora(undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path) -> Workbench:
    """An adapter that is there already: only the merged model is missing."""
    return undisturbed[0].fork(tmp_path / "lora", MERGED)


@pytest.fixture
def dora(bench: Callable[..., Workbench]) -> Workbench:
    """A run that trains and merges."""
    change = {"method": {"adapter": {"type": "DoRA"}}, "hyperparameters": {"maxSteps": 4}}
    workbench = bench({**change, **MERGED})
    workbench.run_to("prepare")
    return workbench


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_model_stands_alone_and_answers_as_the_adapter_does(
    request: pytest.FixtureRequest, tiny_model: Path, kind: str
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    workbench = request.getfixturevalue(kind)
    ended = workbench.run_to("train")
    folder = workbench.run_folder / "merged"
    assert f"{folder}" in ended.messages
    store = open_store(f"file://{workbench.output}")
    manifest = verify_folder(store, f"{workbench.job().run_prefix}/merged")
    adapter = verify_folder(store, f"{workbench.job().run_prefix}/adapter")
    assert manifest.inputs["adapter"] == adapter.digest
    assert not manifest.file("adapter_config.json")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    before = logits_of(base)
    tuned = logits_of(PeftModel.from_pretrained(base, workbench.run_folder / "adapter"))
    merged = logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    assert (tuned - before).abs().max() > 0.01, "the adapter changes nothing: a useless test"
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    card = (folder / "README.md").read_text()
    assert "AutoModelForCausalLM" in card
    assert "library_name: transformers" in card


def test_merged_model_keeps_the_type_its_base_is_saved_in_and_is_the_same_twice(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    model = make_model(tmp_path / "half", dtype=torch.bfloat16)
    workbench, _ = train_merged(bench, model=model, hyperparameters={"maxSteps": 2})
    folder = workbench.run_folder / "merged"
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    first = (folder / "manifest.json").read_bytes()

    shutil.rmtree(folder)  # as if the run had died between adapter and merged model
    again = workbench.run_to("train")

    assert again.result["reused"]
    assert (folder / "manifest.json").read_bytes() == first
    third = workbench.run_to("train")
    assert "merged model of this run is there already" in third.messages
    assert "folding" not in third.messages
    published = workbench.run_to("evaluate").result
    version = json.loads(Path(published["manifestUri"].removeprefix("file://")).read_text())
    assert version["inputs"]["merged"]
    report = json.loads((workbench.run_folder / "evaluation/report.json").read_text())
    assert report["merged"] == version["inputs"]["merged"]


def test_full_fine_tuning_has_nothing_to_merge_and_says_so(
    bench: Callable[..., Workbench],
) -> None:
    workbench, ended = train_merged(
        bench, method={"adapter": {"type": "Full"}}, hyperparameters={"maxSteps": 1}
    )
    assert "nothing to merge" in ended.messages
    assert not (workbench.run_folder / "merged").exists()


@pytest.mark.parametrize(
    ("config", "targets", "words"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, ["q_proj"], ["fp8", "unquantised"]),
        ({}, ["q_proj", "embed_tokens"], ["'embed_tokens'", "tie_word_embeddings"]),
    ],
)
def test_a_merge_that_cannot_be_right_is_refused_before_training(
    bench: Callable[..., Workbench],
    tiny_model: Path,
    tmp_path: Path,
    config: dict[str, Any],
    targets: list[str],
    words: list[str],
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    known = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**known, **config}))
    change = {"method": {"adapter": {"targetModules": targets}}}
    workbench = bench({**change, **MERGED}, model=model)
    workbench.run_to("prepare")
    ended = workbench.run("train")
    assert (ended.exit_code, ended.termination["reason"]) == (64, "MergeUnsupported")
    for word in words:
        assert word in ended.termination["message"]
    assert not (workbench.run_folder / "adapter").exists()


def random_model(folder: Path, kind: str, **settings: Any) -> Path:
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "dtype": "bfloat16",
        **settings,
    }
    config = transformers.CONFIG_MAPPING[kind](**sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def random_adapter(base: Any, folder: Path, **settings: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    settings = {"target_modules": "all-linear", **settings}
    tuned = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) * 0.1
    tuned.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "model", "adapter"),
    [
        ("llama", {"tie_word_embeddings": True, "attention_bias": True}, {}),
        ("qwen2", {}, {"use_dora": True}),
        ("qwen3", {"head_dim": 16}, {"modules_to_save": ["lm_head", "norm"]}),
        (
            "phi3",
            {"pad_token_id": 0, "eos_token_id": 1},
            {"target_modules": ["qkv_proj", "down_proj"]},
        ),
        ("mixtral", {"num_local_experts": 2}, {"target_modules": ["q_proj", "v_proj"]}),
    ],
)
def test_merging_tensor_by_tensor_gives_the_bytes_of_merging_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    kind: str, model: dict[str, Any], adapter: dict[str, Any],
) -> None:  # fmt: skip
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from finetune_trainer.publish import tensors

    def load(folder: Path, dtype: torch.dtype) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    torch.manual_seed(0)
    base = random_model(tmp_path / "base", kind, **model)
    trained = random_adapter(load(base, torch.float32), tmp_path / "adapter", **adapter)
    tuned = PeftModel.from_pretrained(load(base, torch.float32), trained)
    whole = tuned.merge_and_unload().to(torch.bfloat16).state_dict()
    monkeypatch.setattr(tensors, "FILE_BYTES", 8 * 1024)
    light = tensors.open_without_weights(base, trained)
    assert light is not None
    target = tmp_path / "merged"
    target.mkdir()
    tensors.merge_by_tensor(light, base, target, torch.bfloat16)
    assert len(list(target.glob("model-*-of-*.safetensors"))) > 1
    merged = load(target, torch.bfloat16).state_dict()
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], value) for name, value in whole.items())
    assert not all(
        torch.equal(load(base, torch.bfloat16).state_dict()[n], v) for n, v in merged.items()
    )


def test_adapters_of_stacked_experts_are_merged_whole(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune_trainer.publish.tensors import open_without_weights

    base = random_model(tmp_path / "base", "mixtral", num_local_experts=2)
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    names = ["mlp.experts.gate_up_proj"]
    trained = random_adapter(
        loaded, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=names
    )
    assert open_without_weights(base, trained) is None
