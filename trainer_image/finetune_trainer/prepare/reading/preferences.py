"""What is special about rows that say which answer is better: prompts within answers, verdicts."""

from __future__ import annotations

import itertools
from typing import Any

from finetune_trainer.data.rows import BadRow
from finetune_trainer.prepare.reading.messages import describe

_VERDICTS = {"true": True, "false": False}


def split_conversations(prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Take the prompt out of two whole conversations.

    Both sides of a pair are often written as conversations that begin alike; what they share is
    the prompt. Where the answers alone are given, all three are returned as they are.

    Args:
        prompt: The row's own prompt, or None; text beside whole conversations repeats their first
            turn and is left out.
        chosen: Text, or a list of messages.
        rejected: The same.

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


def read_verdict(value: object, name: str) -> bool:
    """Return whether an answer is wanted.

    Raises:
        BadRow: It is neither a boolean nor the text `true` or `false`.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _VERDICTS:
        return _VERDICTS[value.strip().lower()]
    shown = "missing" if value is None else describe(value)
    raise BadRow("NoVerdict", f"{name} is {shown}; it must be true (wanted) or false")


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and _role(value[0]) in ("system", "user")


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None
