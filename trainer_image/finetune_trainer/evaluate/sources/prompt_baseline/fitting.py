"""Makes a prompt as good as the length allows, and the held-out questions behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.evaluate.sources.prompt_baseline.material import Material
from finetune_trainer.evaluate.sources.prompt_baseline.prompt import (
    BasePrompt,
    choose_separator,
    write_instruction,
)
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, encode_questions
from finetune_trainer.model.encoding import ChatTokenizer

PROMPT_TOKENS = 1024
"""Longest instruction with labels and examples, in tokens: they are held for every row."""
LABELS_SHARE = 2
"""Labels take at most one part in so many of it: one example says more than many labels."""
NUM_TRIED = 3
"""Questions behind which the tokens of the labels must be the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompted:
    """The held-out questions behind a prompt.

    Attributes:
        prompt: What stands before them.
        encoded: They as tokens.
        labels: What :attr:`TokenizedQuestions.choices` are; empty where none is chosen.
        told: What was left out and why, in sentences.
    """

    prompt: BasePrompt
    encoded: TokenizedQuestions
    labels: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    def cut(self, answer: str) -> str:
        """Return an answer up to where the next part of the prompt would begin."""
        return self.prompt.cut(answer)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenBudget:
    """How long a prompt may be.

    Attributes:
        context: Tokens that the model takes at all; None if its configuration does not say.
        longest: Tokens of the longest question as it is, with its answer.
        answer_tokens: Longest answer to generate.
    """

    context: int | None
    longest: int
    answer_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens that may stand before every question."""
        left = PROMPT_TOKENS if self.context is None else self.context - self.longest
        return min(PROMPT_TOKENS, left)


def measure_room(encoded: TokenizedQuestions, context: int | None) -> TokenBudget:
    """Return how long a prompt may be before questions that are encoded as they are."""
    longest = max((len(ids) for ids in encoded.prompts), default=0) + encoded.answer_tokens
    return TokenBudget(
        context=context,
        longest=max([longest, *(len(example.input_ids) for example in encoded.examples)]),
        answer_tokens=encoded.answer_tokens,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What a prompt is made for."""

    questions: Sequence[Question]
    material: Material
    encoder: ChatTokenizer
    room: TokenBudget
    is_json: bool
    separator: str

    def prompt(self, num_labels: int, num_examples: int) -> BasePrompt:
        """Make the prompt with so many labels and examples."""
        labels = self.material.labels[:num_labels]
        examples = self.material.examples[:num_examples]
        instruction = write_instruction(
            labels=labels,
            num_labels=self.material.num_labels,
            is_json=self.is_json,
            has_examples=bool(examples),
        )
        return BasePrompt(
            instruction=instruction, examples=examples, labels=labels, separator=self.separator
        )

    def fits(self, prompt: BasePrompt, *, share: int = 1) -> bool:
        """Tell whether a prompt takes no more than its share of the room, one part in so many."""
        longest = max(self.questions, key=lambda question: len(str(question.prompt)))
        try:
            plain = self.encoder.encode_prompt(longest.prompt or "", longest.tools)
            whole = self.encoder.encode_prompt(prompt_with(prompt, longest), longest.tools)
        except DataError:
            return False
        return (len(whole) - len(plain)) * share <= self.room.prompt_tokens


def prompt_questions(
    questions: Sequence[Question],
    material: Material,
    encoder: ChatTokenizer,
    *,
    room: TokenBudget,
    is_json: bool,
) -> tuple[Prompted | None, str]:
    """Make the best prompt that fits, and the questions behind it.

    Args:
        questions: The held-out questions.
        material: What the prompt can be made of.
        encoder: Encodes rows of any length.
        room: How long a prompt may be.
        is_json: Answers are JSON.

    Returns:
        The questions behind a prompt; or None, with the reason.
    """
    asked = with_prompt(questions)
    if not asked:
        return None, "plain text has no questions, so there is nothing to prompt"
    answers = [text for question in asked for text in question.references]
    answers += [example.text[1] for example in material.examples]
    separator = choose_separator(answers) if isinstance(asked[0].prompt, str) else ""
    if separator is None:
        return None, "the answers hold everything that could stand between examples in plain text"
    task = _Task(
        questions=asked,
        material=material,
        encoder=encoder,
        room=room,
        is_json=is_json,
        separator=separator,
    )
    reason = "not even an instruction fits beside the longest question"
    for prompt in _try_prompts(task):
        try:
            return _encode(task, questions, prompt), ""
        except DataError as error:
            reason = f"the chat template refuses the questions behind a prompt: {error.message}"
    return None, reason


def _try_prompts(task: _Task) -> Iterator[BasePrompt]:
    """Yield prompts that fit before the longest question, the best first."""
    num_labels = _largest(
        len(task.material.labels),
        lambda number: task.fits(task.prompt(number, 0), share=LABELS_SHARE),
    )
    has_tools = any(question.tools for question in task.questions)
    num_examples = _largest(
        0 if has_tools else len(task.material.examples),
        lambda number: task.fits(task.prompt(num_labels, number)),
    )
    if num_examples:
        yield task.prompt(num_labels, num_examples)
    if task.fits(task.prompt(num_labels, 0)):
        yield task.prompt(num_labels, 0)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to ``most`` that fits, where fewer fit if more do."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _encode(task: _Task, questions: Sequence[Question], prompt: BasePrompt) -> Prompted:
    """Encode all questions behind a prompt.

    Raises:
        DataError: The chat template refuses one of them.
    """
    behind = [put_behind(prompt, question) for question in questions]
    encoded = encode_questions(task.encoder, behind, task.room.answer_tokens)
    choices, reason = _encode_labels(task, prompt)
    told = _tell(task, prompt)
    if reason:
        told.append(f"the likelihood of labels is left out: {reason}")
    encoded = replace(encoded, choices=choices)
    return Prompted(
        prompt=prompt,
        encoded=encoded,
        labels=task.material.labels if choices else (),
        told=tuple(told),
    )


def put_behind(prompt: BasePrompt, question: Question) -> Question:
    """Return a question, with the rows behind it, behind a prompt."""
    if question.prompt is None:
        return question
    rows = tuple(prompt.before(row) for row in question.rows)
    return replace(question, prompt=prompt_with(prompt, question), rows=rows)


def prompt_with(prompt: BasePrompt, question: Question) -> list[dict[str, Any]] | str:
    """Return what a question asks, behind a prompt."""
    assert question.prompt is not None
    if isinstance(question.prompt, str):
        return prompt.before_text(question.prompt)
    return prompt.before_messages(question.prompt)


def _encode_labels(task: _Task, prompt: BasePrompt) -> tuple[list[list[int]], str]:
    """Return the tokens of each label with its end, or none and why; none where there are none."""
    labels = task.material.labels
    if len(labels) < 2:
        return [], ""
    step = max(1, len(task.questions) // NUM_TRIED)
    tried = [
        [_encode_label(task, prompt, question, label) for label in labels]
        for question in task.questions[::step][:NUM_TRIED]
    ]
    if any(other != tried[0] for other in tried):
        return [], "their tokens depend on the question before them"
    if any(not tokens for tokens in tried[0]):
        return [], "one of them has no tokens"
    pairs = pairwise(sorted(tried[0]))
    if any(longer[: len(shorter)] == shorter for shorter, longer in pairs):
        return [], "one of them is the beginning of another and nothing ends it"
    return tried[0], ""


def _encode_label(task: _Task, prompt: BasePrompt, question: Question, label: str) -> list[int]:
    """Return the tokens of a label as the answer to a question."""
    before = prompt_with(prompt, question)
    if isinstance(before, str):
        reference = str(question.rows[0]["completion"])
        lead = reference[: len(reference) - len(reference.lstrip())]
        answer = f"{lead}{label}{prompt.separator}"
        example = task.encoder.encode_row({"prompt": before, "completion": answer})[-1]
        start, end = example.spans[-1]
        return example.input_ids[start : end - 1]  # the separator ends it, no token of the model
    answer_turn = [{"role": "assistant", "content": label}]
    row = {"prompt": before, "completion": answer_turn}
    if question.tools:
        row["tools"] = question.tools
    example = task.encoder.encode_row(row)[-1]
    start, end = example.spans[-1]
    return example.input_ids[start:end]


def _tell(task: _Task, prompt: BasePrompt) -> list[str]:
    """Say what a person would have put into the prompt and found no room for."""
    material, told = task.material, []
    if len(prompt.labels) < material.num_labels:
        told.append(
            f"the prompt names the {len(prompt.labels)} most frequent of {material.num_labels} "
            "labels: there is no room for more"
        )
    if material.num_labels > len(material.labels):
        told.append(
            f"the likelihood is that of the {len(material.labels)} most frequent of "
            f"{material.num_labels} labels"
        )
    if not material.examples:
        told.append("no row of the train side can be shown as an example")
    elif any(question.tools for question in task.questions):
        told.append("no examples are shown: tools belong to one conversation")
    elif len(prompt.examples) < len(material.examples):
        told.append(
            f"the prompt shows {len(prompt.examples)} of {len(material.examples)} examples: more "
            "do not fit, or the chat template refuses them"
        )
    return told
