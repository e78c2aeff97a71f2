"""Bring rows of every known format into the canonical shape.

Canonical rows are what TRL calls conversational and standard data sets, see :class:`Example`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.v1alpha1.dataset import Columns, Source
from finetune_trainer.data.rows import BadRow, without_weights
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.messages import (
    SHAREGPT_ROLES,
    Message,
    check_conversation,
    end_at_last_learned,
    read_json_text,
    read_messages,
    read_text,
)
from finetune_trainer.prepare.reading.preamble import TEXT_SEPARATOR, Preamble, read_preamble
from finetune_trainer.prepare.reading.preferences import read_verdict, split_conversations
from finetune_trainer.prepare.reading.tools import read_functions, read_tools
from finetune_trainer.prepare.reading.values import is_missing, write_value

_CHAT_FORMATS = ("Chat", "ShareGPT")
_PAIRS = "PromptCompletion"

Convert = Callable[[Mapping[str, Any]], dict[str, Any]]


def build_convert(source: Source, format_name: str, *, conversational: bool, where: str) -> Convert:
    """Return the function that turns a row of a source into a canonical row, or raises BadRow.

    Args:
        source: What the user says about the source.
        format_name: The recognised format.
        conversational: The model's tokenizer has a chat template.
        where: Path of the source in the job, for messages.

    Raises:
        UserError: The source's settings do not fit its format or the model.
    """
    _check_settings(source, format_name, conversational, where)
    columns = source.columns or Columns()
    read_prompt: Callable[[Mapping[str, Any]], Any]
    match format_name:
        case "Preference":
            return _preference(source, conversational, where)
        case "Chat":
            return lambda fields: _convert_chat(fields, source.system)
        case "ShareGPT":
            return lambda fields: _convert_sharegpt(fields, source.system)
        case "Text":
            return lambda fields: {"text": _column(fields, columns.text or "text")}
        case "Alpaca":
            read_prompt = _alpaca_prompt if conversational else _alpaca_text
            completion = columns.completion or "output"
        case _:
            prompt = columns.prompt or "prompt"
            completion = columns.completion or "completion"

            def read_prompt(fields: Mapping[str, Any]) -> Any:
                return _value(fields, prompt)

    read_prompt = _templated(source, read_prompt, where)
    find_preamble = _preamble_reader(source, format_name)

    def convert(fields: Mapping[str, Any]) -> dict[str, Any]:
        answer = _value(fields, completion)
        preamble = find_preamble(fields)
        row = _pair(read_prompt(fields), answer, completion, preamble, conversational)
        return _with_tools(row, fields) if conversational and format_name == _PAIRS else row

    return convert


def _templated(
    source: Source, read_prompt: Callable[[Mapping[str, Any]], Any], where: str
) -> Callable[[Mapping[str, Any]], Any]:
    """Return how the prompt is read: by the source's template if it has one."""
    if source.template is not None:
        # Imported here: `finetune init` recognises formats where Jinja need not be installed.
        from finetune_trainer.prepare.reading.template import PromptTemplate

        return PromptTemplate(source.template, where=f"{where}.template").render
    return read_prompt


def _preamble_reader(source: Source, format_name: str) -> Callable[[Mapping[str, Any]], Preamble]:
    """Return how a row of pairs is asked for what stands before its prompt.

    A table's columns are the user's own, and a template says by itself which of them it reads: a
    column `system` may be that of a support case.
    """
    if format_name == "Csv" or source.template is not None:
        return lambda _: Preamble(system=source.system, is_of_source=True)
    return lambda fields: read_preamble(fields, source.system)


def _preference(source: Source, conversational: bool, where: str) -> Convert:
    """Return the function that reads pairs of answers, and answers with a verdict.

    The better answer of a pair becomes the ``completion``, as if it alone had been given; the
    worse one stands beside it as ``rejected``. An answer with a verdict keeps it as ``label``.
    """
    columns = source.columns or Columns()
    chosen, rejected = columns.chosen or "chosen", columns.rejected or "rejected"
    completion, label = columns.completion or "completion", columns.label or "label"
    prompt_name = columns.prompt or "prompt"
    read_prompt = _templated(source, lambda fields: fields.get(prompt_name), where)
    find_preamble = _preamble_reader(source, "Preference")

    def convert(fields: Mapping[str, Any]) -> dict[str, Any]:
        prompt, preamble = read_prompt(fields), find_preamble(fields)

        def pair(prompt: Any, answer: Any, name: str) -> dict[str, Any]:
            return _pair(prompt, answer, name, preamble, conversational)

        if rejected not in fields and label in fields:
            verdict = read_verdict(fields[label], label)
            return {**pair(prompt, _value(fields, completion), completion), "label": verdict}
        prompt, better, worse = split_conversations(
            prompt, _value(fields, chosen), _value(fields, rejected)
        )
        row, other = pair(prompt, better, chosen), pair(prompt, worse, rejected)
        if row == other:
            raise BadRow(
                "EqualAnswers", f"{chosen} and {rejected} are the same: there is no preference"
            )
        return {**row, "rejected": other["completion"]}

    return convert


def read_group(fields: Mapping[str, Any], column: str | None) -> str | None:
    """Return the value of the group column as text, or None when there is no such column set.

    Raises:
        BadRow: The row has no value there, so it is unknown which rows it belongs to.
    """
    if column is None:
        return None
    value = _value(fields, column)
    text = value.strip() if isinstance(value, str) else value
    if text is None or text == "":
        raise BadRow("MissingGroup", f"columns.group: column {column!r} is empty in this row")
    return str(text)


def _check_settings(source: Source, format_name: str, conversational: bool, where: str) -> None:
    if source.template is not None and format_name in (*_CHAT_FORMATS, "Text"):
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
    if format_name in _CHAT_FORMATS and not conversational:
        raise UserError(
            "NoChatTemplate",
            f"{where} holds conversations ({format_name}), but the model's tokenizer has no chat "
            "template; use an instruction-tuned model, or data of format PromptCompletion or Text",
        )


def _convert_chat(fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    messages = read_messages(fields.get("messages"), "messages")
    return _with_tools(_conversation(messages, "messages", fields, system), fields)


def _convert_sharegpt(fields: Mapping[str, Any], system: str | None) -> dict[str, Any]:
    turns = read_json_text(fields.get("conversations"), "conversations")
    if _are_messages(turns):  # many call a list of messages so
        messages = read_messages(turns, "conversations")
    else:
        messages = read_messages(
            turns, "conversations", roles=SHAREGPT_ROLES, role_key="from", content_key="value"
        )
    return _with_tools(_conversation(messages, "conversations", fields, system), fields)


def _conversation(
    messages: list[Message], name: str, fields: Mapping[str, Any], system: str | None
) -> dict[str, Any]:
    """Return the canonical row of a conversation; a system message may stand beside it."""
    preamble = read_preamble(fields, system, has_history=False)
    check_conversation(messages, name)
    return {"messages": preamble.put_before(end_at_last_learned(messages, name))}


def _with_tools(row: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    tools = read_tools(fields.get("tools")) or read_functions(fields.get("functions"))
    return {**row, "tools": tools} if tools else row


def _alpaca_prompt(fields: Mapping[str, Any]) -> str:
    instruction = _column(fields, "instruction")
    extra = fields.get("input")
    if is_missing(extra) or extra == "":
        return instruction
    return instruction + TEXT_SEPARATOR + read_text(_as_text(extra, "input"), "input")


def _alpaca_text(fields: Mapping[str, Any]) -> str:
    # A base model reads one text: without this nothing parts the instruction from the response.
    return _alpaca_prompt(fields) + TEXT_SEPARATOR


def _pair(
    prompt: Any, completion: Any, completion_name: str, preamble: Preamble, conversational: bool
) -> dict[str, Any]:
    prompt = prompt if isinstance(prompt, list) else _as_text(prompt, "the prompt")
    completion = completion if _are_messages(completion) else _as_text(completion, completion_name)
    if isinstance(prompt, list) or isinstance(completion, list):
        return _pair_of_messages(prompt, completion, completion_name, preamble, conversational)
    question = read_text(prompt, "the prompt")
    if isinstance(completion, str) and not completion.strip():
        raise BadRow("EmptyAnswer", f"{completion_name} is empty: there is no answer to learn")
    answer = read_text(completion, completion_name)
    if not conversational:
        return {"prompt": preamble.put_before_text(question), "completion": answer}
    asked = preamble.put_before([{"role": "user", "content": question}])
    learned = {"role": "assistant", "content": answer}
    if preamble.turns:
        check_conversation([*asked, learned], "history + prompt")
    return {"prompt": asked, "completion": [learned]}


def _as_text(value: Any, name: str) -> Any:
    """Write numbers, booleans and JSON as text; what is missing stays so."""
    return None if is_missing(value) else write_value(value, name)


def _are_messages(value: Any) -> bool:
    """Whether a list is a conversation, and not an answer that is a JSON list."""
    return isinstance(value, list) and any(
        isinstance(entry, dict) and "role" in entry for entry in value
    )


def _pair_of_messages(
    prompt: Any, completion: Any, completion_name: str, preamble: Preamble, conversational: bool
) -> dict[str, Any]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    question = read_messages(prompt, "prompt")
    answer = read_messages(completion, completion_name)
    if not conversational:
        raise BadRow(
            "NoChatTemplate",
            "prompt and completion are messages, but the model's tokenizer has no chat template; "
            "write them as text",
        )
    check_conversation([*question, *answer], "prompt + completion")
    question = preamble.put_before(without_weights(question))
    if preamble.turns:
        check_conversation([*question, *answer], "history + prompt + completion")
    if question[-1]["role"] != "user":
        raise BadRow(
            "WrongRoleOrder",
            f"the prompt ends with {question[-1]['role']}; it must end with the user",
        )
    return {
        "prompt": question,
        "completion": end_at_last_learned(answer, completion_name),
    }


def _column(fields: Mapping[str, Any], name: str) -> str:
    return read_text(_value(fields, name), name)


def _value(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        shown = ", ".join(map(str, fields)) or "no fields"
        raise BadRow("MissingColumn", f"no column {name!r}; the row has: {shown}")
    return fields[name]
