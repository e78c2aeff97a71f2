"""Reads the bodies of requests, and words what is wrong with them in OpenAI's shape. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from finetune_trainer.serve.bodies import TEXT_PARTS
from finetune_trainer.serve.errors import error_body

MAX_STOPS = 4
"""OpenAI's limit of stop sequences."""
MAX_LOGPROBS = 20
"""OpenAI's limit of `top_logprobs`."""
_ROLES = ("system", "developer", "user", "assistant", "tool")
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "tool_choice": ("none", "auto"),
    "modalities": (["text"],),
    "chat_template_kwargs": ({},),
    "reasoning_effort": ("none",),
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


class _StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Ask(BaseModel):
    """What a client asks.

    Attributes:
        model: Name of the model.
        prompt: A text to continue, or the messages of a conversation.
        tools: Tools that the chat template shows to the model.
        max_tokens: Longest answer; None takes what the context has left.
        stop: Texts that end an answer; they are no part of it.
        temperature: 0 takes the likeliest tokens.
        top_p: Probability that the likeliest tokens share.
        top_k: Number of the likeliest tokens that are drawn from; 0 or -1 for all.
        min_p: Least probability of a token, as a share of the likeliest one's.
        seed: Equal seeds give equal answers; None draws one.
        stream: Whether the answer is sent as it comes.
        num_logprobs: Likeliest tokens to return at each place, beside the chosen one; None for no
            log-probabilities.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    model: str = Field(min_length=1)
    prompt: str | list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    max_tokens: int | None = Field(
        None, ge=1, validation_alias=AliasChoices("max_completion_tokens", "max_tokens")
    )
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=MAX_STOPS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    num_logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, validation_alias=AliasChoices("logprobs", "top_logprobs")
    )

    @property
    def is_chat(self) -> bool:
        """Whether it is a conversation."""
        return not isinstance(self.prompt, str)


def read_chat(body: Any) -> Ask:
    """Read the body of a request to ``/v1/chat/completions``.

    Raises:
        RequestError: A field is missing, has a value of another kind, or is not supported.
    """
    fields = _read_object(body)
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError(
            "messages is missing or empty: send a list of messages, each with role and content",
            param="messages",
        )
    read = [_read_message(each, f"messages[{number}]") for number, each in enumerate(messages)]
    logprobs = fields.pop("logprobs", False)
    if not isinstance(logprobs, bool):
        raise RequestError(f"logprobs is {_show(logprobs)}: send true or false", param="logprobs")
    if logprobs:
        fields.setdefault("top_logprobs", 0)
    elif fields.get("top_logprobs"):
        raise RequestError(
            f"top_logprobs is {_show(fields['top_logprobs'])}, without logprobs: set logprobs to "
            "true",
            param="top_logprobs",
        )
    else:
        fields.pop("top_logprobs", None)
    return _read_ask({**fields, "prompt": read})


def read_completion(body: Any) -> Ask:
    """Read the body of a request to ``/v1/completions``.

    Raises:
        RequestError: As :func:`read_chat`.
    """
    fields = _read_object(body)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise RequestError(
            f"prompt is {_show(prompt)}: send one text; send several prompts as several requests",
            param="prompt",
        )
    return _read_ask({"max_tokens": 16, **fields, "prompt": prompt, "tools": None})


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


def _read_ask(fields: Mapping[str, Any]) -> Ask:
    _check_supported(fields)
    stop = fields.get("stop")
    try:
        ask = Ask.model_validate({**fields, "stop": [stop]} if isinstance(stop, str) else fields)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise RequestError(
            f"{param} is {_show(fields.get(param))}: {reason}", param=param
        ) from error
    if ask.stream and ask.num_logprobs is not None:
        raise RequestError(
            "logprobs is set for a stream: the Transformers engine tells them of whole answers "
            "only; leave it out, or set stream to false",
            param="logprobs",
            code="unsupported_value",
        )
    return ask


def _read_object(body: Any) -> dict[str, Any]:
    """Return the fields of a body; null counts as not given, and 5.0 as 5."""
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object: send one, with Content-Type and all fields")
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in body.items()
        if value is not None
    }


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
    is_text = isinstance(part, dict) and part.get("type") in TEXT_PARTS
    if is_text and isinstance(text := part.get(part["type"]), str):
        return text
    kind = part.get("type") if isinstance(part, dict) else part
    raise RequestError(
        f"{place}.content has a part of type {_show(kind)}: this model reads parts of type "
        '"text" only',
        param=f"{place}.content",
    )


def _show(value: Any) -> str:
    if value is None:
        return "missing"
    text = f"{value!r}" if isinstance(value, str) else f"{value}"
    return text if len(text) <= 60 else text[:57] + "..."
