"""The part of a row before its prompt: a system message and earlier turns.

Rows of pairs have the columns `system` and `history`, as in LLaMA-Factory; conversations have
`system` beside their messages. Answers of a history are context and not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.rows import BadRow, without_weights
from finetune_trainer.prepare.reading.columns.values import is_missing
from finetune_trainer.prepare.reading.formats.messages import (
    SYSTEM_ROLES,
    Message,
    describe,
    join_parts,
    read_json_text,
    read_messages,
    read_text,
)

TEXT_SEPARATOR = "\n\n"
"""Between a system message and a prompt, where the model reads one text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preamble:
    """The messages before a prompt.

    ``is_of_source`` says that the system message is the source's and not the row's.
    """

    system: str | None = None
    turns: tuple[Message, ...] = ()
    is_of_source: bool = False

    def put_before(self, messages: list[Message]) -> list[Message]:
        """Return the messages after the preamble, their order not checked.

        Raises:
            BadRow: ``TwoSystemMessages``: they begin with a system message of their own.
        """
        if self.system is None and not self.turns:
            return messages
        has_own = bool(messages) and messages[0]["role"] in SYSTEM_ROLES
        start, rest = (messages[:1], messages[1:]) if has_own else ([], messages)
        if self.system is not None:
            if has_own and start[0]["content"] != self.system:
                raise _refuse_two(is_of_source=self.is_of_source)
            start = start or [{"role": "system", "content": self.system}]
        return [*start, *self.turns, *rest]

    def put_before_text(self, prompt: str) -> str:
        """Return a prompt for a model without a chat template.

        Raises:
            BadRow: ``NoChatTemplate``: earlier turns need a chat template.
        """
        if self.turns:
            raise BadRow(
                "NoChatTemplate",
                "history holds earlier turns, but the model's tokenizer has no chat template to "
                "write them with; use an instruction-tuned model, or write them into the prompt",
            )
        return prompt if self.system is None else f"{self.system}{TEXT_SEPARATOR}{prompt}"


def read_preamble(
    fields: Mapping[str, Any], source_system: str | None, *, has_history: bool = True
) -> Preamble:
    """Return the preamble of a row.

    ``source_system`` is `system` of the source; ``has_history`` says that rows of this format have
    a column `history`.

    Raises:
        BadRow: `system` is no text or `history` no list of turns; ``TwoSystemMessages``: there are
            several, and they differ.
    """
    system = read_system(fields.get("system"))
    if system is not None and source_system not in (None, system):
        raise _refuse_two(is_of_source=True)
    turns = read_history(fields.get("history")) if has_history else []
    if turns and turns[0]["role"] in SYSTEM_ROLES:
        first = turns.pop(0)["content"]
        if system not in (None, first):
            raise _refuse_two(is_of_source=False)
        if source_system not in (None, first):
            raise _refuse_two(is_of_source=True)
        system = first
    if system is None:
        return Preamble(system=source_system, turns=tuple(turns), is_of_source=True)
    return Preamble(system=system, turns=tuple(turns))


def read_system(value: object) -> str | None:
    """Return the text of a row's system message, or None. Raise ``BadRow`` if it is no text."""
    value = join_parts(value, "system")
    if value == [] or is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    return read_text(value, "system")


def read_history(value: object) -> list[Message]:
    """Return the earlier turns of a row: pairs of question and answer, or messages.

    Raises:
        BadRow: The value is neither, nor JSON text of them.
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return []
    turns = read_json_text(value, "history")
    if turns == []:
        return []
    if isinstance(turns, list) and isinstance(turns[0], dict):
        return without_weights(read_messages(turns, "history"))
    if not isinstance(turns, list):
        raise BadRow(
            "NotMessages",
            f"history is {describe(turns)}; expected a list of [question, answer], or of messages; "
            "if it is no conversation, rename it, or write it into the prompt by a template",
        )
    messages: list[Message] = []
    for number, pair in enumerate(turns):
        where = f"history[{number}]"
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow(
                "NotMessages",
                f"{where} is {describe(pair)}; expected [question, answer], two texts",
            )
        for place, role in enumerate(("user", "assistant")):
            messages.append({"role": role, "content": read_text(pair[place], f"{where}[{place}]")})
    return messages


def _refuse_two(*, is_of_source: bool) -> BadRow:
    words = (
        "the row has its own system message and the source sets `system`"
        if is_of_source
        else "the row has several system messages that differ: `system`, and one among its messages"
    )
    return BadRow("TwoSystemMessages", f"{words}; remove one of them")
