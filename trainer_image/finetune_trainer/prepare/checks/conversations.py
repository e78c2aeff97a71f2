"""Decides how the job's conversations are written, and refuses what the model cannot write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from finetune_trainer.errors import UserError
from finetune_trainer.model.chat_format import (
    END_OF_REASONING,
    ChatFormat,
    decide_format,
    own_template,
    read_generation_config,
)
from finetune_trainer.model.template_source import find_variables
from finetune_trainer.storage import ObjectNotFound, StorageAccess, open_store

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune_api.v1alpha1.spec.model import Model

DEVELOPER_NOTE = (
    "the chat template has no role developer; messages of that role are written as system messages"
)

_NOT_ARGUMENTS = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"}
)
"""Names in a template whose values the renderer supplies."""


def fetch_template(model: Model, access: StorageAccess) -> str | None:
    """Return the text of the job's own chat template, or None if it has none.

    Raises:
        UserError: ``ChatTemplateNotFound``, ``ChatTemplateUnusable``: the file is not there, or is
            no text.
        StorageError: Storage failed.
    """
    given = model.chat_template
    if given is None or given.uri is None:
        return given.text if given is not None else None
    folder, _, name = given.uri.rpartition("/")
    try:
        body = open_store(folder, access).read_bytes(name)
        return body.decode("utf-8")
    except ObjectNotFound as error:
        raise UserError(
            "ChatTemplateNotFound", f"model.chatTemplate.uri {given.uri}: {error.message}"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            "ChatTemplateUnusable", f"model.chatTemplate.uri {given.uri} is not text in UTF-8"
        ) from error


def choose_format(
    model: Model,
    template: str | None,
    tokenizer: PreTrainedTokenizerBase,
    model_dir: Path,
    rows: Iterable[Mapping[str, Any]],
) -> ChatFormat:
    """Decide the format of the job's conversations.

    Args:
        model: The job's base model.
        template: Result of :func:`fetch_template`.
        tokenizer: The base model's tokenizer.
        model_dir: Local base model, weights not needed.
        rows: The training rows; read until their traits are known.

    Raises:
        UserError: ``ChatTemplateUnusable``: the template is invalid, or cannot write a question and
            its answer. ``UnknownTemplateArgument``: it has no such variable.
    """
    try:
        source = template if template is not None else own_template(tokenizer)
        _check_arguments(model.chat_template_arguments, source)
        has_reasoning, has_developer = _find_traits(rows)
        chosen = decide_format(
            tokenizer,
            read_generation_config(model_dir),
            template=template,
            arguments={k: _read_value(v) for k, v in model.chat_template_arguments.items()},
            has_reasoning=has_reasoning,
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            "ChatTemplateUnusable",
            "the model's chat template cannot write one question and its answer: "
            f"{type(error).__name__}: {error}; give a template in model.chatTemplate",
        ) from error
    if not has_developer or chosen.knows_developer or chosen.template is None:
        return chosen
    return replace(chosen, notes=(*chosen.notes, DEVELOPER_NOTE))


def _find_traits(rows: Iterable[Mapping[str, Any]]) -> tuple[bool, bool]:
    """Return whether any answer has reasoning, and whether any message is the developer's."""
    has_reasoning = has_developer = False
    for row in rows:
        has_reasoning = has_reasoning or brings_reasoning(row)
        has_developer = has_developer or _has_developer(row)
        if has_reasoning and has_developer:
            break
    return has_reasoning, has_developer


def _has_developer(row: Mapping[str, Any]) -> bool:
    messages = row.get("messages") or row.get("prompt")
    return isinstance(messages, list) and messages[0]["role"] == "developer"


def _check_arguments(given: Mapping[str, str], template: str | None) -> None:
    if not given:
        return
    known = find_variables(template) - _NOT_ARGUMENTS if template is not None else frozenset()
    unknown = sorted(set(given) - known)
    if unknown:
        raise UserError(
            "UnknownTemplateArgument",
            f"model.chatTemplateArguments names {', '.join(unknown)}, which the chat template does "
            f"not read; it reads {', '.join(sorted(known)) or 'no arguments'}",
        )


def _read_value(text: str) -> str | bool | int:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch("-?[0-9]{1,9}", text) else text


def brings_reasoning(row: Mapping[str, Any]) -> bool:
    """Whether an answer of a row holds reasoning of its own."""
    if "text" in row or isinstance(row.get("prompt"), str):
        return False
    answers = row["messages"] if "messages" in row else row["completion"]
    return any(
        message["role"] == "assistant"
        and ("reasoning_content" in message or END_OF_REASONING in (message.get("content") or ""))
        for message in answers
    )
