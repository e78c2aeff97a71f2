"""What the train side gives an evaluation: a prompt for the base, and answers that are usual."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.spec.method import Method
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.evaluate.metrics.labels import looks_like_labels
from finetune_trainer.evaluate.metrics.structured import looks_like_json
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.questions import with_prompt
from finetune_trainer.evaluate.sources.prompt_baseline.fitting import (
    Prompted,
    measure_room,
    prompt_questions,
)
from finetune_trainer.evaluate.sources.prompt_baseline.material import gather_material
from finetune_trainer.evaluate.train_side import read_train_split
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import context_of
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.model.load import read_config
from finetune_trainer.run import RunStorage

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class FromTrainSplit:
    """What the train side gives an evaluation.

    Attributes:
        prompted: The questions behind a prompt; None where there is none.
        not_prompted: Why there is none.
        answers: Prompts and answers of some of its rows; empty where it was not read.
    """

    prompted: Prompted | None = None
    not_prompted: str = ""
    answers: tuple[tuple[str, str], ...] = ()


def make_prompted(
    storage: RunStorage,
    work_dir: Path,
    load_tokenizer: Callable[[], PreTrainedTokenizerBase],
    prepared: Prepared,
    asked: QuestionSet,
    *,
    config_dir: Path,
) -> FromTrainSplit:
    """Put the held-out questions behind the prompt that a person would write for the base model.

    Args:
        storage: The run's.
        work_dir: The run's scratch folder on this node.
        load_tokenizer: Loads the tokenizer of the base model.
        prepared: The run's data set.
        asked: The held-out questions, without a prompt.
        config_dir: Folder with the base model's configuration.

    Raises:
        StorageError: The data set cannot be read.
    """
    job, questions = storage.job, asked.questions
    is_asked = job.spec.evaluation.baseline != "AsIs"
    not_asked = "evaluation.baseline is AsIs"
    references = [question.references for question in with_prompt(questions)]
    if not references:
        reason = "plain text has no questions, so there is nothing to prompt"
        return FromTrainSplit(not_prompted=reason if is_asked else not_asked)
    encoder = _make_chat_tokenizer(job.spec.method, load_tokenizer(), prepared)
    rows, problem = read_train_split(storage.output, job, work_dir, prepared)
    material = gather_material(
        rows,
        are_labels=looks_like_labels(references),
        seed=job.spec.dataset.split.seed,
        read_answer=encoder.read_answer,
    )
    if not is_asked:
        return FromTrainSplit(not_prompted=not_asked, answers=material.answers)
    prompted, reason = prompt_questions(
        questions,
        material,
        encoder,
        room=measure_room(asked.encoded, context_of(read_config(config_dir))),
        is_json=looks_like_json(references),
    )
    told = [*([problem] if problem else []), *(prompted.told if prompted else [reason])]
    for text in told:
        storage.say(f"the base with a prompt: {text}")
    return FromTrainSplit(prompted=prompted, not_prompted=reason, answers=material.answers)


def _make_chat_tokenizer(
    method: Method, tokenizer: PreTrainedTokenizerBase, prepared: Prepared
) -> ChatTokenizer:
    """Return an encoder of rows of any length; what stands before a question never counts."""
    only_last = method.loss == "All" or method.objective != "SFT"
    return ChatTokenizer(
        tokenizer,
        read_format(prepared.folder),
        loss="Completion" if only_last else method.loss,
        max_tokens=sys.maxsize,
    )
