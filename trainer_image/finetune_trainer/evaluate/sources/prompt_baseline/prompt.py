"""The prompt that the base model gets: an instruction, the labels, and examples. Pure.

The instruction stands in the first turn of the user, which every chat template takes, also those
that know no system message; a row's own system message stays before it. Examples follow as turns of
the conversation, or as text where rows are plain text, and the question comes last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.sources.prompt_baseline.material import Example

SEPARATORS = ("\n\n", "\n\n###\n\n")
"""What stands between examples in plain text; the first that no answer holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BasePrompt:
    """What stands before a question.

    Attributes:
        instruction: What is asked for, with the labels that are named.
        examples: Rows of the train side that are shown.
        labels: Labels that are named.
        separator: Ends every part, and an answer, in plain text; empty in conversations.
    """

    instruction: str
    examples: tuple[Example, ...] = ()
    labels: tuple[str, ...] = ()
    separator: str = ""

    def before(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a prepared row with all of this before its question.

        Answers that are only shown are not learned, so their likelihood does not count.
        """
        if isinstance(row.get("prompt"), str):
            return {**row, "prompt": self.before_text(str(row["prompt"]))}
        key = "messages" if "messages" in row else "prompt"
        return {**row, key: self.before_messages(row[key])}

    def before_text(self, prompt: str) -> str:
        """Return a plain prompt with all of this before it."""
        shown = ("".join(example.text) for example in self.examples)
        return self.separator.join([self.instruction, *shown, prompt])

    def before_messages(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return messages with all of this before them."""
        number = sum(1 for _ in _leading_system(messages))
        shown: list[dict[str, Any]] = [
            {**turn, "weight": 0} if turn["role"] == "assistant" else {**turn}
            for example in self.examples
            for turn in example.turns or ()
        ]
        rest = [*shown, *(dict(message) for message in messages[number:])]
        first = next((turn for turn in rest if turn["role"] == "user"), None)
        if first is not None:
            first["content"] = f"{self.instruction}\n\n{first['content']}"
        return [*(dict(message) for message in messages[:number]), *rest]

    def cut(self, answer: str) -> str:
        """Return an answer up to where the next part would begin."""
        return answer.partition(self.separator)[0].strip() if self.separator else answer

    def shown(self) -> list[dict[str, str]]:
        """Return the prompt for people, as turns; the question's place is marked."""
        question = "(the question)"
        if self.separator:
            return [{"role": "", "content": self.before_text(question)}]
        turns = self.before_messages([{"role": "user", "content": question}])
        return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def write_instruction(
    *, labels: Sequence[str], num_labels: int, is_json: bool, has_examples: bool
) -> str:
    """Return what is asked for, in one or two sentences.

    It is in English whatever the rows are in: no list of translations would have all languages.

    Args:
        labels: Labels that are named; empty where answers are no labels.
        num_labels: How many there are.
        is_json: Answers are JSON.
        has_examples: Examples follow.
    """
    as_shown = ", as in the examples" if has_examples else ""
    if labels:
        which = "one of these labels" if len(labels) >= num_labels else "one label, such as these"
        return f"Answer with {which}, and with nothing else{as_shown}:\n" + "\n".join(
            f"- {label}" for label in labels
        )
    if num_labels:
        return f"Answer with one label and nothing else{as_shown}."
    if is_json:
        return f"Answer with JSON and nothing else{as_shown}."
    if has_examples:
        return (
            "Answer as in the examples: with the same content, form, length and style, and with "
            "nothing else."
        )
    return "Answer with what is asked for and nothing else."


def choose_separator(answers: Sequence[str]) -> str | None:
    """Return what may stand between parts of plain text; None if answers hold all there is."""
    return next((s for s in SEPARATORS if not any(s in answer for answer in answers)), None)


def _leading_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    leading = []
    for message in messages:
        if message["role"] not in ("system", "developer"):
            break
        leading.append(message)
    return leading
