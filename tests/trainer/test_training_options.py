"""Options of training resume bit for bit as everything else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kit.cluster.faults import fault
from kit.processes.eventually import eventually
from kit.processes.stages import Workbench, kill_group, merge

FORMATS = ["Adapter", "Merged"]
OPTIONS = {
    "method": {"adapter": {"modulesToSave": ["norm"]}},
    "hyperparameters": {
        "maxSteps": 8,
        "warmupRatio": "0.5",
        "neftuneNoiseAlpha": "5",
        "loraPlusRatio": "4",
        "scheduler": "WSD",
    },
}


@pytest.mark.parametrize(
    "optimizer",
    [
        "AdamW",
        "Adafactor",
        "AdamW8bit",
    ],
)
def test_noise_lora_plus_and_whole_modules_survive_a_kill(
    bench: Callable[..., Workbench], tmp_path: Path, optimizer: str
) -> None:
    options = merge(OPTIONS, {"hyperparameters": {"optimizer": optimizer}})
    whole, killed = bench(options), bench({**options, "output": {"formats": FORMATS}})
    whole.run_to("prepare")
    expected = whole.run_to("train").result["sha256"]
    killed.run_to("prepare")
    mark = tmp_path / "mark"
    killed.env = fault("loader", mark, rank=0, step=4)
    process = killed.start("train")
    eventually(lambda: mark.exists() and 3 in killed.stored_steps(), timeout=280)
    kill_group(process)
    killed.env = {}
    resumed = killed.run_to("train").result
    assert resumed["resumedFromStep"] >= 3
    assert resumed["sha256"] == expected

    config = json.loads((killed.run_folder / "adapter" / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["model.norm"]  # PEFT would take all that end in norm
    points = [json.loads(line) for line in killed.curve.read_text().splitlines()]
    rates = [point["learning_rate"] for point in points if "learning_rate" in point]
    # Half of the steps warm up, and the last two decay.
    assert rates[:7] == pytest.approx([0, 2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])
    assert rates[-1] < 1e-2
    killed.run_to("evaluate")
    saved = load_file(killed.run_folder / "adapter" / "adapter_model.safetensors")
    merged = load_file(killed.run_folder / "merged" / "model.safetensors")
    norm = saved["base_model.model.model.norm.weight"]
    assert norm.tolist() == merged["model.norm.weight"].tolist() != [1.0] * len(norm)


@pytest.mark.parametrize(
    ("module", "reason"), [("embed_tokens", "TiedModules"), ("nrm", "NoMatchingModules")]
)
def test_modules_that_cannot_be_saved_are_refused(
    bench: Callable[..., Workbench], module: str, reason: str
) -> None:
    workbench = bench({"method": {"adapter": {"modulesToSave": [module]}}})
    workbench.run_to("prepare")
    assert workbench.run("train").termination["reason"] == reason
