"""Reads the bodies of requests, and words what is wrong with them in OpenAI's shape. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.serve.errors import error_body

MAX_STOPS = 4
"""OpenAI's limit of stop sequences."""
_ROLES = ("system", "developer", "user", "assistant", "tool")
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
}
"""Fields that this engine knows with these values alone; absent and null count as not given."""


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        message: What is wrong: value, field and remedy.
        param: The field; None where there is none.
        code: OpenAI's code for programs; None where it has none.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """The answer's body, in OpenAI's shape."""
        return error_body(self.status, self.message, param=self.param, code=self.code)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen; a temperature of 0 takes the likeliest.

    Attributes:
        temperature: At least 0.
        top_p: Probability that the likeliest tokens share, above 0 and at most 1.
        seed: Equal seeds give equal answers; None draws one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """What a client asks.

    Attributes:
        model: Name of the model.
        prompt: A text to continue, or the messages of a conversation.
        tools: Tools that the chat template shows to the model.
        max_tokens: Longest answer; None takes what the context has left.
        stop: Texts that end an answer; they are no part of it.
        sampling: How tokens are chosen.
        is_stream: Whether the answer is sent as it comes.
        includes_usage: Whether a stream ends with the counts of tokens.
    """

    model: str
    prompt: str | Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    is_stream: bool = False
    includes_usage: bool = False

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation."""
        return not isinstance(self.prompt, str)


def read_chat(body: Any) -> Ask:
    """Read the body of a request to ``/v1/chat/completions``.

    Raises:
        RequestError: A field is missing, has a value of another kind, or is not supported.
    """
    body = _read_object(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(
            "messages is missing or empty: send a list of messages, each with role and content",
            param="messages",
        )
    tools = body.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise RequestError(f"tools is {_show(tools)}: send a list", param="tools")
    limit = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    read = [_read_message(each, f"messages[{number}]") for number, each in enumerate(messages)]
    return _read_ask(body, prompt=read, tools=tools or None, limit=limit)


def read_completion(body: Any) -> Ask:
    """Read the body of a request to ``/v1/completions``.

    Raises:
        RequestError: As :func:`read_chat`.
    """
    body = _read_object(body)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise RequestError(
            f"prompt is {_show(prompt)}: send one text; send several prompts as several requests",
            param="prompt",
        )
    return _read_ask(body, prompt=prompt, tools=None, limit="max_tokens", default_limit=16)


def read_adapter(body: Any, *, with_path: bool) -> tuple[str, str]:
    """Read the body of a request that loads or unloads an adapter: its name and its folder.

    Raises:
        RequestError: A field is missing.
    """
    body = _read_object(body)
    wanted = ("lora_name", "lora_path") if with_path else ("lora_name",)
    for name in wanted:
        if not isinstance(body.get(name), str) or not body[name]:
            raise RequestError(f"{name} is {_show(body.get(name))}: send a text", param=name)
    return str(body["lora_name"]), str(body.get("lora_path", ""))


def unknown_model(name: str, known: Sequence[str]) -> RequestError:
    """Return the refusal of a model that is not served."""
    listed = ", ".join(sorted(known)[:10])
    return RequestError(
        f"The model `{name}` does not exist. Set model to one that GET /v1/models lists: {listed}",
        status=404,
        param="model",
        code="model_not_found",
    )


def limit_answer(ask: Ask, num_prompt_tokens: int, context: int | None) -> int:
    """Return the longest answer in tokens.

    Raises:
        RequestError: Prompt and answer do not fit the model's context.
    """
    if context is None:
        return ask.max_tokens or 1024
    left = context - num_prompt_tokens
    if left < 1 or (ask.max_tokens or 1) > left:
        wanted = f" and max_tokens is {ask.max_tokens}" if ask.max_tokens else ""
        remedy = "shorten the prompt" if left < 1 else f"lower max_tokens to {left} or less"
        raise RequestError(
            f"The model's context has {context} tokens. The prompt has {num_prompt_tokens}"
            f"{wanted}: {remedy}",
            param="messages" if ask.is_chat else "prompt",
            code="context_length_exceeded",
        )
    return ask.max_tokens or left


def _read_ask(
    body: Mapping[str, Any],
    *,
    prompt: str | Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    limit: str,
    default_limit: int | None = None,
) -> Ask:
    _check_supported(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise RequestError(
            f"model is {_show(model)}: send a name that GET /v1/models lists", param="model"
        )
    max_tokens = _read_number(body, limit, at_least=1, is_whole=True)
    temperature = _read_number(body, "temperature", at_least=0, at_most=2)
    top_p = _read_number(body, "top_p", at_least=0, at_most=1)
    if top_p == 0:
        raise RequestError("top_p is 0: send a number above 0 and at most 1", param="top_p")
    seed = _read_number(body, "seed", at_least=-(2**63), at_most=2**63 - 1, is_whole=True)
    options = body.get("stream_options") or {}
    return Ask(
        model=model,
        prompt=prompt,
        tools=tools,
        max_tokens=default_limit if max_tokens is None else int(max_tokens),
        stop=_read_stops(body.get("stop")),
        sampling=Sampling(
            temperature=1.0 if temperature is None else float(temperature),
            top_p=1.0 if top_p is None else float(top_p),
            seed=None if seed is None else int(seed),
        ),
        is_stream=_read_flag(body, "stream"),
        includes_usage=isinstance(options, dict) and _read_flag(options, "include_usage"),
    )


def _read_object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object: send one, with Content-Type and all fields")
    return body


def _check_supported(body: Mapping[str, Any]) -> None:
    for name, known in _ONLY.items():
        value = body.get(name)
        if value is not None and value not in known:
            shown = " or ".join(map(_show, known))
            raise RequestError(
                f"{name} is {_show(value)}: the Transformers engine supports {shown} only; leave "
                "it out, or serve with the vLLM engine",
                param=name,
                code="unsupported_value",
            )
    wanted = body.get("response_format")
    if wanted is not None and not (isinstance(wanted, dict) and wanted.get("type") == "text"):
        raise RequestError(
            f"response_format is {_show(wanted)}: the Transformers engine supports the type "
            '"text" only; leave it out, or serve with the vLLM engine',
            param="response_format",
            code="unsupported_value",
        )


def _read_message(message: Any, place: str) -> dict[str, Any]:
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        raise RequestError(
            f"{place}.role is {_show(role)}: send one of {', '.join(_ROLES)}", param=place
        )
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_read_part(part, place) for part in content)
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        raise RequestError(
            f"{place}.content is {_show(content)}: send a text", param=f"{place}.content"
        )
    return {**message, "content": content or ""}


def _read_part(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else part
    raise RequestError(
        f"{place}.content has a part of type {_show(kind)}: this model reads parts of type "
        '"text" only',
        param=f"{place}.content",
    )


def _read_number(
    body: Mapping[str, Any],
    name: str,
    *,
    at_least: float,
    at_most: float = math.inf,
    is_whole: bool = False,
) -> float | int | None:
    value = body.get(name)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and at_least <= value <= at_most and (not is_whole or value == int(value))
    if fits and isinstance(value, int | float):
        return value
    kind = "a whole number" if is_whole else "a number"
    bounds = f"of at least {at_least:g}" + (f" and at most {at_most:g}" if at_most < 2**62 else "")
    raise RequestError(f"{name} is {_show(value)}: send {kind} {bounds}", param=name)


def _read_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise RequestError(f"{name} is {_show(value)}: send true or false", param=name)


def _read_stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else (value or [])
    is_known = isinstance(stops, list) and all(isinstance(stop, str) and stop for stop in stops)
    if not is_known or len(stops) > MAX_STOPS:
        raise RequestError(
            f"stop is {_show(value)}: send a text, or a list of up to {MAX_STOPS} texts that are "
            "not empty",
            param="stop",
        )
    return tuple(stops)


def _show(value: Any) -> str:
    if value is None:
        return "missing"
    text = f"{value!r}" if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else text[:57] + "..."
