"""The facts about a model's conversations beyond its tokenizer.

``prepare`` decides them once from tokenizer, generation configuration and job. The template
contains its arguments and its date, so that training, evaluation, ``chat`` and every server write
the same prompt. All facts are found by rendering.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from finetune_trainer.errors import UserError
from finetune_trainer.model.template_source import bake_template, find_variables

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT_NAME = "chat.json"
"""File of a format: in a prepared data set, and in the folder of an adapter."""

THINKING_VARIABLES = ("enable_thinking", "thinking")
"""Variables by which templates switch reasoning on and off (Qwen3, GLM-4.5, SmolLM3; DeepSeek-V3.1,
Granite)."""

END_OF_REASONING = "</think>"

_PROBE = "zqanswerqz"
_QUESTION = {"role": "user", "content": "zqquestionqz"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFormat:
    """How conversations are written, and where an answer begins and ends.

    Attributes:
        template: Jinja text with arguments and date written into it; None for a base model.
        stop_ids: Tokens that generation stops at, ascending.
        end_id: Token put after an answer that the template ends with none of ``stop_ids``.
        anchors: Control tokens of the template; text is tokenised alike on both sides.
        answer_after: An answer follows the last of these; empty when all generated text is the
            answer.
        leaves_header: The model writes the header of an answer's turn: ``answer_after`` is that
            header, and nobody reasons before it.
        uses_parts: The template reads contents as lists of parts and drops plain strings.
        knows_developer: The template has a role ``developer`` of its own.
        notes: Remedies taken, as sentences for the user.
    """

    template: str | None
    stop_ids: tuple[int, ...]
    end_id: int
    anchors: tuple[str, ...] = ()
    answer_after: str = ""
    leaves_header: bool = False
    uses_parts: bool = False
    knows_developer: bool = False
    notes: tuple[str, ...] = ()

    @property
    def knows_reasoning(self) -> bool:
        """Whether reasoning may come before answers; a prompt may rule it out all the same."""
        return bool(self.answer_after) and not self.leaves_header

    def to_json(self) -> dict[str, Any]:
        """Return the format as JSON values."""
        wire = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }
        if not self.leaves_header:
            # Releases that do not know the field read no format with it.
            del wire["leaves_header"]
        return wire

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ChatFormat:
        """Inverse of :meth:`to_json`."""
        read: dict[str, Any] = {
            name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
        }
        return cls(**read)

    def cut_to_answer(self, text: str) -> str:
        """Return the part of a generated or written answer that counts as the answer."""
        if not self.answer_after or self.answer_after not in text:
            return text
        return text.rpartition(self.answer_after)[2].lstrip()


def decide_format(
    tokenizer: PreTrainedTokenizerBase,
    generation_config: Mapping[str, Any] | None = None,
    *,
    template: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    has_reasoning: bool = False,
) -> ChatFormat:
    """Decide how conversations are written for a model.

    Args:
        tokenizer: The base model's tokenizer.
        generation_config: Content of the model's ``generation_config.json``.
        template: The job's own template; None takes the tokenizer's.
        arguments: The job's arguments of the template.
        has_reasoning: Answers of the data set bring their own reasoning.

    Raises:
        jinja2.TemplateError: The template is not valid, or refuses one question and its answer.
    """
    configured = _configured_stops(tokenizer, generation_config)
    source = template if template is not None else own_template(tokenizer)
    eos = int(tokenizer.eos_token_id)
    if source is None:
        return ChatFormat(template=None, stop_ids=tuple(sorted(configured)), end_id=eos)
    given = dict(arguments or {})
    chosen, notes = _choose_thinking(find_variables(source), given, has_reasoning=has_reasoning)
    baked, date = bake_template(source, {**chosen, **given})
    if date is not None:
        notes.append(
            f"the chat template writes today's date into every prompt; {date} stands there "
            "instead, in training, evaluation and the published chat_template.jinja, so that "
            "equal jobs give equal adapters"
        )
    probed = _probe(tokenizer, baked, configured, notes)
    if has_reasoning and not probed.answer_after:
        # The template leaves it to the answers to write their reasoning.
        return replace(probed, answer_after=END_OF_REASONING)
    return probed


def find_starts_of_turns(
    tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat
) -> re.Pattern[str] | None:
    """Return a finder of the control tokens that divide a text, or None.

    A token that takes white space before it or stands within another one does not divide.
    """
    if not getattr(tokenizer, "is_fast", False) or not chat_format.anchors:
        return None
    anchors = set(chat_format.anchors)
    added = tokenizer.added_tokens_decoder.values()
    tokens = [token for token in added if any(anchor in str(token) for anchor in anchors)]
    if len(tokens) != len(anchors) or any(
        token.lstrip or token.single_word or token.normalized for token in tokens
    ):
        return None
    ordered = sorted(anchors, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)))


def write_format(chat_format: ChatFormat, folder: Path) -> None:
    """Write a format into a folder."""
    body = json.dumps(chat_format.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FORMAT_NAME).write_text(body + "\n", encoding="utf-8")


def read_format(folder: Path) -> ChatFormat:
    """Read the format of a folder.

    Raises:
        UserError: ``ChatFormatMissing``: another version wrote the folder.
    """
    try:
        body = (folder / FORMAT_NAME).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            "ChatFormatMissing",
            f"{folder} has no {FORMAT_NAME}: an earlier version of this program wrote it; start "
            "the job again under a new name",
        ) from error
    return ChatFormat.from_json(json.loads(body))


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's ``generation_config.json``, or the same from ``config.json``.

    Older models keep their end tokens in the latter.
    """
    for name in ("generation_config.json", "config.json"):
        try:
            found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        return found
    return {}


def own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the tokenizer's chat template; of several named ones the default."""
    found: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(found, dict):
        return str(found.get("default") or next(iter(found.values())))
    return found or None


def _configured_stops(
    tokenizer: PreTrainedTokenizerBase, generation_config: Mapping[str, Any] | None
) -> set[int]:
    stops = {int(tokenizer.eos_token_id)}
    configured = (generation_config or {}).get("eos_token_id")
    if isinstance(configured, int):
        stops.add(configured)
    elif configured:
        stops.update(int(token) for token in configured)
    return stops


def _choose_thinking(
    variables: frozenset[str], given: Mapping[str, Any], *, has_reasoning: bool
) -> tuple[dict[str, Any], list[str]]:
    chosen = {
        name: has_reasoning
        for name in THINKING_VARIABLES
        if name in variables and name not in given
    }
    if not chosen:
        return {}, []
    names = " and ".join(f"{name}: {str(has_reasoning).lower()}" for name in chosen)
    why = (
        "the answers bring their own reasoning"
        if has_reasoning
        else "no answer brings reasoning of its own"
    )
    return chosen, [
        f"chat template argument {names}, in training, evaluation and the published "
        f"chat_template.jinja: {why}; model.chatTemplateArguments overrides it"
    ]


def _probe(
    tokenizer: PreTrainedTokenizerBase, template: str, configured: set[int], notes: list[str]
) -> ChatFormat:
    def render(messages: Sequence[Mapping[str, Any]], *, generate: bool = False) -> str:
        return render_messages(tokenizer, template, messages, generate=generate)

    uses_parts = _PROBE not in render([{"role": "user", "content": _PROBE}])
    question = as_parts(_QUESTION) if uses_parts else _QUESTION
    answer: dict[str, Any] = {"role": "assistant", "content": _PROBE}
    answer = as_parts(answer) if uses_parts else answer
    prompt = render([question], generate=True)
    whole = render([question, answer])
    head, _, tail = whole.rpartition(_PROBE)
    added = {int(i): token for i, token in tokenizer.added_tokens_decoder.items()}
    end = next((i for i in _encode(tokenizer, tail) if i in added and added[i].special), None)
    stops = set(configured)
    if end is None:
        end = _next_turn_stop(tokenizer, render, question, answer, stops)
    elif end not in stops:
        stops.add(end)
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in sorted(configured))
        notes.append(
            f"the chat template ends answers with {tokenizer.convert_ids_to_tokens(end)!r}, "
            f"which the model's generation does not stop at (it stops at {names}); evaluation "
            "stops there too, and the adapter's generation_config.json names it for servers"
        )
    mark = _find_answer_mark(prompt, head)
    is_own = mark not in ("", END_OF_REASONING)
    return ChatFormat(
        template=template,
        stop_ids=tuple(sorted(stops)),
        end_id=end,
        anchors=tuple(sorted({str(added[i]) for i in _encode(tokenizer, whole) if i in added})),
        answer_after=mark,
        leaves_header=is_own and _leaves_header(render, question, answer),
        uses_parts=uses_parts,
        knows_developer="developer" in template,
        notes=tuple(notes),
    )


def _next_turn_stop(
    tokenizer: PreTrainedTokenizerBase,
    render: Any,
    question: Mapping[str, Any],
    answer: Mapping[str, Any],
    stops: set[int],
) -> int:
    # GLM-4 ends no answer: its generation stops at the header of the next turn.
    following = _encode(tokenizer, render([question, answer, question]).rpartition(_PROBE)[2])
    if following and following[0] in stops:
        return following[0]
    return int(tokenizer.eos_token_id)


def _find_answer_mark(prompt: str, head: str) -> str:
    if head.startswith(prompt):
        header = head[len(prompt) :].strip()
        return END_OF_REASONING if END_OF_REASONING in header else header
    # The prompt opens the reasoning, which a finished answer no longer shows (DeepSeek-R1).
    return END_OF_REASONING if prompt.startswith(head.rstrip()) and "<think>" in prompt else ""


def _leaves_header(render: Any, question: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    """Whether a generation prompt opens no turn, so that a question may follow too."""
    opened = render([question, answer], generate=True).rpartition(_PROBE)[2]
    try:
        following: str = render([question, answer, question]).rpartition(_PROBE)[2]
    except TemplateError:
        return False  # it takes one question alone, and nobody can tell
    return following.startswith(opened.rstrip())


def render_messages(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    generate: bool = False,
) -> str:
    """Render messages with a template; ``generate`` opens the assistant's turn."""
    text = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools) if tools else None,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=generate,
    )
    assert isinstance(text, str)
    return text


def as_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message whose text is a list of one part."""
    content = message.get("content")
    if not isinstance(content, str):
        return dict(message)
    return {**message, "content": [{"type": "text", "text": content}]}


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
