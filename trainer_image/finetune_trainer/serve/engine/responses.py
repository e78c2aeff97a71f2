"""The bodies of answers, plain and streamed, in OpenAI's shape. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_trainer.serve.engine.model import Served

DONE = b"data: [DONE]\n\n"
"""The end of a stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What all bodies of one answer have in common.

    Attributes:
        id: The answer's own id.
        model: Name of the model that was asked.
        created: Unix time.
        is_chat: Whether it answers a conversation.
        num_prompt_tokens: Tokens of the prompt.
    """

    id: str
    model: str
    created: int
    is_chat: bool
    num_prompt_tokens: int

    def whole(self, text: str, *, reason: str, num_tokens: int) -> dict[str, Any]:
        """Return the body of a plain answer."""
        content = (
            {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        )
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": self.usage(num_tokens)}

    def chunk(self, text: str, *, is_first: bool = False, reason: str | None = None) -> bytes:
        """Return one event of a stream."""
        content: dict[str, Any] = {"text": text}
        if self.is_chat:
            role = {"role": "assistant"} if is_first else {}
            content = {"delta": {**role, "content": text}}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        return self._event([choice])

    def usage_chunk(self, num_tokens: int) -> bytes:
        """Return the event that ends a stream with the counts of tokens."""
        return self._event([], usage=self.usage(num_tokens))

    def usage(self, num_tokens: int) -> dict[str, int]:
        """Return the counts of tokens."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": self.num_prompt_tokens + num_tokens,
        }

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return event({**self._head(kind), "choices": choices, **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def event(body: dict[str, Any]) -> bytes:
    """Return a body as a server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


def list_models(served: Iterable[Served], *, context: int | None) -> dict[str, Any]:
    """Return the body of ``GET /v1/models``, as vLLM has it."""
    known = list(served)
    base = next((each.name for each in known if each.slot is None), None)
    return {
        "object": "list",
        "data": [
            {
                "id": each.name,
                "object": "model",
                "created": each.created,
                "owned_by": "finetune",
                "root": each.root,
                "parent": None if each.slot is None else base,
                "max_model_len": context if each.slot is None else None,
            }
            for each in known
        ],
    }
