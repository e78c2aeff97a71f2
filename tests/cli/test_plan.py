"""``finetune plan`` as users call it, without data and without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.cases.spec_cases import minimal_job
from kit.processes.cli import Cli

LLAMA_70B = {
    "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
ROWS = ("--rows", "20000", "--tokens", "4000000", "--longest", "900")
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 256,
}  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    for name, config in (("model", LLAMA_70B), ("small", LLAMA_70B | SMALL)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text("{}")
    body = minimal_job()
    body["spec"]["model"] = {"uri": f"file://{tmp_path}/model"}
    body["spec"]["output"] = {"uri": f"file://{tmp_path}/out"}
    body["spec"]["resources"] = {"gpusPerNode": 8}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    made = Cli(tmp_path, use_fake_trainer=False)
    made.environment["CUDA_VISIBLE_DEVICES"] = ""  # also where there are GPUs
    return made


def plan(cli: Cli, *arguments: str) -> dict[str, Any]:
    done = cli("plan", "job.yaml", "-o", "json", *arguments)
    assert done.code == 0, done.err
    made: dict[str, Any] = json.loads(done.out)
    return made


def test_a_plan_adds_up(cli: Cli) -> None:
    made = plan(cli, *ROWS, "--gpu", "h100", "--gpu-hour-price", "2.50")
    settings = made["plan"]
    assert settings["strategy"] == "FSDP2"
    assert settings["totalSteps"] == 3 * 20_000 / settings["globalBatchSize"]
    product = settings["microBatchSize"] * settings["accumulationSteps"] * settings["worldSize"]
    assert product == settings["globalBatchSize"]
    memory = settings["memory"]
    parts = [value for name, value in memory.items() if name not in ("total", "available")]
    assert sum(parts) == memory["total"] < memory["available"]
    time = made["time"]
    hours = 8 * (time["seconds"] + time["evaluationSeconds"]) / 3600
    assert float(made["cost"]["total"]) == pytest.approx(2.5 * hours, abs=0.05)
    assert {each["name"] for each in settings["reasons"]} >= {"learningRate", "strategy"}
    evaluation = made["evaluation"]["memory"]
    parts = ("weights", "adapter", "cache", "logits", "activations", "overhead")
    assert sum(evaluation[name] for name in parts) == evaluation["total"]
    assert evaluation["onEach"] < evaluation["available"]
    assert len(json.dumps(settings)) < 4096  # it lives in the status


def test_a_plan_reads_well(cli: Cli) -> None:
    done = cli("plan", "job.yaml", *ROWS, "--gpu", "h200")
    assert done.code == 0, done.err
    for word in (
        "8 x H200",
        "20,000 training rows",
        "weights",
        "total",
        "memory of a pod",
        "(resources.memory)",
        "evaluation memory",
        "most of it is the weights",
        "evaluation time",
        "why:",
        "learningRate:",
    ):
        assert word in done.out


def test_a_number_of_questions_that_follows_from_the_data_is_told_as_assumed(cli: Cli) -> None:
    done = cli("plan", "job.yaml", *ROWS, "--gpu", "h200")
    assert "for 500 held-out questions; start-up" in done.out
    done = cli("plan", "job.yaml", *ROWS, "--gpu", "h200", "--set", "evaluation.maxSamples=auto")
    assert "for 500 held-out questions, assumed until the data is prepared" in done.out


def test_a_red_team_is_told_to_come_on_top(cli: Cli) -> None:
    asked = ("--set", "evaluation.engine=VLLM", "--set", "evaluation.redTeam.probes=[dan]")
    done = cli("plan", "job.yaml", *ROWS, "--gpu", "h200", *asked)
    assert done.code == 0, done.err
    assert "red team" in done.out


def test_without_a_gpu_a_plan_is_for_the_cpu_of_this_machine(cli: Cli) -> None:
    made = plan(cli, "--set", "model.uri=file://./small", *ROWS)
    assert made["device"].endswith(" CPU cores of this machine")
    assert "the job asks for GPUs, and this machine has none" in made["warnings"][0]
    on_gpu = plan(cli, "--set", "model.uri=file://./small", *ROWS, "--gpu", "RTX4090")
    assert on_gpu["device"] == "8 x RTX 4090 24 GB"
    assert on_gpu["time"]["tokensPerSecond"] > made["time"]["tokensPerSecond"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "resources.gpusPerNode=1", *ROWS), "does not fit"),
        (("--gpu", "h200", "--set", "resources.memory=1Gi", *ROWS), "resources.memory is 1.0 GiB"),
        (("--rows", "10"), "--rows and --tokens go together"),
        (ROWS, "this machine has no GPU: --gpu h100 plans for one elsewhere"),
        (("--gpu", "abacus", *ROWS), "known kinds are a100-40"),
        (
            ("--set", "model.uri=file://./small", "--gpu-hour-price", "2", *ROWS),
            "--gpu-hour-price is for GPUs, and this plan is for",
        ),
        (("--gpu-hour-price", "cheap", *ROWS), "write a number"),
        (("--set", "resources.gpusPerNode=0", "--gpu", "l4", *ROWS), "trains on CPU"),
    ],
)
def test_what_cannot_be_planned_is_said(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    done = cli("plan", "job.yaml", *arguments)
    assert done.code == 64
    assert words in done.err
