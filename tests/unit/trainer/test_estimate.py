"""What a job takes is reckoned before it runs: on which GPU, for which tokens and questions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from finetune_api.protocol.stage_results import RowCounts
from finetune_api.protocol.trainer import Environment, GPUKind, ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.data.expected import (
    NOTHING_ASKED,
    Questions,
    expect_held_out,
    expect_validation,
)
from finetune_trainer.data.report import tokenizer_name
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import UserError
from finetune_trainer.estimate import (
    estimate_time,
    on_gpus,
    plan_on,
    read_device,
)
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.plan import choose_device
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.planning.throughput import GPUS, find_gpu
from finetune_trainer.train.recipe.recipe import DataShape
from kit.cases.spec_cases import minimal_job
from kit.reports.data_reports import report

LLAMA_8B = describe_architecture(
    {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "tie_word_embeddings": False,
    },
    {},
)  # fmt: skip
DATA = DataShape(num_rows=5000, num_tokens=2_000_000, mean_tokens=400, longest_tokens=900)
ASKED = Questions(number=500, prompt_tokens=300, answer_tokens=100)


def resolved(**spec: Any) -> ResolvedJob:
    body = minimal_job()
    body["spec"] |= {"resources": {"gpusPerNode": 1}, **spec}
    return resolve_job(FineTuneJob.from_wire(body), namespace="team-a", uid="u")


def reckon(
    kind: GPUKind = "h100",
    *,
    is_known: bool = True,
    validation: Questions = NOTHING_ASKED,
    **spec: Any,
) -> Any:
    job = resolved(**spec)
    device = on_gpus(job, GPUS[kind], is_known=is_known)
    return estimate_time(plan_on(device, job, DATA, LLAMA_8B), ASKED, validation)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("h100", "H100 SXM 80 GB"),
        ("NVIDIA-H100-80GB-HBM3", "H100 SXM 80 GB"),
        ("NVIDIA-H100-PCIe", "H100 PCIe 80 GB"),
        ("nvidia-h100-mega-80gb", "H100 SXM 80 GB"),
        ("NVIDIA-H200", "H200 141 GB"),
        ("NVIDIA-A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA-A100-PCIE-40GB", "A100 40 GB"),
        ("nvidia-tesla-a100", "A100 40 GB"),
        ("a100-80", "A100 80 GB"),
        ("Tesla-T4", "T4 16 GB"),
        ("NVIDIA-L40S", "L40S 48 GB"),
        ("NVIDIA-GeForce-RTX-4090", "RTX 4090 24 GB"),
        ("RTX4090", "RTX 4090 24 GB"),
        ("rtx 4090", "RTX 4090 24 GB"),
        ("A100 80GB", "A100 80 GB"),
        ("A100-40", "A100 40 GB"),
        ("H100-PCIe", "H100 PCIe 80 GB"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", None),  # an eighth of one
        ("NVIDIA-H100-80GB-HBM3-SHARED", None),
        ("NVIDIA-GH200-480GB", None),
        ("NVIDIA-L40", None),
        ("Tesla-V100-SXM2-16GB", None),
        ("", None),
    ],
)
def test_a_gpu_is_known_by_its_kind_or_by_a_label_of_its_node(words: str, name: str | None) -> None:
    found = find_gpu(words)
    assert (found.name if found else None) == name


def test_every_kind_that_may_be_configured_has_its_figures() -> None:
    assert set(GPUS) == set(get_args(GPUKind))
    for gpu in GPUS.values():
        assert 1e11 < gpu.bandwidth < 1e13


def test_an_8b_model_on_an_h100_takes_what_such_runs_take() -> None:
    found = reckon()
    # 6 million tokens at 6,000 to 15,000 a second; 500 questions in three ways.
    assert found.tokens == pytest.approx(6_000_000, rel=0.02)
    assert 400 < found.train_seconds < 1000
    assert 60 < found.evaluate_seconds < 600
    assert 0.2 < found.least_train_seconds / found.train_seconds < 0.5


def test_time_follows_tokens_gpus_and_their_kind() -> None:
    one = reckon()
    assert reckon(hyperparameters={"epochs": "6"}).train_seconds == pytest.approx(
        2 * one.train_seconds, rel=0.02
    )
    assert reckon("a100-80").train_seconds > 2.5 * one.train_seconds
    eight = reckon(resources={"gpusPerNode": 8})
    assert eight.train_seconds < one.train_seconds / 3
    assert eight.evaluate_seconds < one.evaluate_seconds / 2
    assert eight.device == "8 x H100 SXM 80 GB"
    as_is = reckon(evaluation={"baseline": "AsIs"})
    assert as_is.evaluate_seconds < one.evaluate_seconds


def test_answers_to_validation_rows_are_a_part_of_training() -> None:
    without = reckon(evaluation={"baseline": "AsIs"})
    found = reckon(evaluation={"baseline": "AsIs"}, validation=ASKED)
    assert without.validation_seconds == 0
    assert found.validation_seconds == pytest.approx(found.evaluate_seconds / 2, abs=1)
    assert found.train_seconds == without.train_seconds + found.validation_seconds
    assert found.least_train_seconds == without.least_train_seconds


@pytest.mark.parametrize(
    ("validation", "number", "answer_tokens"),
    [
        (None, 0, 0),
        ({"metric": "rougeL"}, 150, 40),
        ({"metric": "rougeL", "maxSamples": 20}, 20, 40),
        ({"metric": "preferenceAccuracy"}, 150, 0),
        ({"metric": "loss"}, 150, 0),
    ],
)
def test_what_is_asked_of_validation_rows_is_what_its_metric_takes(
    validation: dict[str, Any] | None, number: int, answer_tokens: int
) -> None:
    evaluation = {"maxNewTokens": 40} | ({"validation": validation} if validation else {})
    pairs = {"method": {"objective": "DPO"}}
    job = resolved(evaluation=evaluation, **pairs)
    (sides,) = report().tokens.values()
    of_validation = sides[Side.TRAIN].model_copy(update={"tokens": 90_000})
    known = report(
        rows=RowCounts(train=750, validation=150, test=150),
        tokens={tokenizer_name(job.spec.model): {**sides, Side.VALIDATION: of_validation}},
    )
    asked = expect_validation(job, known)
    assert (asked.number, asked.answer_tokens) == (number, answer_tokens)
    if number:  # a row has the same tokens, read or answered
        assert asked.prompt_tokens + asked.answer_tokens == 120
    assert expect_held_out(job, known).number == 150


@pytest.mark.parametrize(
    ("metric", "asked", "more"),
    [("rougeL", "auto", 1024), ("rougeL", 40, 0), ("loss", "auto", 0)],
)
def test_reasoning_is_counted_where_answers_are_asked_for(
    metric: str, asked: int | str, more: int
) -> None:
    job = resolved(evaluation={"maxNewTokens": asked, "validation": {"metric": metric}})
    (sides,) = report().tokens.values()
    known = report(
        rows=RowCounts(train=750, validation=150, test=150),
        tokens={tokenizer_name(job.spec.model): sides},
    )
    plain, reasons = (
        expect_validation(job, known, may_reason=may_reason) for may_reason in (False, True)
    )
    assert reasons.answer_tokens == plain.answer_tokens + more
    assert reasons.prompt_tokens == plain.prompt_tokens
    held_out = expect_held_out(job, known, may_reason=True)
    assert held_out.answer_tokens - expect_held_out(job, known).answer_tokens == (
        1024 if asked == "auto" else 0
    )


def test_the_least_is_told_only_where_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reckon().least_train_seconds > 0
    assert reckon(is_known=False).least_train_seconds == 0
    early = reckon(checkpoint={"earlyStopping": {"patience": 3}})
    assert early.least_train_seconds == 0
    monkeypatch.setenv(Environment.ALLOW_CPU, "1")
    assert reckon().least_train_seconds == 0


def test_the_device_is_what_the_operator_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(Environment.TRAINING_NODE, "{}")
    assert not read_device(resolved()).is_known
    node = {"gpu": "Tesla-T4", "cpus": 6, "memoryBytes": 32 * 2**30}
    monkeypatch.setenv(Environment.TRAINING_NODE, json.dumps(node))
    device = read_device(resolved())
    assert (device.name, device.is_known) == ("1 x T4 16 GB", True)
    device = read_device(resolved(resources={"gpusPerNode": 0}))
    assert (device.name, device.gpu) == ("6 CPU cores", None)
    assert device.hardware.memory_bytes == 32 * 2**30


@pytest.mark.parametrize(
    ("kind", "name", "is_known"),
    [
        ("", "4 CPU cores of this machine", True),
        ("NVIDIA GeForce RTX 4090", "1 x RTX 4090 24 GB", True),
        ("Abacus 9000", "1 x H100 SXM 80 GB", False),
    ],
)
def test_without_a_cluster_the_device_is_that_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, is_known: bool
) -> None:
    here = Hardware(
        num_gpus=1 if kind else 0,
        memory_bytes=32 * 2**30,
        supports_bfloat16=True,
        num_cpus=4,
        kind=kind,
    )
    monkeypatch.delenv(Environment.TRAINING_NODE, raising=False)
    monkeypatch.setattr("finetune_trainer.estimate.detect_hardware", lambda: here)
    device = read_device(resolved())
    assert (device.name, device.is_known) == (name, is_known)
    assert choose_device(resolved(), None) == device
    assert choose_device(resolved(), "RTX4090").name == "1 x RTX 4090 24 GB"


def test_an_8b_model_takes_a_cpu_far_longer_than_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Hardware(num_gpus=0, memory_bytes=256 * 2**30, supports_bfloat16=True, num_cpus=8)
    monkeypatch.delenv(Environment.TRAINING_NODE, raising=False)
    monkeypatch.setattr("finetune_trainer.estimate.detect_hardware", lambda: here)
    job = resolved()
    found = estimate_time(plan_on(read_device(job), job, DATA, LLAMA_8B), ASKED)
    assert found.train_seconds > 100 * reckon().train_seconds


def test_no_plan_is_made_for_names_that_mean_experts() -> None:
    mixture = replace(LLAMA_8B, model_type="deepseek_v3")
    job = resolved(method={"adapter": {"targetModules": ["o_proj", "mlp.down_proj"]}})
    device = on_gpus(job, GPUS["h100"])
    with pytest.raises(UserError, match=r"takes mlp\.down_proj for the experts"):
        plan_on(device, job, DATA, mixture)
    assert plan_on(device, job, DATA, LLAMA_8B).setup.targets == ("o_proj", "mlp.down_proj")
