"""Splits a conversation into prompts and answers by rendering.

A prompt is exactly that of generation; an answer ends at the first stop token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from finetune_trainer.errors import DataError
from finetune_trainer.model.chat_format import (
    END_OF_REASONING,
    ChatFormat,
    as_parts,
    render_messages,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

_MARK = "zqanswerqz"
MIN_TURNS_READ_OFF = 3
"""Answers from which on it pays to look for all of them in one rendering."""

_OWN_KEYS = ("weight",)
"""Keys of messages that speak to the trainer and never to a template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One answer of a conversation: its prompt, and its text with that of the stop token."""

    prompt: str
    answer: str


class Conversations:
    """Renders conversations of one format with a template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat) -> None:
        assert chat_format.template is not None
        self._tokenizer = tokenizer
        self._format = chat_format
        self._template = chat_format.template
        self._end = str(tokenizer.convert_ids_to_tokens(chat_format.end_id))
        self._stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in chat_format.stop_ids]

    def prompt(self, messages: Sequence[Message], tools: Sequence[Message] | None = None) -> str:
        """Return the prompt of generation after these messages. Raise ``ChatTemplateRefused``."""
        return self._render(messages, tools, generate=True)

    def turns(
        self,
        messages: Sequence[Message],
        learned: Sequence[int],
        tools: Sequence[Message] | None = None,
    ) -> list[Turn]:
        """Return the answers at the positions ``learned``, in their order.

        Raises:
            DataError: ``ChatTemplateRefused``: the template rejects the conversation.
                ``TemplateDropsTurn``, ``TemplateDropsTools``: part of it is not in the prompt.
                ``PromptNotPrefix``: the template writes an answer elsewhere than generation
                continues.
        """
        turns = self._read_off(messages, learned, tools)
        if turns is None:
            turns = [self._render_turn(messages, position, tools) for position in learned]
        if learned:
            self._check_prompt(turns[-1].prompt, messages[: learned[-1]], tools)
        return turns

    def _render_turn(
        self, messages: Sequence[Message], position: int, tools: Sequence[Message] | None
    ) -> Turn:
        prompt = self.prompt(messages[:position], tools)
        rest = self._render_rest(prompt, messages, position, tools)
        return Turn(prompt=prompt, answer=self._cut_at_stop(rest))

    def _read_off(
        self, messages: Sequence[Message], learned: Sequence[int], tools: Sequence[Message] | None
    ) -> list[Turn] | None:
        """Find all answers in one rendering, so that the cost is linear in a chat's length.

        None where the template changes answers, or the first and last one rendered alone differ.
        """
        if len(learned) < MIN_TURNS_READ_OFF or any(map(_is_composed, messages)):
            return None
        messages = messages[: learned[-1] + 1]
        answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        marked = [dict(message) for message in messages]
        for position in answers:
            marked[position]["content"] = f"{_MARK}{position}{_MARK}"
        whole = self._render(messages, tools)
        starts = _find_starts(whole, self._render(marked, tools), messages, answers)
        if starts is None:
            return None
        first = self._render_turn(messages, learned[0], tools)
        last = self._render_turn(messages, learned[-1], tools)
        header = starts[learned[0]] - len(first.prompt)
        turns = []
        for position in learned:
            end = starts[position] - header
            answer = self._cut_at_stop(whole[end:])
            turns.append(Turn(prompt=whole[:end], answer=answer))
        before = first.answer[:header]
        after = _without_start(first.answer[header:], _text_of(messages[learned[0]]))
        alike = all(
            turn.answer[:header] == before
            and _without_start(turn.answer[header:], _text_of(messages[i])) == after
            for turn, i in zip(turns, learned, strict=True)
        )
        return turns if alike and (turns[0], turns[-1]) == (first, last) else None

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None,
        *,
        generate: bool = False,
    ) -> str:
        try:
            return render_messages(
                self._tokenizer,
                self._template,
                [self._bring_into_shape(message) for message in messages],
                tools=tools,
                generate=generate,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            # A template is a program: what its author did not think of fails in any way.
            raise DataError(
                "ChatTemplateRefused",
                f"the model's chat template refuses this conversation: {_first_line(error)}; "
                "change the row (remove `system` if the model knows no system role), or give a "
                "template that takes it in model.chatTemplate",
            ) from error

    def _bring_into_shape(self, message: Message) -> dict[str, Any]:
        shaped = {key: value for key, value in message.items() if key not in _OWN_KEYS}
        if shaped["role"] == "developer" and not self._format.knows_developer:
            shaped["role"] = "system"
        return as_parts(shaped) if self._format.uses_parts else shaped

    def _render_rest(
        self,
        prompt: str,
        messages: Sequence[Message],
        position: int,
        tools: Sequence[Message] | None,
    ) -> str:
        """Return what the template writes from where generation begins."""
        whole = self._render(messages[: position + 1], tools)
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        marked = {**messages[position], "content": _MARK}
        with_mark = self._render([*messages[:position], marked], tools)
        head = with_mark.rpartition(_MARK)[0]
        answer = whole[len(head) :] if whole.startswith(head) else None
        opened = prompt[len(head) :] if prompt.startswith(head) else None
        if answer is not None and opened is not None and "<think>" in opened:
            # The prompt opens the reasoning (DeepSeek-R1); an answer has to close it first.
            reasoning, stripped = reasoning_of(messages[position]), answer.lstrip("\n")
            return f"{reasoning}\n{END_OF_REASONING}\n\n{stripped}"
        asked = _text_of(messages[position - 1]).strip() if position else ""
        shared = _common_suffix(prompt.rstrip(), head.rstrip())
        if answer is not None and (asked in shared or not prompt.rstrip().rpartition(head)[2]):
            # Something before the last message is written otherwise, such as a system message that
            # goes into the last turn of the user (Mistral): the answer itself is the same.
            return answer
        continued = _find_continuation(whole, head, prompt, asked) if answer is not None else None
        if continued is not None:
            return continued
        raise DataError(
            "PromptNotPrefix",
            f"the model's chat template writes messages[{position}], an answer, elsewhere than "
            "generation begins one, so what is trained is not what is asked; give a template that "
            "writes both alike in model.chatTemplate",
        )

    def _cut_at_stop(self, rest: str) -> str:
        """End an answer at the first token that generation stops at, or with one."""
        ends = [at + len(stop) for stop in self._stops if (at := rest.find(stop)) >= 0]
        return rest[: min(ends)] if ends else rest + self._end

    def _check_prompt(
        self, prompt: str, messages: Sequence[Message], tools: Sequence[Message] | None
    ) -> None:
        """Refuse a prompt in which a message or the tools are missing."""
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                # Of past answers templates drop the reasoning, rightly.
                self._check_calls(prompt, number, message)
                continue
            text = _text_of(message).strip()
            # Tools answer in JSON with some templates.
            if text not in prompt and json.dumps(text, ensure_ascii=False)[1:-1] not in prompt:
                raise DataError(
                    "TemplateDropsTurn",
                    f"the model's chat template leaves messages[{number}] (role {message['role']}) "
                    "out of the prompt, so the model would not see it; remove the message, or give "
                    "a template that writes it in model.chatTemplate",
                )
        if tools and self._is_prompt_without_tools(prompt, messages):
            raise DataError(
                "TemplateDropsTools",
                "the model's chat template leaves the row's `tools` out of the prompt; remove "
                "them, or give a template that writes them in model.chatTemplate",
            )

    def _is_prompt_without_tools(self, prompt: str, messages: Sequence[Message]) -> bool:
        try:
            return self.prompt(messages, None) == prompt
        except DataError:  # a template that needs the tools writes them
            return False

    def _check_calls(self, text: str, number: int, message: Message) -> None:
        names = [str(call["function"]["name"]) for call in message.get("tool_calls") or ()]
        if all(name in text for name in names):
            return
        raise DataError(
            "TemplateDropsTools",
            f"the model's chat template leaves the tool calls of messages[{number}] out of the "
            "prompt; remove them, or give a template that writes them in model.chatTemplate",
        )


def _find_continuation(whole: str, head: str, prompt: str, asked: str) -> str | None:
    """Return the text after the last message and the header of generation.

    gpt-oss leaves out the reasoning before a tool call once the answer is there; then only the text
    from the last message on agrees.

    Args:
        whole: The conversation with its answer.
        head: Its part before the answer's text.
        prompt: The prompt of generation.
        asked: Text of the last message before the answer.
    """
    for text in (asked, json.dumps(asked, ensure_ascii=False)[1:-1]):
        start = prompt.rfind(text) if text else -1
        at = head.rfind(prompt[start:]) if start >= 0 else -1
        if at >= 0:
            return whole[at + len(prompt) - start :]
    return None


def _is_composed(message: Message) -> bool:
    """Whether a message is more than its text, or its text more than an answer."""
    keys = {"tool_calls", "reasoning_content"}
    return bool(keys & message.keys()) or END_OF_REASONING in _text_of(message)


def _find_starts(
    whole: str, marked: str, messages: Sequence[Message], answers: Sequence[int]
) -> dict[int, int] | None:
    """Return where each answer begins in ``whole``, or None.

    ``marked`` has marks in the places of the answers.
    """
    starts: dict[int, int] = {}
    end, rest = 0, marked
    for position in answers:
        between, found, rest = rest.partition(f"{_MARK}{position}{_MARK}")
        text = _text_of(messages[position])
        if not found or whole[end : end + len(between)] != between:
            return None
        start = end + len(between)
        if not whole.startswith(text, start):
            text = text.strip()
        if not whole.startswith(text, start):
            return None
        starts[position], end = start, start + len(text)
    return starts if whole[end:] == rest else None


def _without_start(text: str, start: str) -> str | None:
    """Return what follows ``start``, with or without the white space around it; else None."""
    for known in (start, start.strip()):
        if text.startswith(known):
            return text[len(known) :]
    return None


def _text_of(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def reasoning_of(message: Message) -> str:
    """Return the reasoning that an answer brings, apart or before its text; empty for none."""
    given = message.get("reasoning_content")
    if isinstance(given, str):
        return given.strip()
    before, mark, _ = _text_of(message).partition(END_OF_REASONING)
    return before.replace("<think>", "").strip() if mark else ""


def _common_suffix(left: str, right: str) -> str:
    size = 0
    while size < min(len(left), len(right)) and left[-1 - size] == right[-1 - size]:
        size += 1
    return left[len(left) - size :]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
