"""The held-out questions as tokens, and the files in which workers receive them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.rows import other_answer
from finetune_trainer.evaluate.questions import Question, with_prompt
from finetune_trainer.model.chat_format import write_format
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from finetune_trainer.planning.answering import TOKENS_PER_BATCH, answer_length

QUESTIONS_NAME = "questions.json"
"""File of the questions as they are."""
PROMPTED_NAME = "prompted.json"
"""File of the questions behind a prompt for the base model; absent where there is none."""
PROBES_NAME = "probes.json"
"""File of what is asked beyond the held-out rows; absent where that is nothing."""
LEAST_SHARED = 16
"""A shorter beginning is read again with every row."""
PUBLISHED_FOLDER = "published"
"""Folder of the questions as the published version is asked them, in its own chat format."""


def folder_of(folder: Path, side: str) -> Path:
    """Return where below the control folder the questions and the chat format of a side lie."""
    return folder / PUBLISHED_FOLDER if side == "published" else folder


def name_of(side: str) -> str:
    """Return the file of what a side is asked."""
    if side == "prompted":
        return PROMPTED_NAME
    return PROBES_NAME if side.endswith("Probes") else QUESTIONS_NAME


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedQuestions:
    """The questions as tokens.

    Attributes:
        examples: All examples of the rows behind the questions, for the likelihood.
        owners: Index of the question that each example belongs to. The rejected answers of pairs,
            one for each example, follow and have no owner.
        prompts: Token ids of the questions that have a prompt.
        answer_tokens: Longest answer to generate.
        limits: Longest answer to each prompt; none where ``answer_tokens`` holds for all.
        num_bytes: Bytes of the text that counts in each example that has an owner.
        choices: Token ids of the answers that the likeliest is chosen from, for each prompt; none
            chooses none.
        num_shared: Tokens at the beginning that all prompts and examples share and that are read
            once; nothing of them counts.
        reference_tokens: Tokens of each reference of the prompts; none where nobody counted.
    """

    examples: list[TokenizedExample]
    owners: NDArray[np.int64]
    prompts: list[list[int]]
    answer_tokens: int
    num_bytes: list[int] = field(default_factory=list)
    choices: list[list[int]] = field(default_factory=list)
    num_shared: int = 0
    reference_tokens: Sequence[int] = ()
    limits: list[int] = field(default_factory=list)

    def limit_of(self, prompt: int) -> int:
        """Return the longest answer to a prompt, given by its number."""
        return self.limits[prompt] if self.limits else self.answer_tokens

    def num_tokens_of(self, prompt: int) -> int:
        """Return the tokens of a prompt, given by its number, with its longest answer."""
        return len(self.prompts[prompt]) + self.limit_of(prompt)

    def longest(self, *, num_more: int = 0) -> int:
        """Return the tokens of the longest example, or prompt with its answer or choice.

        ``num_more`` are tokens that an engine generates behind an example or a choice.
        """
        chosen = max((len(choice) + num_more for choice in self.choices), default=0)
        asked = [
            len(ids) + max(self.limit_of(index), chosen) for index, ids in enumerate(self.prompts)
        ]
        read = [len(example.input_ids) + num_more for example in self.examples]
        return max(asked + read, default=1)

    @property
    def cut_words(self) -> str:
        """Say which answers cannot be right because they end too early; empty if none do."""
        longer = [size for size in self.reference_tokens if size > self.answer_tokens]
        if not longer:
            return ""
        return (
            f"{len(longer):,} of {len(self.reference_tokens):,} references are longer than an "
            f"answer may be, {self.answer_tokens:,} tokens (the longest has {max(longer):,}): what "
            "the models say to these questions is cut, and scores as it stands. Raise "
            "evaluation.maxNewTokens"
        )

    @property
    def num_asks(self) -> int:
        """Rows and prompts that one model is given, and choices that it is asked to make."""
        num_prompts = len(self.prompts)
        return len(self.examples) + num_prompts + (num_prompts if self.choices else 0)


def encode_questions(
    encoder: ChatTokenizer,
    questions: Sequence[Question],
    max_new_tokens: int | str,
    *,
    context: int | None = None,
) -> TokenizedQuestions:
    """Encode the questions as training encoded its rows.

    Args:
        encoder: The encoder of training.
        questions: The questions.
        max_new_tokens: Longest answer; a word chooses it by the references, with room for what may
            be reasoned before it.
        context: Tokens that the model takes: reasoning gets what is left of them. None where
            nobody knows.
    """
    examples = [
        (owner, example)
        for owner, question in enumerate(questions)
        for row in question.rows
        for example in encoder.encode_row(row)
    ]
    rows = [row for question in questions for row in question.rows]
    are_pairs = all("rejected" in row for row in rows)
    others = [encoder.encode_row(other_answer(row))[0] for row in rows] if are_pairs else []
    asks = with_prompt(questions)
    lengths = [encoder.answer_length(row) for question in asks for row in question.rows]
    prompts = [encoder.encode_prompt(q.prompt, q.tools) for q in asks if q.prompt is not None]
    scored = [*(example for _, example in examples), *others]
    answer_tokens = answer_length(
        lengths,
        max_new_tokens,
        may_reason=any(map(encoder.reader.may_reason, prompts)),
        room=None if context is None else context - max(map(len, prompts), default=0),
    )
    return TokenizedQuestions(
        examples=scored,
        owners=np.array([owner for owner, _ in examples]),
        prompts=prompts,
        answer_tokens=answer_tokens,
        num_bytes=[encoder.count_bytes(example) for _, example in examples],
        num_shared=_count_shared(prompts, scored),
        reference_tokens=lengths,
    )


def count_common(several: Sequence[list[int]]) -> int:
    """Return how many tokens all of several texts begin with."""
    first = min(several, default=[])
    last = max(several, default=[])
    pairs = enumerate(zip(first, last, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))


def make_batches(
    lengths: Sequence[int], batch_size: int | None = None, *, num_tokens: int = TOKENS_PER_BATCH
) -> list[list[int]]:
    """Put rows of like length together, the longest first: lack of memory shows at the start.

    Args:
        lengths: Tokens of every row.
        batch_size: Rows of one batch; None fills a token budget.
        num_tokens: That budget, padding included.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        batch = batches[-1] if batches else None
        limit = batch_size or (max(1, num_tokens // max(1, lengths[batch[0]])) if batch else 0)
        if batch is None or len(batch) >= limit:
            batches.append([index])
        else:
            batch.append(index)
    return batches


def batch_prompts(
    encoded: TokenizedQuestions, batch_size: int | None, *, held_tokens: int
) -> list[list[int]]:
    """Return the indices of the prompts that are answered together; see :func:`make_batches`."""
    rooms = list(map(encoded.num_tokens_of, range(len(encoded.prompts))))
    return make_batches(rooms, batch_size, num_tokens=held_tokens)


def pair_prompts(
    prompts: Sequence[list[int]], examples: Sequence[TokenizedExample]
) -> dict[int, int]:
    """Return for each prompt the first example that begins with it and counts only after it.

    Returns:
        Indices of examples by indices of prompts; a prompt may have none.
    """
    numbers = {tuple(ids): number for number, ids in reversed(list(enumerate(prompts)))}
    pairs: dict[int, int] = {}
    for index, example in enumerate(examples):
        if not example.spans:
            continue
        start, end = example.spans[0]
        number = numbers.get(tuple(example.input_ids[:start])) if start < end else None
        if number is not None:
            pairs.setdefault(number, index)
    return pairs


def pair_references(encoded: TokenizedQuestions) -> dict[int, int]:
    """Return for each prompt the example that is scored with it, by their indices.

    The memory plan has no room behind a prompt for more than its longest answer. A longer example
    is scored alone.
    """
    return {
        prompt: example
        for prompt, example in pair_prompts(encoded.prompts, encoded.examples).items()
        if len(encoded.examples[example].input_ids) <= encoded.num_tokens_of(prompt)
    }


def _count_shared(prompts: Sequence[list[int]], examples: Sequence[TokenizedExample]) -> int:
    """Return how many tokens all prompts and examples begin with; 0 where they are few."""
    size = min(
        [
            count_common([*prompts, *(example.input_ids for example in examples)]),
            # One token of each must follow, and what counts is predicted by one that does.
            *(len(prompt) - 1 for prompt in prompts),
            *(example.spans[0][0] - 1 for example in examples if example.spans),
        ],
        default=0,
    )
    return size if size >= LEAST_SHARED else 0


def write_encoded(
    folder: Path, encoder: ChatTokenizer, encoded: TokenizedQuestions, *, name: str = QUESTIONS_NAME
) -> None:
    """Write for :func:`read_encoded` what a worker needs to ask: tokens and the chat format."""
    write_format(encoder.chat_format, folder)
    wire = {
        "examples": [[example.input_ids, example.spans] for example in encoded.examples],
        "prompts": encoded.prompts,
        "answerTokens": encoded.answer_tokens,
        "choices": encoded.choices,
        "numShared": encoded.num_shared,
        "limits": encoded.limits,
    }
    (folder / name).write_text(json.dumps(wire))


def read_encoded(folder: Path, *, name: str = QUESTIONS_NAME) -> TokenizedQuestions:
    """Read what :func:`write_encoded` has written; owners and bytes of examples stay behind."""
    wire = json.loads((folder / name).read_text())
    examples = [
        TokenizedExample(
            input_ids=ids, spans=tuple((start, end) for start, end in spans), num_cut=0
        )
        for ids, spans in wire["examples"]
    ]
    return TokenizedQuestions(
        examples=examples,
        owners=np.zeros(len(examples), dtype=np.int64),
        prompts=wire["prompts"],
        answer_tokens=wire["answerTokens"],
        choices=wire["choices"],
        num_shared=wire["numShared"],
        limits=wire["limits"],
    )
