"""Make canonical rows of a prompt and its answer, as text or as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_trainer.data.rows import BadRow, without_weights
from finetune_trainer.prepare.reading.columns.values import is_missing, write_value
from finetune_trainer.prepare.reading.formats.messages import (
    check_conversation,
    end_at_last_learned,
    read_messages,
    read_text,
)
from finetune_trainer.prepare.reading.formats.preamble import TEXT_SEPARATOR, Preamble
from finetune_trainer.prepare.reading.formats.turns import are_messages


def read_alpaca(fields: Mapping[str, Any]) -> str:
    """Return the prompt of an Alpaca row: instruction and input. Raise ``BadRow`` without one."""
    instruction = read_column(fields, "instruction")
    extra = fields.get("input")
    if is_missing(extra) or extra == "":
        return instruction
    return instruction + TEXT_SEPARATOR + read_text(_write_text(extra, "input"), "input")


def read_alpaca_text(fields: Mapping[str, Any]) -> str:
    """Return prompt and separator of an Alpaca row for a model without a chat template.

    Raises:
        BadRow: As :func:`read_alpaca`.
    """
    return read_alpaca(fields) + TEXT_SEPARATOR


def make_pair(
    prompt: Any, completion: Any, completion_name: str, preamble: Preamble, conversational: bool
) -> dict[str, Any]:
    """Return the canonical row of a prompt and its answer.

    Args:
        prompt: Text or messages; other values are written as text.
        completion: The same.
        completion_name: Field of the answer, for messages.
        preamble: The messages before the prompt.
        conversational: The model's tokenizer has a chat template.

    Raises:
        BadRow: One of them is missing or empty, or messages are out of order.
    """
    prompt = prompt if isinstance(prompt, list) else _write_text(prompt, "the prompt")
    if not are_messages(completion):
        completion = _write_text(completion, completion_name)
    if isinstance(prompt, list) or isinstance(completion, list):
        return _make_pair_of_messages(prompt, completion, completion_name, preamble, conversational)
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


def refuse_empty_list(answer: Any, name: str) -> None:
    """Refuse an empty list or its text `[]` as an answer with ``BadRow``."""
    if answer == [] or (isinstance(answer, str) and answer.strip() == "[]"):
        raise BadRow(
            "EmptyAnswer",
            f"{name} is an empty list: there is no answer to learn; leave the row out",
        )


def _write_text(value: Any, name: str) -> Any:
    """Write numbers, booleans and JSON as text; missing values stay."""
    return None if is_missing(value) else write_value(value, name)


def _make_pair_of_messages(
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
    if question[-1]["role"] not in ("user", "tool"):
        raise BadRow(
            "WrongRoleOrder",
            f"the prompt ends with {question[-1]['role']}; it must end with the user or a "
            "tool's result",
        )
    return {"prompt": question, "completion": end_at_last_learned(answer, completion_name)}


def read_column(fields: Mapping[str, Any], name: str) -> str:
    """Return the text of a column. Raise ``BadRow`` if it is missing, blank, or no text."""
    return read_text(read_value(fields, name), name)


def read_value(fields: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column. Raise ``BadRow`` if the row has no such column."""
    if name not in fields:
        shown = ", ".join(map(str, fields)) or "no fields"
        raise BadRow("MissingColumn", f"no column {name!r}; the row has: {shown}")
    return fields[name]
