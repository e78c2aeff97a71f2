"""Whether reasoning comes before an answer, and whether it has come to its end. Pure.

Where an answer stands behind a mark, a text without that mark is an answer all the same if the
model has not reasoned at all. It is none where the prompt, or the text itself, begins to reason:
a server that reads reasoning gives nothing then.
"""

from __future__ import annotations

import re

from finetune_trainer.model.chat_format import ChatFormat

_TAG = re.compile(r"<[^>]*>|\[[^\]]*\]")


def beginning_of(chat_format: ChatFormat) -> str:
    """Return what reasoning begins with; empty where no answer comes after any.

    It is the tag that the mark closes (``<think>``), or the first of a header's (gpt-oss: the
    channel that it names).
    """
    mark = chat_format.answer_after
    tag = _TAG.match(mark)
    return tag[0].replace("/", "") if tag else mark


def may_reason(chat_format: ChatFormat, prompt: str) -> bool:
    """Tell whether a model may reason before it answers a prompt.

    Args:
        chat_format: How conversations are written.
        prompt: What generation is given, with its control tokens.

    Returns:
        False where no answer comes after reasoning, and where the prompt has ended it, as with
        thinking switched off.
    """
    if not chat_format.knows_reasoning:
        return False
    is_ended = chat_format.answer_after in _opened(chat_format, prompt)
    return not is_ended or _opens(chat_format, prompt)


def begins_to_reason(chat_format: ChatFormat, prompt: str, said: str) -> bool:
    """Tell whether a prompt begins reasoning and does not end it, or the answer begins with some.

    Args:
        chat_format: How conversations are written.
        prompt: What generation was given, with its control tokens.
        said: What it came to, with its control tokens.
    """
    if not chat_format.knows_reasoning:
        return False
    begin = beginning_of(chat_format)
    return _opens(chat_format, prompt) or said.lstrip().startswith(begin)


def is_closed_by_tag(chat_format: ChatFormat) -> bool:
    """Whether the mark closes reasoning; else it heads the answer, a message of its own."""
    return beginning_of(chat_format) not in chat_format.answer_after


def _opens(chat_format: ChatFormat, prompt: str) -> bool:
    opened = _opened(chat_format, prompt)
    return opened.rfind(beginning_of(chat_format)) > opened.rfind(chat_format.answer_after)


def _opened(chat_format: ChatFormat, prompt: str) -> str:
    """Return the end of a prompt that is the answer's own: what people wrote is no reasoning."""
    own = (beginning_of(chat_format), chat_format.answer_after)
    others = [token for token in chat_format.anchors if not any(token in each for each in own)]
    ends = [prompt.rfind(token) + len(token) for token in others if token in prompt]
    return prompt[max(ends, default=0) :]
