"""Read rows that say which answer is better: pairs, and answers with a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.v1alpha1.spec.dataset import Columns
from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.formats.pairs import (
    make_pair,
    read_alpaca,
    read_alpaca_text,
    read_value,
    refuse_empty_list,
)
from finetune_trainer.prepare.reading.formats.preamble import Preamble
from finetune_trainer.prepare.reading.formats.tools import with_tools
from finetune_trainer.prepare.reading.formats.turns import open_request, read_answer, read_turns
from finetune_trainer.prepare.reading.formats.verdicts import find_verdict, read_verdict

_CONVERSATIONS = ("conversations", "messages")


def build_preference(
    columns: Columns,
    template: Callable[[Mapping[str, Any]], Any] | None,
    find_preamble: Callable[[Mapping[str, Any]], Preamble],
    *,
    conversational: bool,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return the function that reads pairs of answers, and answers with a verdict.

    The better answer becomes the ``completion``, the worse one ``rejected``. A verdict becomes
    ``label``.

    Args:
        columns: The source's column names.
        template: Writes the prompt of a row; None where a column holds it.
        find_preamble: Finds the messages before it.
        conversational: The model's tokenizer has a chat template.
    """
    chosen, rejected = columns.chosen or "chosen", columns.rejected or "rejected"
    read_instruction = read_alpaca if conversational else read_alpaca_text

    def find_prompt(fields: Mapping[str, Any]) -> Any:
        prompt = fields.get(columns.prompt or "prompt")
        if prompt is not None or columns.prompt is not None or _is_conversation(fields.get(chosen)):
            return prompt
        if open_request(fields.get("input"))[1]:
            return fields["input"]
        for name in _CONVERSATIONS:
            if name in fields:
                return read_turns(fields[name], name)
        return read_instruction(fields) if "instruction" in fields else None

    read_prompt = template or find_prompt

    def convert(fields: Mapping[str, Any]) -> dict[str, Any]:
        (prompt, request), preamble = open_request(read_prompt(fields)), find_preamble(fields)

        def pair(prompt: Any, answer: Any, name: str) -> dict[str, Any]:
            refuse_empty_list(answer, name)
            row = make_pair(prompt, answer, name, preamble, conversational)
            return with_tools(row, {**fields, **request}) if conversational else row

        label = columns.label or find_verdict(fields)
        if rejected not in fields and label is not None and label in fields:
            verdict = read_verdict(fields[label], label)
            prompt, answer, name = _single_answer(fields, prompt, columns.completion)
            return {**pair(prompt, answer, name), "label": verdict}
        prompt, better, worse = split_conversations(
            prompt,
            read_answer(read_value(fields, chosen), chosen),
            read_answer(read_value(fields, rejected), rejected),
        )
        row, other = pair(prompt, better, chosen), pair(prompt, worse, rejected)
        if row == other:
            raise BadRow(
                "EqualAnswers", f"{chosen} and {rejected} are the same: there is no preference"
            )
        return {**row, "rejected": other["completion"]}

    return convert


def has_prompt(fields: Mapping[str, Any], chosen: str) -> bool:
    """Whether a pair has a prompt without a named column; ``chosen`` is its better answer."""
    names = ("prompt", "instruction", *_CONVERSATIONS)
    is_named = any(fields.get(name) is not None for name in names)
    answer = fields.get(chosen)
    first = answer[0] if isinstance(answer, list) and answer else None
    speaker = first.get("role", first.get("from")) if isinstance(first, dict) else None
    return is_named or speaker in ("system", "user", "human")


def _single_answer(
    fields: Mapping[str, Any], prompt: Any, column: str | None
) -> tuple[Any, Any, str]:
    """Return prompt, answer and the answer's field of a row with one answer and a verdict."""
    if column is None and "completion" not in fields:
        if "output" in fields:
            return prompt, fields["output"], "output"
        if isinstance(prompt, list) and len(prompt) > 1:  # a conversation up to its answer
            return prompt[:-1], prompt[-1:], "the last message"
    name = column or "completion"
    return prompt, read_value(fields, name), name


def split_conversations(prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Take the prompt out of two whole conversations; it is their common beginning.

    Answers without a common beginning are returned as they are. A text ``prompt`` beside whole
    conversations repeats their first turn and is left out.

    Returns:
        Prompt, chosen and rejected answer.

    Raises:
        BadRow: There is no prompt, and none can be taken from the answers.
    """
    if not (_is_conversation(chosen) and _is_conversation(rejected)):
        if prompt is None:
            raise BadRow(
                "MissingField",
                "prompt is missing; it may be left out only where chosen and rejected are whole "
                "conversations (lists of messages that begin with the user or a system message)",
            )
        return prompt, chosen, rejected
    shared = sum(
        1
        for _ in itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)
        )
    )
    # The answer begins with the assistant: if even that is shared, it is where they part.
    while shared and _role(chosen[shared - 1]) == "assistant":
        shared -= 1
    if not shared:
        raise BadRow(
            "NoSharedPrompt", "chosen and rejected do not begin alike, so they share no prompt"
        )
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _role(value[0]) in ("system", "user")


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
