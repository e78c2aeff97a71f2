"""The stages end to end on a tiny model: what they write, reuse and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.storage import StorageAccess, open_store, verify_folder
from kit.processes.stages import Workbench


def test_run_leaves_a_verified_adapter_with_its_evidence(
    undisturbed: tuple[Workbench, dict[str, Any]],
) -> None:
    workbench, result = undisturbed
    store = open_store(f"file://{workbench.output}", StorageAccess())
    prefix = workbench.job().run_prefix
    for folder in (f"{prefix}/adapter", f"{prefix}/evaluation"):
        verify_folder(store, folder)
    config = json.loads((workbench.run_folder / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny/llama"
    assert config["target_modules"] == sorted(config["target_modules"])
    card = (workbench.run_folder / "adapter/README.md").read_text()
    assert "base_model: tiny/llama" in card
    report = json.loads((workbench.run_folder / "evaluation/report.json").read_text())
    assert report["adapter"] == result["sha256"]
    assert not list((workbench.run_folder / "checkpoints").rglob("manifest.json"))
    assert not list(workbench.run_folder.rglob("training_args.bin"))
    version = json.loads((workbench.output / "versions/default/tiny/1/manifest.json").read_text())
    for file in version["files"]:
        assert (workbench.output / file["key"]).stat().st_size == file["bytes"]


def test_adapter_loads_with_peft(
    undisturbed: tuple[Workbench, dict[str, Any]], tiny_model: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    workbench, _ = undisturbed
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(base, workbench.run_folder / "adapter")
    assert model.peft_config["default"].r == 4


def test_second_run_reuses_everything(undisturbed: tuple[Workbench, dict[str, Any]]) -> None:
    workbench, result = undisturbed
    assert workbench.run_to("prepare").result["reused"]
    again = workbench.run_to("train").result
    assert again["reused"]
    assert again["sha256"] == result["sha256"]
    evaluated = workbench.run_to("evaluate").result
    assert evaluated["reused"]
    assert evaluated["version"] == 1
    assert not (workbench.output / "versions/default/tiny/2").exists()


def test_missed_goal_publishes_nothing(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    trained, _ = undisturbed
    gates = [
        {"name": "unreachable", "metric": "loss", "atMost": "0"},
        {"name": "some-red", "metric": "loss", "atMost": "99", "slice": {"label": "Red"}},
    ]
    change = {"goal": {"metric": "loss", "atMost": "0"}, "evaluation": {"gates": gates}}
    workbench = trained.fork(tmp_path / "run", change)
    shutil.rmtree(workbench.run_folder / "evaluation")
    result = workbench.run_to("evaluate").result
    assert result["goalMet"] is False
    assert "MISSED" in result["goalMessage"]
    assert {gate["name"]: gate["met"] for gate in result["gates"]} == {
        "unreachable": False,
        "some-red": True,
    }
    assert "version" not in result
    assert workbench.run_to("publish").result == {**result, "stage": "publish"}
    assert not (workbench.output / "versions").exists()


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_base_model_that_changed_since_the_run_began_is_refused(
    undisturbed: tuple[Workbench, dict[str, Any]], tiny_model: Path, tmp_path: Path, stage: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    workbench = undisturbed[0].fork(tmp_path / "run", model=model)
    shutil.rmtree(workbench.run_folder / "evaluation")
    if stage == "train":  # as if it had been killed and were to resume
        shutil.rmtree(workbench.run_folder / "adapter")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    ended = workbench.run(stage)
    assert (ended.exit_code, ended.termination["reason"]) == (64, "BaseModelChanged")
    assert "under a new name" in ended.termination["message"]
    assert not (workbench.run_folder / "evaluation").exists()
    assert not (workbench.output / "versions").exists()


def test_packed_rows_of_text_and_of_pairs_train_and_are_scored(
    bench: Callable[..., Workbench], rows: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "text.jsonl"
    plain.write_text(
        "".join(json.dumps({"text": f"the {n}. line is blue"}) + "\n" for n in range(24))
    )
    workbench = bench(
        {
            "dataset": {"sources": [{"uri": f"file://{rows}"}, {"uri": f"file://{plain}"}]},
            "method": {"packing": "On"},
            "hyperparameters": {"maxSteps": 2, "microBatchSize": 2},
        }
    )
    result = workbench.run_to("prepare", "train", "evaluate").result
    assert {score["name"] for score in result["scores"]} >= {"exactMatch", "loss"}
    assert result["version"] == 1
    assert len(workbench.losses()) == 2
    report = json.loads((workbench.run_folder / "evaluation/report.json").read_text())
    assert report["samples"]
    assert all(sample["references"] for sample in report["samples"])


@pytest.mark.parametrize("kind", ["DoRA", "RsLoRA", "Full"])
def test_other_adapter_types_train_and_evaluate(bench: Callable[..., Workbench], kind: str) -> None:
    workbench = bench(
        {
            "method": {"adapter": {"type": kind}},
            "hyperparameters": {"maxSteps": 2, "learningRate": "auto"},
        }
    )
    result = workbench.run_to("prepare", "train", "evaluate").result
    assert {score["name"] for score in result["scores"]} >= {"exactMatch", "loss"}
    names = {path.name for path in (workbench.run_folder / "adapter").iterdir()}
    assert ("model.safetensors" if kind == "Full" else "adapter_model.safetensors") in names


@pytest.mark.parametrize(
    ("change", "stage", "exit_code", "reason", "words"),
    [
        pytest.param(
            {"method": {"adapter": {"targetModules": ["query"]}}},
            "train",
            64,
            "NoMatchingModules",
            ["'query'", "q_proj", "down_proj", "all-linear"],
            id="LoRA target that matches no module names those that exist",
        ),
        pytest.param(
            {
                "resources": {"gpusPerNode": 2, "strategy": "ZeRO3"},
                "hyperparameters": {"precision": "BFloat16"},
            },
            "train",
            64,
            "PrecisionUnsupported",
            ["ZeRO3", "BFloat16", "Float32"],
            id="bfloat16 under ZeRO on CPU is refused, not ignored",
        ),
        pytest.param(
            {"model": {"uri": "file:///nowhere/model"}},
            "prepare",
            64,
            "ModelNotFound",
            ["/nowhere/model"],
            id="missing model",
        ),
        pytest.param(
            {"hyperparameters": {"maxSequenceLength": 16}},
            "prepare",
            65,
            "AllRowsTooLong",
            ["maxSequenceLength"],
            id="all rows over length",
        ),
    ],
)
def test_bad_settings_end_with_the_value_and_the_remedy(
    bench: Callable[..., Workbench],
    change: dict[str, Any],
    stage: str,
    exit_code: int,
    reason: str,
    words: list[str],
) -> None:  # fmt: skip
    workbench = bench(change)
    if stage == "train":
        workbench.run_to("prepare")
    ended = workbench.run(stage)
    assert (ended.exit_code, ended.termination.get("reason")) == (exit_code, reason), ended.messages
    for word in words:
        assert word in ended.termination["message"]
    assert not (workbench.run_folder / "adapter").exists()
    assert not (workbench.output / "versions").exists()


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_what_needs_no_torch_starts_without_it(bench: Callable[..., Workbench], stage: str) -> None:
    zero = {"gpusPerNode": 2, "strategy": "ZeRO3"}
    workbench = bench({"resources": zero, "hyperparameters": {"precision": "BFloat16"}})
    if stage == "train":
        workbench.run_to("prepare")
    workbench.env["PYTHONPROFILEIMPORTTIME"] = "1"
    ended = workbench.run(stage)
    assert ended.exit_code == {"prepare": 0, "train": 64}[stage], ended.messages
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "finetune_trainer.storage" in imported
    assert not imported & {"torch", "trl", "accelerate"}
    assert "PyTorch was not found" not in ended.stderr


def test_gpus_asked_for_and_none_visible_is_a_user_error(bench: Callable[..., Workbench]) -> None:
    workbench = bench({"resources": {"gpusPerNode": 1}}, env={"FINETUNE_ALLOW_CPU": "0"})
    workbench.run_to("prepare")
    ended = workbench.run("train")
    assert ended.exit_code == 64
    assert ended.termination["reason"] == "GPUNotVisible"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl\n', "InvalidRows"),
        ("", "EmptyDataset"),
    ],
)
def test_bad_data_is_refused_before_training(
    bench: Callable[..., Workbench], tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    workbench = bench(data=path)
    ended = workbench.run("prepare")
    assert (ended.exit_code, ended.termination["reason"]) == (65, reason)
    assert "bad.jsonl" in ended.termination["message"]
    assert not (workbench.output / "datasets").exists()


def test_tampered_adapter_is_named_and_not_evaluated(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench, _ = undisturbed
    copy = workbench.fork(tmp_path / "tampered")
    shutil.rmtree(copy.run_folder / "evaluation")
    weights = copy.run_folder / "adapter/adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    ended = copy.run("evaluate")
    assert (ended.exit_code, ended.termination["reason"]) == (73, "ChecksumMismatch")
    assert "adapter_model.safetensors" in ended.termination["message"]


def test_full_disk_while_saving_is_a_storage_error_and_publishes_nothing(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    import os
    import subprocess

    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    workbench = bench({"method": {"adapter": {"rank": 64}}})
    workbench.run_to("prepare")
    small = workbench.work / "checkpoints"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        ended = workbench.run("train")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert (ended.exit_code, ended.termination["reason"]) == (73, "DiskFull"), ended.messages
    assert "space" in ended.termination["message"]
    assert not (workbench.run_folder / "adapter").exists()
