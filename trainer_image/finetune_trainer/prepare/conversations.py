"""Decide how the job's conversations are written, and refuse what the model cannot say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from finetune_trainer.errors import UserError
from finetune_trainer.model.chat_format import (
    END_OF_REASONING,
    ChatFormat,
    decide_format,
    read_generation_config,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def choose_format(
    tokenizer: PreTrainedTokenizerBase, model_dir: Path, rows: Iterable[Mapping[str, Any]]
) -> ChatFormat:
    """Decide the format of the job's conversations.

    Args:
        tokenizer: The base model's tokenizer.
        model_dir: Local folder of the base model, weights not needed.
        rows: The rows to learn from; read until one brings reasoning.

    Raises:
        UserError: ``ChatTemplateUnusable``: the template is not valid, or cannot write one question
            and its answer.
    """
    try:
        return decide_format(
            tokenizer,
            read_generation_config(model_dir),
            has_reasoning=any(map(brings_reasoning, rows)),
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            "ChatTemplateUnusable",
            "the model's chat template cannot write one question and its answer: "
            f"{type(error).__name__}: {error}; give a template in model.chatTemplate",
        ) from error


def brings_reasoning(row: Mapping[str, Any]) -> bool:
    """Tell whether an answer of a row holds reasoning of its own."""
    if "text" in row or isinstance(row.get("prompt"), str):
        return False
    answers = row["messages"] if "messages" in row else row["completion"]
    return any(
        message["role"] == "assistant"
        and ("reasoning_content" in message or END_OF_REASONING in (message.get("content") or ""))
        for message in answers
    )
