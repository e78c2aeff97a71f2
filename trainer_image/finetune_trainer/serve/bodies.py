"""What a request's body may hold. Pure.

An engine does more than the product promises: it fetches media from URLs, takes priorities and
templates, and reads embeddings. So only listed fields pass, and of messages only text.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from finetune_trainer.serve.errors import Refused

FIELDS = frozenset(
    (
        *("model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature"),
        *("top_p", "n", "stop", "stream", "stream_options", "seed", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format"),
        *("tools", "tool_choice", "parallel_tool_calls", "user", "safety_identifier", "store"),
        *("metadata", "top_k", "min_p", "repetition_penalty", "reasoning_effort"),
        "chat_template_kwargs",
    )
)
"""OpenAI's fields for text, and those of vLLM that shape the sampling or turn reasoning on."""
MEANT_FIELDS = frozenset(
    (
        *("functions", "function_call", "audio", "modalities", "web_search_options"),
        *("best_of", "echo", "suffix", "input", "instructions"),
        *("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
        *("min_tokens", "stop_token_ids", "ignore_eos", "bad_words", "allowed_token_ids"),
        *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens"),
        *("use_beam_search", "length_penalty", "logits_processors", "prompt_logprobs"),
        *("truncate_prompt_tokens", "thinking_token_budget", "thinking", "include_reasoning"),
        *("chat_template", "documents", "add_generation_prompt", "continue_final_message"),
        *("prompt_embeds", "mm_processor_kwargs", "media_io_kwargs", "vllm_xargs", "extra_body"),
        *("return_token_ids", "return_tokens_as_token_ids"),
    )
)
"""Fields of OpenAI and vLLM that are not supported and never dropped, because the answer would be
another one than the request asked for: another text, another form or another length."""
TEMPLATE_SWITCHES = ("enable_thinking", "thinking")
"""Variables of chat templates that a request may set, each to true or false. Any other could take
the place of an argument of the template's renderer, such as ``tokenize`` or ``chat_template``."""
TEXT_PARTS = ("text", "refusal")
"""Types of content parts that are text, under the name of their type."""
MAX_SHOWN_CHARACTERS = 64
"""Of a value in the message that refuses it."""
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_SHOWN = 16
"""Names of fields in a header."""
MAX_CHOICES = 8
"""Largest ``n``."""
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
"""An engine looks for each stop text after each token, for all endpoints in one thread."""
SHAPES = ("response_format", "tools", "tool_choice")
MAX_SHAPE_BYTES = 65536
"""Of a schema or of tools: an engine compiles them before it answers."""


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a body that can be written again.

    Raises:
        Refused: It is no JSON object, or is nested too deeply.
    """
    try:
        fields = orjson.loads(body)
        orjson.dumps(fields)  # its limit of nesting is lower than that of reading
    except (ValueError, TypeError) as error:
        # The parser's words have the place and quote nothing.
        is_deep = isinstance(error, TypeError) or "depth" in str(error)
        defect = "is nested too deeply" if is_deep else f"is not JSON in UTF-8: {error}"
        message = f"The body {defect}. Send a flat JSON object."
        raise Refused(400, "invalid_json", message) from None
    if not isinstance(fields, dict):
        raise Refused(400, "invalid_json", "The body must be a JSON object.")
    return fields


def check_fields(fields: dict[str, Any], *, drops_unknown: bool = False) -> list[str]:
    """Check that an engine may read these fields.

    Args:
        fields: Of a request.
        drops_unknown: Whether fields that are not listed are taken out of ``fields``, unless they
            are set and known to change the answer.

    Returns:
        The names that were taken out.

    Raises:
        Refused: A field is not listed, or asks for more than text.
    """
    unknown = [name for name in fields if name not in FIELDS]
    for name in unknown:
        if not drops_unknown or (name in MEANT_FIELDS and fields[name] is not None):
            message = f"The field `{name[:64]}` is not supported. Remove it."
            raise Refused(400, "unknown_parameter", message, param=name[:64])
        del fields[name]
    _check_flag(fields, "stream")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _invalid("stream_options", options, 'an object such as {"include_usage": true}')
    _check_flag(options or {}, "include_usage", within="stream_options.")
    choices = fields.get("n")
    if choices is not None and (type(choices) is not int or not 1 <= choices <= MAX_CHOICES):
        raise _invalid("n", choices, f"a whole number from 1 to {MAX_CHOICES}")
    stops = fields.get("stop")
    stops = stops if isinstance(stops, list) else [stops] * (stops is not None)
    if len(stops) > MAX_STOPS or any(len(str(each)) > MAX_STOP_CHARACTERS for each in stops):
        wanted = f"at most {MAX_STOPS} texts of at most {MAX_STOP_CHARACTERS} characters"
        raise _invalid("stop", fields["stop"], wanted)
    for name in SHAPES:
        if len(orjson.dumps(fields.get(name))) > MAX_SHAPE_BYTES:
            raise _invalid(name, fields[name], f"at most {MAX_SHAPE_BYTES // 1024} KiB of it")
    for name, value in _entries_of(fields.get("chat_template_kwargs")):
        if name not in TEMPLATE_SWITCHES or not isinstance(value, bool):
            where = f"chat_template_kwargs.{name[:64]}"
            message = f"`{where}` is not supported. Send {_SWITCHES} as true or false."
            raise Refused(400, "unknown_parameter", message, param=where)
    messages = fields.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) or content is None:
            continue
        for number, part in enumerate(content if isinstance(content, list) else [content]):
            if isinstance(part, str):
                continue
            _check_part(part, f"messages[{index}].content[{number}]")
    return unknown


def header_of(names: list[str]) -> str:
    """Return names of fields as a header's value. Odd names are `?`: a client wrote them."""
    shown = [name if _PLAIN.fullmatch(name) else "?" for name in names[:MAX_SHOWN]]
    return ", ".join(shown + ["..."] * (len(names) > MAX_SHOWN))


def _check_flag(fields: dict[str, Any], name: str, *, within: str = "") -> None:
    """Check that a field, if it is set, is true or false. ``within`` is the path to ``fields``.

    Raises:
        Refused: It is something else.
    """
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise _invalid(within + name, value, "true or false")


def _invalid(name: str, value: object, wanted: str) -> Refused:
    shown = orjson.dumps(value).decode()
    shown = shown if len(shown) <= MAX_SHOWN_CHARACTERS else f"{shown[:MAX_SHOWN_CHARACTERS]}..."
    return Refused(400, "invalid_value", f"`{name}` is {shown}: send {wanted}.", param=name)


_SWITCHES = " or ".join(f"`{name}`" for name in TEMPLATE_SWITCHES)


def _entries_of(value: object) -> list[tuple[str, object]]:
    """Return the entries of an object; something else is one entry that nothing allows."""
    return list(value.items()) if isinstance(value, dict) else [("", value)] * (value is not None)


def _check_part(part: object, where: str) -> None:
    if not isinstance(part, dict) or part.get("type") not in TEXT_PARTS:
        kind = part.get("type") if isinstance(part, dict) else None
        where = f"{where}.{kind[:64]}" if isinstance(kind, str) else where
    else:
        strange = next((name for name in part if name not in ("type", part["type"])), None)
        if strange is None:
            return
        where = f"{where}.{strange[:64]}"
    message = f'`{where}` is not supported. Send parts with `type` "text" and `text` alone.'
    raise Refused(400, "unsupported_content", message, param=where)
