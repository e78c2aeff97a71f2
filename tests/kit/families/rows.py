"""Rows as people write them, one of each shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]

SYSTEM = {"role": "system", "content": "Answer in one word."}
ASKS_FRANCE = {"role": "user", "content": "What is the capital of France?"}
PARIS = {"role": "assistant", "content": "Paris."}
ASKS_ITALY = {"role": "user", "content": "And of Italy?"}
ROME = {"role": "assistant", "content": "Rome."}
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TOOL_TURNS = (
    {"role": "user", "content": "How is the weather in Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call00001",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny in Rome."},
)


def _parts(message: Mapping[str, Any]) -> dict[str, Any]:
    words = str(message["content"]).partition(" of ")
    texts = [words[0], words[1] + words[2]] if words[1] else [words[0]]
    return {**message, "content": [{"type": "text", "text": text} for text in texts]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A row of one shape.

    Attributes:
        title: What it shows.
        row: The row of the file.
        loss: ``spec.method.loss`` of the job.
        source: Settings of ``dataset.sources[]``, such as ``template``.
    """

    title: str
    row: Row
    loss: str = "Auto"
    source: Mapping[str, Any] = field(default_factory=dict)


CHAT_SHAPES = (
    Shape(title="pair", row={"prompt": ASKS_FRANCE["content"], "completion": "Paris."}),
    Shape(title="pair of messages", row={"prompt": [ASKS_FRANCE], "completion": [PARIS]}),
    Shape(
        title="answer of several lines",
        row={"prompt": "List two.", "completion": "1. One\n2. Two\n\nDone"},
    ),
    Shape(
        title="answer with white space around it",
        row={"prompt": "Say hello.", "completion": "  Hello you \n"},
    ),
    Shape(title="system message", row={"messages": [SYSTEM, ASKS_FRANCE, PARIS]}),
    Shape(title="several turns", row={"messages": [ASKS_FRANCE, PARIS, ASKS_ITALY, ROME]}),
    Shape(
        title="several turns, loss on the last",
        row={"messages": [ASKS_FRANCE, PARIS, ASKS_ITALY, ROME]},
        loss="Completion",
    ),
    Shape(
        title="several turns after a system message",
        row={"messages": [SYSTEM, ASKS_FRANCE, PARIS, ASKS_ITALY, ROME]},
    ),
    Shape(
        title="weight 0 on the first answer",
        row={"messages": [ASKS_FRANCE, {**PARIS, "weight": 0}, ASKS_ITALY, {**ROME, "weight": 1}]},
    ),
    Shape(title="content parts", row={"messages": [_parts(ASKS_FRANCE), _parts(PARIS)]}),
    Shape(
        title="answer with reasoning of its own",
        row={"messages": [ASKS_FRANCE, {**PARIS, "reasoning_content": "France, so Paris."}]},
    ),
    Shape(title="tool call", row={"tools": [WEATHER_TOOL], "messages": list(TOOL_TURNS)}),
)

BASE_SHAPES = (
    Shape(title="text", row={"text": "Paris is the capital of France."}),
    Shape(title="pair", row={"prompt": ASKS_FRANCE["content"], "completion": "Paris."}),
    Shape(
        title="answer that begins with a blank",
        row={"prompt": "Q: What is the capital of France? A:", "completion": " Paris."},
    ),
    Shape(
        title="prompt that ends in a blank",
        row={"prompt": "Q: What is the capital of France? A: ", "completion": "Paris."},
    ),
    Shape(
        title="prompt that ends in a line break",
        row={"prompt": "What is the capital of France?\n", "completion": "\nParis."},
    ),
    Shape(
        title="words that would become one token",
        row={"prompt": "The opposite of happy: un", "completion": "happy"},
    ),
    Shape(
        title="instruction",
        row={"instruction": "Name the capital.", "input": "France", "output": "Paris."},
    ),
    Shape(
        title="columns and template",
        row={"country": "France", "capital": "Paris."},
        source={
            "format": "Csv",
            "columns": {"completion": "capital"},
            "template": "Capital of {{ country }}:",
        },
    ),
    Shape(title="conversation", row={"messages": [ASKS_FRANCE, PARIS]}),
)


def answers_of(shape: Shape) -> list[str]:
    """Return the answers that a row wants learned, in order; a tool call stands as its name."""
    row = shape.row
    if "messages" not in row:
        answer = row.get("completion") or row.get("output") or row.get("capital") or row["text"]
        return [answer if isinstance(answer, str) else str(answer[-1]["content"])]
    turns = [message for message in row["messages"] if message["role"] == "assistant"]
    kept = turns[-1:] if shape.loss == "Completion" else turns
    return [_text_of(message) for message in kept if message.get("weight", 1) != 0]


def _text_of(message: Mapping[str, Any]) -> str:
    if message.get("tool_calls"):
        return str(message["tool_calls"][0]["function"]["name"])
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content)


def shapes_of(tokenizer: Any) -> tuple[Shape, ...]:
    """Return the shapes that fit a tokenizer: of base models the last one must be refused."""
    return CHAT_SHAPES if tokenizer.chat_template else BASE_SHAPES
