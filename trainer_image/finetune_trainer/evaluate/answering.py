"""Puts the held-out questions to base and tuned model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.trainer import ResolvedJob
from finetune_trainer.evaluate.metrics import Answers, Floats
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.model.hardware import Hardware

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.evaluate.models import ModelPair
    from finetune_trainer.model.encoding import Encoded, Encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What both models said to the same questions."""

    questions: Sequence[Question]
    base: Answers
    tuned: Answers

    @property
    def asked(self) -> list[Question]:
        """The questions that were put to the models."""
        return with_prompt(self.questions)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedQuestions:
    """The questions as tokens.

    Attributes:
        examples: All examples of the rows behind the questions, for the likelihood.
        owners: Index of the question that each example belongs to.
        prompts: Token ids of the questions that have a prompt.
        answer_tokens: Longest answer to generate.
    """

    examples: list[Encoded]
    owners: NDArray[np.int64]
    prompts: list[list[int]]
    answer_tokens: int

    @property
    def num_asks(self) -> int:
        """Rows and prompts that one model is given."""
        return len(self.examples) + len(self.prompts)


def encode_questions(
    encoder: Encoder, questions: Sequence[Question], max_new_tokens: int | str
) -> EncodedQuestions:
    """Encode the questions as training encoded its rows.

    Args:
        encoder: The encoder of training.
        questions: The questions.
        max_new_tokens: Longest answer; a word chooses it by the references.
    """
    from finetune_trainer.evaluate.scoring import answer_length

    examples = [
        (owner, example)
        for owner, question in enumerate(questions)
        for row in question.rows
        for example in encoder.encode_row(row)
    ]
    asks = with_prompt(questions)
    lengths = [encoder.answer_length(row) for question in asks for row in question.rows]
    return EncodedQuestions(
        examples=[example for _, example in examples],
        owners=np.array([owner for owner, _ in examples]),
        prompts=[encoder.encode_prompt(q.prompt, q.tools) for q in asks if q.prompt is not None],
        answer_tokens=answer_length(lengths, max_new_tokens),
    )


def open_models(
    job: ResolvedJob,
    base_dir: Path,
    adapter_dir: Path,
    record: dict[str, Any],
    hardware: Hardware,
    *,
    use_gpu: bool,
) -> ModelPair:
    """Return base and tuned model as they were in training.

    Args:
        job: The effective job.
        base_dir: Local base model.
        adapter_dir: Local adapter, or fully tuned model.
        record: Content of the adapter's ``run.json``.
        hardware: What this node offers.
        use_gpu: Put the models on a GPU.
    """
    import torch

    from finetune_trainer.evaluate.models import ModelPair

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or hardware.num_cpus))
    return ModelPair(
        base_dir,
        adapter_dir,
        dtype=torch.bfloat16 if record["recipe"]["bfloat16"] else torch.float32,
        use_gpu=use_gpu,
        trust_remote_code=job.spec.model.trust_remote_code,
    )


def compare(
    pair: ModelPair,
    encoder: Encoder,
    questions: Sequence[Question],
    encoded: EncodedQuestions,
    *,
    batch_size: int | None,
    on_progress: Callable[[int, int], None],
) -> Comparison:
    """Ask both models everything.

    Args:
        pair: Base and tuned model.
        encoder: Their encoder.
        questions: The questions.
        encoded: The same as tokens.
        batch_size: Answers at once; None fills a token budget.
        on_progress: Told asks done and asks in all.
    """
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, 2 * encoded.num_asks)

    def ask(model: PreTrainedModel) -> Answers:
        return ask_model(model, encoder, encoded, len(questions), batch_size=batch_size, tick=tick)

    with pair.base() as model:
        base = ask(model)
    # Of full fine-tuning these are two models: the first must go before the second comes.
    del model
    with pair.tuned() as model:
        tuned = ask(model)
    return Comparison(questions=questions, base=base, tuned=tuned)


def ask_model(
    model: PreTrainedModel,
    encoder: Encoder,
    encoded: EncodedQuestions,
    num_questions: int,
    *,
    batch_size: int | None,
    tick: Callable[[int], None],
) -> Answers:
    """Score the references' likelihood and generate the answers of one model."""
    from finetune_trainer.evaluate.scoring import generate_answers, score_likelihood

    sums, counts = score_likelihood(model, encoded.examples, pad_id=encoder.pad_id, tick=tick)
    texts = generate_answers(
        model,
        encoder,
        encoded.prompts,
        max_new_tokens=encoded.answer_tokens,
        batch_size=batch_size,
        tick=tick,
    )
    return Answers(
        texts=texts,
        nll_sums=_sum_by(encoded.owners, sums, num_questions),
        num_tokens=_sum_by(encoded.owners, counts, num_questions),
    )


def _sum_by(owners: NDArray[np.int64], values: Floats, size: int) -> Floats:
    # A question may stand for several rows, one per reference.
    return np.bincount(owners, weights=values, minlength=size).astype(np.float64)
