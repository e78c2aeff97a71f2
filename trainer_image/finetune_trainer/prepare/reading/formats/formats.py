"""Converts rows of every known format into the canonical shape, see :class:`Example`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Columns, Source
from finetune_trainer.data.answers.values import read_json_value
from finetune_trainer.data.rows import BadRow, slice_digest
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.formats.messages import (
    Message,
    check_conversation,
    end_at_last_learned,
    read_messages,
)
from finetune_trainer.prepare.reading.formats.pairs import (
    make_pair,
    read_alpaca,
    read_alpaca_text,
    read_column,
    read_value,
    refuse_empty_list,
)
from finetune_trainer.prepare.reading.formats.preamble import Preamble, read_preamble
from finetune_trainer.prepare.reading.formats.preferences import build_preference
from finetune_trainer.prepare.reading.formats.tools import with_tools
from finetune_trainer.prepare.reading.formats.turns import are_turns, open_request, read_turns
from finetune_trainer.prepare.reading.formats.verdicts import refuse_unwanted

CHAT_FORMATS = ("Chat", "ShareGPT")
_PAIRS = "PromptCompletion"
_ANSWER_OF = {"Alpaca": "output"}

Convert = Callable[[Mapping[str, Any]], dict[str, Any]]


def build_convert(
    source: Source,
    format_name: str,
    *,
    conversational: bool,
    where: str,
    takes_empty_lists: bool = True,
) -> Convert:
    """Return the function that turns a row of a source into a canonical row, or raises BadRow.

    ``takes_empty_lists`` is the result of :func:`are_lists_answers`.

    Raises:
        UserError: The source's settings do not fit its format or the model.
    """
    _check_settings(source, format_name, conversational, where)
    convert = _choose_convert(source, format_name, conversational, where, takes_empty_lists)
    if source.format == "Auto" and format_name not in ("Preference", "Text", "Csv"):
        return refuse_unwanted(convert, format_name)
    return convert


def are_lists_answers(source: Source, format_name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether answers are JSON: then an empty list says that nothing was found."""
    name = (source.columns or Columns()).completion or _ANSWER_OF.get(format_name, "completion")
    answers = [read_json_value(v) if isinstance(v := row.get(name), str) else v for row in rows]
    return any(
        isinstance(answer, list | dict) and answer and not are_turns(answer) for answer in answers
    )


def _choose_convert(
    source: Source, format_name: str, conversational: bool, where: str, takes_empty_lists: bool
) -> Convert:
    columns = source.columns or Columns()
    read_prompt: Callable[[Mapping[str, Any]], Any]
    match format_name:
        case "Preference":
            return build_preference(
                columns,
                _template_of(source, where),
                _preamble_reader(source, format_name),
                conversational=conversational,
            )
        case "Chat":
            return lambda fields: _convert_chat(fields, source.system)
        case "ShareGPT":
            return lambda fields: _convert_sharegpt(fields, source.system)
        case "Text":
            return lambda fields: {"text": read_column(fields, columns.text or "text")}
        case "Alpaca":
            read_prompt = read_alpaca if conversational else read_alpaca_text
            completion = columns.completion or _ANSWER_OF[format_name]
        case _:
            prompt = columns.prompt or "prompt"
            completion = columns.completion or "completion"

            def read_prompt(fields: Mapping[str, Any]) -> Any:
                return read_value(fields, prompt)

    read_prompt = _template_of(source, where) or read_prompt
    find_preamble = _preamble_reader(source, format_name)

    def convert(fields: Mapping[str, Any]) -> dict[str, Any]:
        answer = read_value(fields, completion)
        if not takes_empty_lists:
            refuse_empty_list(answer, completion)
        prompt, request = open_request(read_prompt(fields))
        row = make_pair(prompt, answer, completion, find_preamble(fields), conversational)
        offered = {**fields, **request} if format_name == _PAIRS else request
        return with_tools(row, offered) if conversational else row

    return convert


def _template_of(source: Source, where: str) -> Callable[[Mapping[str, Any]], Any] | None:
    """Return the source's prompt template, or None."""
    if source.template is None:
        return None
    # Imported here: `finetune init` recognises formats where Jinja need not be installed.
    from finetune_trainer.prepare.reading.formats.template import PromptTemplate

    return PromptTemplate(source.template, where=f"{where}.template").render


def _preamble_reader(source: Source, format_name: str) -> Callable[[Mapping[str, Any]], Preamble]:
    """Return the reader of the text before a row's prompt; a table's `system` is no such text."""
    if format_name == "Csv" or source.template is not None:
        return lambda _: Preamble(system=source.system, is_of_source=True)
    return lambda fields: read_preamble(fields, source.system)


def read_group(fields: Mapping[str, Any], column: str | None) -> str | None:
    """Return the value of the group column as text, or None without such a column.

    Raises:
        BadRow: The row has no value there.
    """
    if column is None:
        return None
    value = read_value(fields, column)
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "":
        raise BadRow("MissingGroup", f"columns.group: column {column!r} is empty in this row")
    return str(text)


def read_slices(fields: Mapping[str, Any], columns: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the columns for slices with digests of their values; empty ones are left out.

    Raises:
        BadRow: A value is not UTF-8.
    """
    found = []
    for column in columns:
        value = fields.get(column)
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        if text.strip() and column in fields:
            found.append((column, slice_digest(text)))
    return tuple(found)


def _check_settings(source: Source, format_name: str, conversational: bool, where: str) -> None:
    if source.template is not None and format_name in (*CHAT_FORMATS, "Text"):
        raise UserError(
            "TemplateNotApplicable",
            f"{where}.template: rows of format {format_name} have no prompt to render; remove the "
            "template, or set format: Csv to render prompts from columns",
        )
    if source.system is not None and format_name == "Text":
        raise UserError(
            "SystemNotApplicable",
            f"{where}.system: plain text has no system message; remove it, or use a format with "
            "prompts",
        )
    if format_name in CHAT_FORMATS and not conversational:
        raise UserError(
            "NoChatTemplate",
            f"{where} holds conversations ({format_name}), but the model's tokenizer has no chat "
            "template; use an instruction-tuned model, or data of format PromptCompletion or Text",
        )


def _convert_chat(fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    messages = read_messages(fields.get("messages"), "messages")
    return with_tools(_conversation(messages, "messages", fields, system), fields)


def _convert_sharegpt(fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    messages = read_turns(fields.get("conversations"), "conversations")
    return with_tools(_conversation(messages, "conversations", fields, system), fields)


def _conversation(
    messages: list[Message], name: str, fields: Mapping[str, Any], system: str | None
) -> dict[str, Any]:
    """Return the canonical row of a conversation; a system message may stand beside it."""
    preamble = read_preamble(fields, system, has_history=False)
    check_conversation(messages, name)
    return {"messages": preamble.put_before(end_at_last_learned(messages, name))}
