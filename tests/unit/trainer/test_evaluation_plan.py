"""A job whose evaluation cannot fit is refused before it trains, and only such a job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finetune_api.protocol.trainer import resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.inference.workers import adapter_bytes, choose_held, count_row_bytes
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.encoding import TokenizedExample
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.answering import estimate_answering, most_held, one_row
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.planning.caches import CacheShape
from finetune_trainer.planning.placement import Placement
from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.recipe.evaluation import EvaluationPlan, plan_evaluation
from finetune_trainer.train.recipe.recipe import DataShape, decide_recipe
from kit.cases.spec_cases import changed, minimal_job

pytestmark = pytest.mark.slow  # it needs torch

GIB = 2**30
WIDE = {
    "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "head_dim": 256,
    "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
    "vocab_size": 262144, "tie_word_embeddings": True,
}  # fmt: skip


def plan(
    *, memory: float, longest: int, gpus: int = 0, may_reason: bool = False, **evaluation: object
) -> EvaluationPlan:
    body = changed(
        minimal_job(),
        {
            "spec.resources": {"gpusPerNode": gpus},
            "spec.hyperparameters": {"maxSequenceLength": longest},
            "spec.evaluation": evaluation,
        },
    )
    job = resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")
    data = DataShape(
        num_rows=1000, num_tokens=1000 * longest, mean_tokens=longest, longest_tokens=longest
    )
    model = describe_architecture(WIDE, {})
    hardware = Hardware(
        num_gpus=gpus, memory_bytes=int(memory * GIB), supports_bfloat16=True, num_cpus=4
    )
    large = Hardware(num_gpus=gpus, memory_bytes=640 * GIB, supports_bfloat16=True, num_cpus=4)
    recipe = decide_recipe(job, data, model, large, use_gpu=gpus > 0)
    return plan_evaluation(job, data, model, recipe, hardware, may_reason=may_reason)


def test_a_wide_vocabulary_decides_by_its_logits() -> None:
    made = plan(memory=16, longest=512).to_json()
    assert made["decidedBy"].startswith("the logits")
    # 4,096 tokens at once, or as many as are whole columns of all rows: a bfloat16 logit, and two
    # float32 images of each that counts.
    rows = 16384 // 513
    assert made["memory"]["logits"] == rows * (4096 // rows) * 262144 * (2 + 8)


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_fits_in_halves_is_not_refused(gpus: int) -> None:
    # All 4,096 tokens at once would need more than there is; a row of 512 does not.
    made = plan(memory=6, longest=512, gpus=gpus)
    assert made.memory.total > 6 * GIB
    assert made.placement.num_workers == 1


@pytest.mark.parametrize("gpus", [0, 1])
def test_as_many_are_answered_together_as_find_room(gpus: int) -> None:
    plans = [plan(memory=memory, longest=512, gpus=gpus) for memory in (6, 13.1, 13.4, 16)]
    assert [made.held_tokens for made in plans] == [4096, 4096, 8192, 16384]
    # What goes through the model at once stays as much.
    assert plans[-1].memory.logits <= plans[0].memory.logits


PHI3 = {"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}}
STATES = {"model_type": "lfm2", "layer_types": ["conv", "full_attention"] * 9, "conv_L_cache": 3}


@pytest.mark.parametrize(
    ("config", "held"),
    [
        ({}, 16384),
        (STATES, 4096),
        (PHI3, 4096),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 2.0}}}, 4096),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 16384),
        ({"rope_scaling": None}, 16384),
    ],
)
def test_a_model_that_reads_in_one_piece_answers_few_together(
    config: dict[str, Any], held: int
) -> None:
    model = describe_architecture({**WIDE, **config}, {})
    found = most_held(model, lambda _: 0, GIB, num_batches=lambda _: 1, num_workers=1)
    assert (found, model.reads_in_one_piece) == (held, held == 4096)


def test_what_is_read_in_one_piece_is_planned_so() -> None:
    asked = replace(plan(memory=64, longest=512).asked, rows=32, prompt_tokens=504, answer_tokens=8)
    setup = Setup(adapter="Full", bfloat16=True)
    few_logits = {**WIDE, "vocab_size": 1000}
    parts, whole = (
        estimate_answering(describe_architecture({**few_logits, **config}, {}), setup, asked)
        for config in ({}, PHI3)
    )
    assert whole.activations > 2 * parts.activations


@pytest.mark.parametrize(("num_workers", "held"), [(1, 16384), (2, 16384), (3, 8192), (99, 4096)])
def test_no_worker_is_left_without_a_batch_for_the_sake_of_large_ones(
    num_workers: int, held: int
) -> None:
    model = describe_architecture(WIDE, {})
    batches = {16384: 2, 8192: 4, 4096: 8}
    assert held == most_held(
        model, lambda _: 0, GIB, num_batches=batches.__getitem__, num_workers=num_workers
    )


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_longest_row_that_cannot_fit_alone_is_refused(gpus: int) -> None:
    with pytest.raises(UserError) as refused:
        plan(memory=12, longest=32768, gpus=gpus)
    assert refused.value.reason == "ModelTooLarge"
    assert "longest row alone" in refused.value.message


def test_reasoning_has_its_room_in_the_plan_where_the_job_leaves_it_to_us() -> None:
    plain = plan(memory=64, longest=512).asked
    asked = plan(memory=64, longest=512, may_reason=True).asked
    assert (asked.prompt_tokens, asked.answer_tokens) == (1, plain.answer_tokens + 1024)
    assert asked.rows == 16384 // (1 + 512 + 1024)
    assert asked.reference_tokens == plain.reference_tokens == 512
    told = plan(memory=64, longest=512, may_reason=True, maxNewTokens=40).asked
    assert told == plan(memory=64, longest=512, maxNewTokens=40).asked


@pytest.mark.parametrize(
    "longer", [{"may_reason": True}, {"maxNewTokens": 512 + 1024}], ids=["auto", "as told"]
)
def test_no_logits_of_references_are_held_for_reasoning(longer: dict[str, Any]) -> None:
    model = describe_architecture(WIDE, {})
    setup = Setup(adapter="Full", bfloat16=True)
    plain, more = (one_row(plan(memory=64, longest=512, **each).asked) for each in ({}, longer))
    before, after = (estimate_answering(model, setup, each) for each in (plain, more))
    assert after.logits == before.logits
    tokens = more.prompt_tokens + more.answer_tokens - plain.prompt_tokens - plain.answer_tokens
    assert tokens >= 1024
    # A cache that is copied as it grows, and what goes through the blocks.
    assert after.total - before.total <= tokens * (2 * 18 * 2 * 256 * 2 + 2 * 640 * 2)


@pytest.mark.parametrize(
    ("memory", "workers", "gpus_per_worker", "num_choices", "held"),
    [
        (16, 1, 0, 0, 16384),
        (2.6, 1, 0, 0, 8192),  # one process on the CPU
        (5.2, 2, 0, 0, 8192),  # two share the memory
        (2.6, 2, 1, 0, 8192),  # each has its GPU
        (2.6, 2, 2, 0, 16384),  # the weights are spread
        (2.0, 1, 1, 0, 4096),
        (3.1, 1, 1, 0, 16384),
        (3.1, 1, 1, 300, 8192),  # choices are read behind a copy of what is held
    ],
)
def test_a_worker_answers_as_many_together_as_its_device_has_room_for(
    memory: float, workers: int, gpus_per_worker: int, num_choices: int, held: int
) -> None:
    encoded = TokenizedQuestions(
        examples=[],
        owners=np.zeros(0, dtype=np.int64),
        prompts=[[1] * (100 + n % 7) for n in range(300)],
        answer_tokens=28,
        choices=[[n, 2] for n in range(num_choices)],
    )
    found = choose_held(
        describe_architecture(WIDE, {}),
        [encoded],
        size=GIB,
        bfloat16=True,
        placement=Placement(num_workers=workers, gpus_per_worker=gpus_per_worker),
        hardware=Hardware(
            num_gpus=2, memory_bytes=int(memory * GIB), supports_bfloat16=True, num_cpus=4
        ),
    )
    assert found == held


def test_an_adapter_is_counted_as_it_is_loaded(tmp_path: Path) -> None:
    assert adapter_bytes(None) == adapter_bytes(tmp_path) == 0
    halves = {"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7)}
    save_file(halves, tmp_path / "adapter_model.safetensors")
    assert adapter_bytes(tmp_path) == 4 * (15 + 7)


def test_what_was_read_last_stays_in_a_window_until_more_is_read() -> None:
    window = CacheShape(sliding_layers=3, window=16, token_values=10)
    assert [window.num_bytes(n, 2) for n in (8, 15, 40)] == [480, 900, 900]
    assert [window.num_bytes(n, 2, read=30) for n in (8, 40, 90)] == [480, 2400, 2640]


def test_attention_that_is_written_out_is_counted() -> None:
    asked = replace(plan(memory=64, longest=512).asked, rows=32, prompt_tokens=504, answer_tokens=8)
    setup = Setup(adapter="Full", bfloat16=True)
    few_logits = {**WIDE, "vocab_size": 1000}
    plain, written = (
        estimate_answering(
            describe_architecture({**few_logits, "model_type": kind}, {}), setup, asked
        )
        for kind in ("llama", "gpt_oss")
    )
    # Of each row and head 128 tokens that see 504, a bfloat16 score and its float32 image.
    assert written.total > plain.total + 32 * 4 * 128 * 504 * (2 + 4) // 2


def test_a_worker_holds_logits_of_what_continues_a_prompt_alone() -> None:
    model = describe_architecture(WIDE, {})

    def encode(answer_tokens: int) -> TokenizedQuestions:
        return TokenizedQuestions(
            examples=[TokenizedExample(input_ids=[1] * 120, spans=((100, 120),), num_cut=0)],
            owners=np.zeros(1, dtype=np.int64),
            prompts=[[1] * 100],
            answer_tokens=answer_tokens,
        )

    short, long = (count_row_bytes(model, encode(n), bfloat16=True) for n in (28, 28 + 1024))
    assert long - short < 262144 * 1024
