"""The bodies of answers, plain and streamed, in OpenAI's shape. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from finetune_trainer.serve.engine.batch import Finished, Place
from finetune_trainer.serve.engine.model import Served
from finetune_trainer.serve.engine.text import UNFINISHED

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

    def whole(self, answer: Finished, decode: Callable[[list[int]], str]) -> dict[str, Any]:
        """Return the body of a plain answer; ``decode`` returns the text of tokens."""
        text, logprobs = answer.text, None
        content = (
            {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        )
        if answer.places is not None:
            format_places = _format_chat if self.is_chat else _format_completion
            logprobs = format_places(_read_places(answer.places, decode))
        choice = {"index": 0, **content, "logprobs": logprobs, "finish_reason": answer.reason}
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": self.usage(answer.num_tokens)}

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


_Told = list[tuple[str, float, list[tuple[str, float]]]]
"""Text and log-probability of each token, and those of the likeliest ones."""


def _format_chat(told: _Told) -> dict[str, Any]:
    def format_token(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            {
                **format_token(text, logprob),
                "top_logprobs": [format_token(*pair) for pair in likeliest],
            }
            for text, logprob, likeliest in told
        ]
    }


def _format_completion(told: _Told) -> dict[str, Any]:
    texts = [text for text, _, _ in told]
    return {
        "tokens": texts,
        "token_logprobs": [logprob for _, logprob, _ in told],
        "top_logprobs": [dict(likeliest) for _, _, likeliest in told],
        "text_offset": [0, *accumulate(map(len, texts))][: len(texts)],
    }


def _read_places(places: Sequence[Place], decode: Callable[[list[int]], str]) -> _Told:
    """Read tokens as vLLM does: a character of several tokens is the text of its last one."""
    told: _Told = []
    open_ids: list[int] = []

    def read(token: int) -> str:
        text = decode([*open_ids, token])
        return "" if text.endswith(UNFINISHED) else text

    for each in places:
        likeliest = [(read(token), logprob) for token, logprob in each.likeliest]
        text = read(each.token)
        told.append((text, each.logprob, likeliest))
        open_ids = [] if text else [*open_ids, each.token]
    return told


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
