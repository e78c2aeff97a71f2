"""Validation costs a small share of training, and every step is measured on the same rows."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.train.ranks.outcome import describe_sample, describe_selection
from finetune_trainer.train.recipe.lesson import MemoryLimits
from finetune_trainer.train.recipe.planned import explain
from finetune_trainer.train.recipe.recipe import DataShape, Recipe, decide_recipe
from finetune_trainer.train.recipe.validation import (
    MAX_VALIDATION_SHARE,
    MIN_MEASURED_ROWS,
    Objective,
    compare_with_training,
    draw_measured_rows,
    estimate_standard_error,
)

MODEL = describe_architecture(
    {
        "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30,
        "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
        "vocab_size": 49_152, "tie_word_embeddings": True,
    },
    {},
)  # fmt: skip
CPU = Hardware(num_gpus=0, memory_bytes=64 * 2**30, supports_bfloat16=True, num_cpus=2)


def make_job(
    hyperparameters: dict[str, Any] | None = None,
    *,
    every: int | str = "auto",
    method: dict[str, Any] | None = None,
) -> ResolvedJob:
    spec = {
        "model": {"uri": "hf://a/b"},
        "dataset": {"sources": [{"uri": "file:///x"}]},
        "output": {"uri": "file:///y"},
        "resources": {"gpusPerNode": 0},
        "hyperparameters": hyperparameters or {},
        "checkpoint": {"validateEverySteps": every},
        "method": method or {},
    }
    body = {"metadata": {"name": "job"}, "spec": spec}
    return resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")


def shape(train: int, validation: int, *, tokens: int = 50, read: int = 50) -> DataShape:
    """Return sides of so many rows; ``read`` are the tokens of a validation row."""
    return DataShape(
        num_rows=train,
        num_tokens=train * tokens,
        mean_tokens=tokens,
        longest_tokens=tokens,
        num_validation_rows=validation,
        num_validation_tokens=validation * read,
    )


def decide(job: ResolvedJob, data: DataShape, lesson: MemoryLimits | None = None) -> Recipe:
    return decide_recipe(job, data, MODEL, CPU, use_gpu=False, lesson=lesson or MemoryLimits())


def count_validations(recipe: Recipe) -> int:
    return math.ceil(recipe.total_steps / recipe.validation_interval)


@given(
    rows=st.integers(20, 2_000_000), percent=st.integers(1, 50), tokens=st.integers(1, 1024),
    read=st.integers(1, 1024), steps=st.one_of(st.none(), st.integers(1, 20_000)),
    objective=st.sampled_from(["SFT", "DPO", "ORPO", "KTO"]), is_full=st.booleans(),
)  # fmt: skip
def test_validation_costs_a_tenth_of_training_or_measures_few_rows(
    rows: int, percent: int, tokens: int, read: int, steps: int | None, objective: Objective,
    is_full: bool,
) -> None:  # fmt: skip
    validation = max(1, rows * percent // 100)
    method: dict[str, Any] = {"objective": objective}
    if is_full and objective == "SFT":
        method["adapter"] = {"type": "Full"}
    job = make_job({"maxSteps": steps} if steps else None, method=method)
    data = shape(max(1, rows - validation), validation, tokens=tokens, read=read)
    recipe = decide(job, data)
    measured, cost = recipe.num_measured_rows, compare_with_training(
        objective, is_full=job.spec.method.adapter.type == "Full"
    )  # fmt: skip
    trained = recipe.total_steps * min(recipe.global_batch_size * tokens, data.num_tokens)
    share = count_validations(recipe) * measured * read * cost / trained
    assert 1 <= measured <= validation
    assert share <= MAX_VALIDATION_SHARE or measured == min(validation, MIN_MEASURED_ROWS)
    # Not fewer than the share allows: a smaller sample is a less exact choice.
    one_more = share * (measured + 1) / measured
    assert measured == validation or one_more > MAX_VALIDATION_SHARE
    assert count_validations(recipe) <= 6


def test_a_short_run_over_many_rows_measures_a_sample() -> None:
    recipe = decide(make_job({"maxSteps": 60}), shape(37_500, 2_500))
    assert (recipe.global_batch_size, recipe.validation_interval) == (32, 10)
    assert (recipe.num_measured_rows, recipe.num_validation_rows) == (100, 2_500)


@pytest.mark.parametrize(
    ("data", "every"),
    [
        (shape(225, 15), "auto"),  # a small side, whatever it costs
        (shape(1_500, 100), "auto"),
        (shape(37_500, 2_500), "auto"),  # three epochs
        (shape(37_500, 2_500), 10),  # the user's own number of steps
        (shape(225, 0), "auto"),
    ],
)
def test_a_cheap_side_and_one_with_a_set_interval_are_measured_whole(
    data: DataShape, every: int | str
) -> None:
    steps = {"maxSteps": 60} if data.num_validation_rows <= 100 or every != "auto" else None
    recipe = decide(make_job(steps, every=every), data)
    assert recipe.num_measured_rows == data.num_validation_rows
    assert recipe.validation_batch_size == recipe.micro_batch_size
    assert describe_sample(recipe) == ""


def test_an_attempt_with_less_memory_measures_the_same_rows() -> None:
    job, data = make_job({"maxSteps": 400}), shape(37_500, 2_500)
    first = decide(job, data)
    again = decide(job, data, MemoryLimits(out_of_memory_at=8, max_micro_batch=1, recomputes=True))
    assert (first.micro_batch_size, again.micro_batch_size) == (32, 1)
    assert again.activation_checkpointing
    assert first.num_measured_rows == again.num_measured_rows < 2_500


@given(rows=st.integers(1, 3_000), few=st.integers(1, 3_000), seed=st.integers(0, 2**31 - 1))
def test_the_sample_is_fixed_and_a_part_of_every_larger_one(rows: int, few: int, seed: int) -> None:
    drawn = draw_measured_rows(rows, few, seed=seed)
    assert drawn == draw_measured_rows(rows, few, seed=seed)
    assert len(set(drawn)) == len(drawn) == min(few, rows)
    assert set(drawn) <= set(range(rows))
    assert set(drawn) <= set(draw_measured_rows(rows, few + 1, seed=seed))


def test_the_whole_side_keeps_its_order() -> None:
    assert draw_measured_rows(5, 5, seed=1) == draw_measured_rows(5, 9, seed=1) == [0, 1, 2, 3, 4]


def test_a_sample_is_divided_into_batches_that_tell_its_standard_error() -> None:
    recipe = decide(make_job({"maxSteps": 60}), shape(37_500, 2_500))
    assert recipe.micro_batch_size == 32
    assert recipe.validation_batch_size == 10
    shared = replace(recipe, world_size=4)
    assert shared.validation_batch_size == 2


def sums_of(losses: list[float], weights: list[int]) -> list[float]:
    pairs = list(zip(losses, weights, strict=True))
    terms = [(w * x, w, w * w, w * w * x, (w * x) ** 2, 1) for x, w in pairs]
    return [sum(column) for column in zip(*terms, strict=True)]


def test_the_standard_error_is_the_scatter_of_the_mean_over_samples() -> None:
    rng = random.Random(3)
    means, errors = [], []
    for _ in range(2_000):
        weights = [rng.randint(5, 15) for _ in range(20)]
        losses = [rng.gauss(2.0, 0.5) for _ in weights]
        sums = sums_of(losses, weights)
        means.append(sums[0] / sums[1])
        error = estimate_standard_error(sums)
        assert error is not None
        errors.append(error)
    assert statistics.mean(errors) == pytest.approx(statistics.stdev(means), rel=0.05)


def test_equal_weights_give_the_textbook_standard_error() -> None:
    losses = [1.0, 2.0, 4.0, 4.5]
    error = estimate_standard_error(sums_of(losses, [3, 3, 3, 3]))
    assert error == pytest.approx(statistics.stdev(losses) / 2)


@pytest.mark.parametrize("losses", [[1.5], [], [math.nan, 1.0]])
def test_one_batch_or_no_number_has_no_standard_error(losses: list[float]) -> None:
    sums = sums_of(losses, [4] * len(losses)) if losses else [0.0] * 6
    assert estimate_standard_error(sums) is None


def test_log_and_plan_name_the_measured_rows_and_the_standard_error() -> None:
    job, data = make_job({"maxSteps": 60}), shape(37_500, 2_500)
    recipe = decide(job, data)
    assert "measured on 100 of 2,500 validation rows" in describe_sample(recipe)
    reason = explain(job, data, MODEL, recipe)["validateEverySteps"]
    assert "the same 100 of 2,500 validation rows each time" in reason
    assert len(reason) <= 253
    whole = decide(make_job(), shape(225, 15))
    assert "all 15 validation rows" in explain(make_job(), shape(225, 15), MODEL, whole)[
        "validateEverySteps"
    ]  # fmt: skip
    selection = {
        "step": 60, "validation_loss": 0.5, "validation_error": 0.0125, "last_step": 60,
        "last_validation_loss": 0.5, "planned_steps": 60,
    }  # fmt: skip
    told = "the weights after step 60 are kept, validation loss 0.5000 with standard error 0.0125"
    assert describe_selection(selection) == told
