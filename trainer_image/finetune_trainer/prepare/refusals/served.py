"""Refuses adapters and questions before training that the trainer or a server could not use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.asking import draw_questions
from finetune_trainer.data.held_out import digest_of, read_rows
from finetune_trainer.data.rows import group_of, other_answer, prompt_of
from finetune_trainer.errors import DataError, UserError
from finetune_trainer.model.adapters import check_target_names
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import served_context
from finetune_trainer.model.encoding import ChatTokenizer, make_encoder
from finetune_trainer.model.load import read_config, read_model_architecture
from finetune_trainer.planning.answering import answer_length
from finetune_trainer.planning.experts import choose_targets, reaches_experts
from finetune_trainer.run import BaseModel

_DROP = "hyperparameters.maxSequenceLength with dataset.onTooLong: Drop"


def require_adapter(job: ResolvedJob, folder: Path) -> None:
    """Refuse an adapter on names of a mixture's experts, and a vLLM server for one on experts.

    vLLM silently drops an adapter's changes in modules that it does not support. The model's
    configuration is enough.

    Raises:
        UserError: ``InvalidTargetModules`` or ``EngineUnsuitable``.
    """
    adapter, asks_server = job.spec.method.adapter, job.spec.evaluation.engine == "VLLM"
    if not (adapter.target_modules or asks_server):
        return
    model = read_model_architecture(folder)
    check_target_names(adapter, model.model_type)
    targets = choose_targets(adapter.target_modules, model)
    if asks_server and reaches_experts(model.model_type, targets):
        raise UserError(
            "EngineUnsuitable",
            f"evaluation.engine VLLM: method.adapter.targetModules {', '.join(targets)} changes "
            f"experts of this mixture ({model.model_type}), which was never tried with vLLM; use "
            "Transformers, or name the attention's modules, such as q_proj and v_proj (auto does)",
        )


def require_context(model: BaseModel, folder: Path, *, num_questions: int) -> None:
    """Refuse held-out questions that are longer than a vLLM server's model length.

    Raises:
        UserError: ``EngineUnsuitable``.
        DataError: The chat template does not write a row.
    """
    job = model.storage.job
    if job.spec.evaluation.engine != "VLLM":
        return
    model_dir, _ = model.fetch(include_weights=False)
    room = served_context(read_config(model_dir))
    if room is None:
        return
    encoder = make_encoder(job, model.load_tokenizer(), read_format(folder))
    seed = job.spec.dataset.split.seed
    lengths = _measure(encoder, _asked(folder, most=num_questions, seed=seed))
    asked = job.spec.evaluation.max_new_tokens
    # Reasoning before an answer has what that leaves, and needs no room of its own.
    answer = answer_length(lengths.answers, asked)
    if problem := _find_problem(lengths, answer, room, is_auto=asked == "auto"):
        raise UserError("EngineUnsuitable", f"evaluation.engine VLLM: {problem}")


def find_unserved(
    model: BaseModel, folder: Path, *, num_questions: int
) -> list[DataError | UserError]:
    """Return all refusals of :func:`require_adapter` and :func:`require_context`."""
    model_dir, _ = model.fetch(include_weights=False)
    refusals: list[DataError | UserError] = []
    for require in (
        partial(require_adapter, model.storage.job, model_dir),
        partial(require_context, model, folder, num_questions=num_questions),
    ):
        try:
            require()
        except (DataError, UserError) as error:
            refusals.append(error)
    return refusals


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    """Tokens of the longest example and prompt, and of every reference."""

    example: int
    prompt: int
    answers: list[int]


def _find_problem(lengths: _Lengths, answer: int, room: int, *, is_auto: bool) -> str:
    """Return why these lengths find no room, with the remedy; empty if they do."""
    takes = f"more than the {room:,} that the model takes (config.json)"
    if lengths.example > room:
        return (
            f"the longest held-out example has {lengths.example:,} tokens, {takes}; set "
            f"hyperparameters.maxSequenceLength to at most {room:,}, or use Transformers"
        )
    if lengths.answers and lengths.prompt + answer > room:
        chosen = "auto is" if is_auto else "is"
        remedy = f"leave longer rows out ({_DROP}), or use Transformers"
        if lengths.prompt < room:
            left = room - lengths.prompt
            remedy = f"set evaluation.maxNewTokens to at most {left:,}, {remedy}"
        return (
            f"the longest held-out prompt has {lengths.prompt:,} tokens and its answer up to "
            f"{answer:,} (evaluation.maxNewTokens {chosen} {answer:,}), {takes}; {remedy}"
        )
    return ""


def _measure(encoder: ChatTokenizer, rows: Iterator[dict[str, Any]]) -> _Lengths:
    example, prompt = 0, 0
    answers: list[int] = []
    for row in rows:
        examples = list(encoder.encode_row(row))
        if "rejected" in row:
            examples += encoder.encode_row(other_answer(row))
        example = max([example, *(len(each.input_ids) for each in examples)])
        if "text" not in row:
            prompt = max(prompt, len(encoder.encode_prompt(prompt_of(row), row.get("tools"))))
            answers.append(encoder.answer_length(row))
    return _Lengths(example=example, prompt=prompt, answers=answers)


def _asked(folder: Path, *, most: int, seed: int) -> Iterator[dict[str, Any]]:
    groups: dict[bytes, str] = {}
    for row in read_rows(folder):
        if row.get("label") is not False:
            groups.setdefault(digest_of(row), group_of(row))
    digests = list(groups)
    places = draw_questions(list(groups.values()), most=most, seed=seed)
    drawn = {digests[place] for place in places}
    for row in read_rows(folder):
        if row.get("label") is not False and digest_of(row) in drawn:
            yield row
