"""The published version answers beside base and tuned model, exactly as it does by itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.errors import UserError
from finetune_trainer.model.load import load_model
from finetune_trainer.model.pair import ModelPair, PublishedFolder
from kit.processes.stages import Workbench

GATES = {
    "evaluation": {
        "gates": [
            {"name": "no-worse", "metric": "loss", "overPublished": "-0.5"},
            {"name": "better", "metric": "loss", "overPublished": "5", "severity": "Warn"},
        ]
    }
}


def make_adapter(model: Path, folder: Path, *, seed: int, **settings: Any) -> Path:
    base = load_model(model, dtype=torch.float32)
    torch.manual_seed(seed)
    values = {"r": 4, "target_modules": "all-linear", **settings}
    config = LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **values)
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.arange(5, 25)[None]).logits.float()


@pytest.mark.parametrize(
    ("settings", "bfloat16"),
    [
        ({}, False),
        ({"r": 8, "target_modules": ["q_proj"], "use_rslora": True}, False),
        ({"target_modules": ["v_proj"], "modules_to_save": ["norm"], "use_dora": True}, False),
        ({}, True),  # another type of the base: it is loaded by itself
    ],
)
def test_switching_gives_each_model_as_it_is_alone(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], bfloat16: bool
) -> None:
    tuned = make_adapter(tiny_model, tmp_path / "tuned", seed=0)
    published = make_adapter(tiny_model, tmp_path / "published", seed=1, **settings)
    pair = ModelPair(
        tiny_model,
        tuned,
        dtype=torch.float32,
        published=PublishedFolder(folder=published, bfloat16=bfloat16, quantize=False),
    )
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    with pair.open("base") as model:
        base = logits(model)
    with pair.open("tuned") as model:
        own = logits(model)
    with pair.open("published") as model:
        found = logits(model)
    with ModelPair(tiny_model, tuned, dtype=torch.float32).tuned() as model:
        assert torch.equal(own, logits(model))
    with ModelPair(tiny_model, published, dtype=dtype).tuned() as model:
        assert torch.equal(found, logits(model))
    assert not torch.equal(found, own)
    assert not torch.equal(found, base)


def test_a_version_of_another_method_is_asked_as_it_is_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter", seed=0)
    full, plain = tmp_path / "full", load_model(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        plain.lm_head.weight.mul_(1.5)
    plain.save_pretrained(full)

    def alone(folder: Path) -> torch.Tensor:
        with ModelPair(tiny_model, folder, dtype=torch.float32).tuned() as model:
            return logits(model)

    for tuned, published in ((adapter, full), (full, adapter), (full, full)):
        rival = PublishedFolder(folder=published, bfloat16=False, quantize=False)
        pair = ModelPair(tiny_model, tuned, dtype=torch.float32, published=rival)
        for name in ("base", "tuned"):
            with pair.open(name) as model:
                logits(model)
        with pair.open("published") as model:
            assert torch.equal(logits(model), alone(published))


def test_a_version_in_4_bits_is_refused_where_nothing_reads_them(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(image: str | None = None) -> None:
        raise UserError("QuantizationUnavailable", f"no bitsandbytes in {image}")

    monkeypatch.setattr("finetune_trainer.model.load.require_bitsandbytes", missing)
    tuned = make_adapter(tiny_model, tmp_path / "tuned", seed=0)
    rival = PublishedFolder(folder=tuned, bfloat16=False, quantize=True)
    pair = ModelPair(tiny_model, tuned, dtype=torch.float32, published=rival)
    with pytest.raises(UserError, match="with QLoRA, and its 4-bit weights need bitsandbytes"):
        pair.open("published").__enter__()


@pytest.mark.parametrize("damage", ["shape", "names"])
def test_an_adapter_that_does_not_come_in_whole_is_never_asked(
    tiny_model: Path, tmp_path: Path, damage: str
) -> None:
    tuned = make_adapter(tiny_model, tmp_path / "tuned", seed=0)
    if damage == "shape":
        config = LlamaConfig.from_pretrained(tiny_model, hidden_size=96)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
        published = make_adapter(tmp_path / "wide", tmp_path / "published", seed=1)
    else:
        published = make_adapter(tiny_model, tmp_path / "published", seed=1)
        config = json.loads((published / "adapter_config.json").read_text())
        config["target_modules"] = ["q_proj"]
        (published / "adapter_config.json").write_text(json.dumps(config))
    pair = ModelPair(
        tiny_model,
        tuned,
        dtype=torch.float32,
        published=PublishedFolder(folder=published, bfloat16=False, quantize=False),
    )
    with pytest.raises(UserError, match="base model") as refused, pair.open("published"):
        pass
    assert refused.value.reason == "PublishedUnusable"


def challenger(trained: Workbench, folder: Path, change: dict[str, Any]) -> Workbench:
    """Copy a run with what it has published, as a run of another job that is not evaluated yet."""
    workbench = trained.fork(folder, change)
    shutil.rmtree(workbench.run_folder / "evaluation")
    old, versions = trained.run_folder, trained.output / "versions"
    shutil.copytree(old, workbench.output / old.relative_to(trained.output))
    shutil.copytree(versions, workbench.output / "versions")
    return workbench


def report_of(workbench: Workbench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (workbench.run_folder / "evaluation/report.json").read_text()
    )
    return found


def test_a_challenger_is_compared_on_the_same_rows_by_all_workers(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    two = {"resources": {"gpusPerNode": 2}} if len(os.sched_getaffinity(0)) > 1 else {}
    workbench = challenger(undisturbed[0], tmp_path / "run", {**GATES, **two})
    ended = workbench.run_to("evaluate")
    result = ended.result
    # It is the same adapter: whatever the tuned model scores, the published version scores, too.
    for score in result["scores"]:
        assert score["published"] == score["tuned"]
        assert float(score["overPublishedLow"]) <= 0 <= float(score["overPublishedHigh"])
    assert result["published"]["version"] == 1
    assert result["published"]["numSeen"] == 0
    gates = {gate["name"]: gate for gate in result["gates"]}
    assert gates["better"]["met"] is False
    assert "over published version 1" in gates["better"]["message"]
    assert gates["no-worse"]["applicable"]
    folder = workbench.run_folder / "evaluation"
    assert "The published version" in (folder / "report.html").read_text()
    assert "Published version 1 on the same rows" in (folder / "README.md").read_text()
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert all(sample["published"] == sample["tuned"] for sample in samples)
    if gates["no-worse"]["met"]:
        manifest = json.loads(
            (workbench.output / "versions/default/tiny/2/manifest.json").read_text()
        )
        assert json.loads(manifest["inputs"]["comparedWith"])["version"] == 1


def test_a_damaged_version_misses_its_gates_and_stops_nothing_else(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = challenger(undisturbed[0], tmp_path / "run", GATES)
    weights = undisturbed[0].run_folder.relative_to(undisturbed[0].output)
    path = workbench.output / weights / "adapter/adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = workbench.run_to("evaluate").result
    assert [gate["met"] for gate in result["gates"]] == [False, False]
    assert "was not measured: version 1: it is damaged" in result["gates"][0]["message"]
    assert "it is damaged" in result["published"]["problem"]
    assert "version" not in result
    assert len(result["scores"]) > 2
