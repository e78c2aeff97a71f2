"""Turns prepared rows into token ids and learned spans, for all stages alike.

Training sees the tokens of generation: the prompt is rendered and tokenised as a server does it,
and the answer follows up to the stop token. Answers whose prompts continue each other share one
example. Where a template rewrites past turns, each answer becomes an example of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import DataError
from finetune_trainer.model.answers import AnswerReader, compose
from finetune_trainer.model.chat_format import ChatFormat, decide_format, find_starts_of_turns
from finetune_trainer.model.turns import Conversations, Turn, reasoning_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finetune_api.protocol.trainer import ResolvedJob

IGNORED = -100
"""Label of a token that does not count in the loss (torch's cross_entropy)."""

Span = tuple[int, int]
Message = Mapping[str, Any]

_OPENERS = ("\n", ":", "a")
"""Texts that a tokenizer which puts a blank before the first word may be asked to go on from."""

_KEPT_TURNS = 256
"""Turns whose tokens are kept for the next rows: system messages, tools, headers of answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedExample:
    """One training example.

    Attributes:
        input_ids: Tokens, cut to the maximum length.
        spans: Positions ``[start, end)`` that count in the loss, ascending, not overlapping.
        num_cut: Tokens lost at the end.
        num_thoughts_lost: Answers whose own reasoning the template leaves out.
    """

    input_ids: list[int]
    spans: tuple[Span, ...]
    num_cut: int
    num_thoughts_lost: int = 0

    @property
    def labels(self) -> list[int]:
        """The tokens where the loss counts, -100 elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.spans:
            labels[start:end] = self.input_ids[start:end]
        return labels

    @property
    def has_answer(self) -> bool:
        """Whether anything is left to learn; nothing predicts the first token."""
        return any(end > max(start, 1) for start, end in self.spans)


class ChatTokenizer:
    """Encodes rows with one tokenizer, one chat format and one loss rule.

    Args:
        tokenizer: The base model's tokenizer.
        chat_format: The format that ``prepare`` decided; None decides from the tokenizer.
        loss: ``Auto``, ``Completion``, ``Assistant`` or ``All`` as in ``spec.method.loss``.
        max_tokens: Longest example; the rest is cut from the end.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_format: ChatFormat | None = None,
        *,
        loss: str = "Auto",
        max_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._format = chat_format or decide_format(tokenizer)
        self._conversations = (
            Conversations(tokenizer, self._format) if self._format.template is not None else None
        )
        self._loss = loss
        self._max_tokens = max_tokens
        self._eos = int(tokenizer.eos_token_id)
        self._is_fast = bool(getattr(tokenizer, "is_fast", False))
        if self._is_fast:
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        self._starts_of_turns = find_starts_of_turns(tokenizer, self._format)
        self._turn_ids = lru_cache(maxsize=_KEPT_TURNS)(lambda turn: tuple(self._ids(turn)))
        # A tokenizer of this kind marks the first word of a text as if a blank stood before it.
        self._marks_first_word = self._ids("a") != self._ids("\na")[len(self._ids("\n")) :]
        mark = self._ids(self._format.answer_after)
        self._reader = AnswerReader(tokenizer, self._format, mark)

    @property
    def chat_format(self) -> ChatFormat:
        """How conversations are written."""
        return self._format

    @property
    def reader(self) -> AnswerReader:
        """Reads answers in a model's output."""
        return self._reader

    @property
    def pad_id(self) -> int:
        """Token that fills the shorter rows of a batch."""
        return int(self._tokenizer.pad_token_id)

    def encode_row(self, row: Mapping[str, Any]) -> tuple[TokenizedExample, ...]:
        """Encode one canonical row: ``text``, ``prompt`` and ``completion``, or ``messages``.

        Returns:
            One example; several where the template rewrites past turns.

        Raises:
            DataError: The template does not write this row as it must be learned; see
                :meth:`Conversations.turns`. ``AnswerNotReproduced``: the answer's tokens do not
                decode to the answer.
        """
        if "text" in row:
            ids = self._with_end(self._special_ids(str(row["text"])))
            return (self._limit(ids, [(0, len(ids))]),)
        if isinstance(row.get("prompt"), str):
            return (self._encode_pair(str(row["prompt"]), str(row["completion"])),)
        messages, learned = self._choose_turns(row)
        turns = self._require_template().turns(messages, learned, row.get("tools"))
        examples = self._join(turns, [messages[position] for position in learned])
        if self._loss == "All":
            ids, _, num_lost = examples[-1]
            return (self._limit(ids, [(0, len(ids))], num_lost),)
        return tuple(self._limit(*example) for example in examples)

    def encode_prompt(
        self, prompt: str | Sequence[Message], tools: Sequence[Message] | None = None
    ) -> list[int]:
        """Return the tokens that generation is given: a text, or messages to be answered."""
        if isinstance(prompt, str):
            return self._prompt_ids(prompt)
        return self._ids_by_turn(self._require_template().prompt(prompt, tools))

    def write_prompt(self, question: str) -> str:
        """Return a question as the model is given it."""
        if self._conversations is None:
            return question
        return self._conversations.prompt([{"role": "user", "content": question}], None)

    def decode_answer(self, ids: Sequence[int]) -> str:
        """Return the answer in generated or learned text; see :meth:`AnswerReader.read`."""
        return self._reader.read(ids)

    def read_answer(self, row: Mapping[str, Any]) -> str:
        """Return the reference answer of a row: its last one, composed and stripped.

        A tool call is written as the model writes it.

        Raises:
            DataError: As :meth:`encode_row`.
        """
        if isinstance(row.get("completion"), str):
            return compose(str(row["completion"])).strip()
        messages = _messages_of(row)
        last = messages[-1]
        if not last.get("tool_calls"):
            return compose(self._format.cut_to_answer(str(last["content"]))).strip()
        turn = self._require_template().turns(messages, [len(messages) - 1], row.get("tools"))[0]
        return self.decode_answer(self._continue(turn.prompt, turn.answer))

    def answer_length(self, row: Mapping[str, Any]) -> int:
        """Return the tokens of a row's last answer, with all that generation says before it."""
        if isinstance(row.get("completion"), str):
            return len(self._ids(str(row["completion"])))
        messages = _messages_of(row)
        turn = self._require_template().turns(messages, [len(messages) - 1], row.get("tools"))[0]
        return len(self._continue(turn.prompt, turn.answer))

    def count_bytes(self, example: TokenizedExample) -> int:
        """Return the UTF-8 bytes of the text that counts in the loss, without control tokens."""
        return sum(
            len(
                self._tokenizer.decode(
                    example.input_ids[start:end],
                    skip_special_tokens=True,
                    clean_up_tokenization_spaces=False,
                ).encode()
            )
            for start, end in example.spans
        )

    def _choose_turns(self, row: Mapping[str, Any]) -> tuple[list[Message], list[int]]:
        """Return the conversation and the positions of the answers that are learned."""
        before: list[Message] = [] if "messages" in row else row["prompt"]
        messages = _messages_of(row)
        learned = [
            position
            for position, message in enumerate(messages)
            if message["role"] == "assistant"
            and message.get("weight") != 0
            and position >= len(before)
        ]
        return messages, learned[-1:] if self._loss == "Completion" else learned

    def _require_template(self) -> Conversations:
        if self._conversations is None:
            raise DataError(
                "NoChatTemplate",
                "the row is a conversation, but the model's tokenizer has no chat template; give "
                "one in model.chatTemplate",
            )
        return self._conversations

    def _join(
        self, turns: Sequence[Turn], answers: Sequence[Message]
    ) -> list[tuple[list[int], list[Span], int]]:
        """Join answers whose prompts continue each other into one example.

        Returns:
            Of each example the tokens, the learned spans, and the answers with lost reasoning.
        """
        examples: list[tuple[list[int], list[Span], int]] = []
        text = ""
        for turn, message in zip(turns, answers, strict=True):
            continues = bool(examples) and turn.prompt.startswith(text)
            ids, spans, num_lost = examples.pop() if continues else ([], [], 0)
            prompt = (
                self._extend(ids, text, turn.prompt)
                if continues
                else self._ids_by_turn(turn.prompt)
            )
            answer = self._continue(turn.prompt, turn.answer)
            self._check_answer(answer, message)
            start = len(prompt)
            spans = [*spans, (start, start + len(answer))]
            num_lost += reasoning_of(message) not in turn.answer
            examples.append(([*prompt, *answer], spans, num_lost))
            text = turn.prompt + turn.answer
        return examples

    def _extend(self, ids: list[int], text: str, longer: str) -> list[int]:
        """Return the tokens of ``longer``, which begins with ``text`` of tokens ``ids``.

        ``text`` ends in a control token, across which nothing merges.
        """
        last = str(self._tokenizer.convert_ids_to_tokens(ids[-1]))
        if not self._is_fast or not text.endswith(last):
            return self._ids(longer)
        return [*ids[:-1], *self._ids(last + longer[len(text) :])]

    def _continue(self, before: str, text: str) -> list[int]:
        """Return the tokens of ``text`` after ``before``, whose own tokens stay as they are."""
        # Nothing merges across a control token: from the last one on, the text tells all.
        places = [before.rfind(anchor) for anchor in self._format.anchors] if self._is_fast else []
        window = before[max([0, *places]) :]
        alone = self._ids_by_turn(window)
        joint = self._ids(window + text)
        if joint[: len(alone)] == alone:
            return joint[len(alone) :]
        return self._ids_within(text)

    def _ids_by_turn(self, text: str) -> list[int]:
        """Return the tokens of a prompt; shared turns are tokenised once.

        Nothing merges across a control token.
        """
        if self._starts_of_turns is None:
            return self._ids(text)
        places = [found.start() for found in self._starts_of_turns.finditer(text)]
        ids: list[int] = []
        for start, end in pairwise([0, *places, len(text)]):
            if start < end:
                ids += self._turn_ids(text[start:end])
        return ids

    def _ids_within(self, text: str) -> list[int]:
        if self._marks_first_word:
            for opener in _OPENERS:
                first, both = self._ids(opener), self._ids(opener + text)
                if both[: len(first)] == first:
                    return both[len(first) :]
        return self._ids(text)

    def _check_answer(self, ids: Sequence[int], message: Message) -> None:
        calls = message.get("tool_calls") or ()
        decoded = self.decode_answer(ids)
        wanted = [str(call["function"]["name"]) for call in calls]
        if message.get("content"):
            wanted.append(compose(self._format.cut_to_answer(str(message["content"])).strip()))
        is_same = all(text in decoded for text in wanted) if calls else [decoded] == wanted
        if is_same:
            return
        kind = "a call of a tool" if calls else "an answer"
        raise DataError(
            "AnswerNotReproduced",
            f"the tokens of {kind} decode to other text than the row's ({len(decoded)} characters "
            f"for {sum(map(len, wanted))}): the chat template or the tokenizer changes it, so the "
            "model would learn that and no generated answer could equal the reference; write the "
            "answer as the model can say it, or give a template that keeps it in "
            "model.chatTemplate",
        )

    def _encode_pair(self, prompt: str, completion: str) -> TokenizedExample:
        before = self._prompt_ids(prompt)
        joint = self._special_ids(prompt + completion)
        answer = (
            joint[len(before) :] if joint[: len(before)] == before else self._ids_within(completion)
        )
        # A base model's text may hold control tokens: they are its author's own.
        for token in self._tokenizer.all_special_tokens:
            completion = completion.replace(token, "")
        self._check_answer(answer, {"content": completion})
        ids = self._with_end([*before, *answer])
        start = 0 if self._loss == "All" else len(before)
        return self._limit(ids, [(start, len(ids))])

    def _prompt_ids(self, prompt: str) -> list[int]:
        ids = self._special_ids(prompt)
        # Some tokenizers end every text; an answer is to follow.
        return ids[:-1] if ids and ids[-1] == self._eos else ids

    def _special_ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        # The template wrote the special tokens already; adding them again doubles the first one.
        if self._is_fast:
            # The wrapper would build masks and offsets for every piece of a row, ten times slower.
            ids: list[int] = self._tokenizer.backend_tokenizer.encode(
                text, add_special_tokens=False
            ).ids
            return ids
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _with_end(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] == self._eos else [*ids, self._eos]

    def _limit(
        self, ids: list[int], spans: Sequence[Span], num_thoughts_lost: int = 0
    ) -> TokenizedExample:
        kept = min(len(ids), self._max_tokens)
        return TokenizedExample(
            input_ids=ids[:kept],
            spans=tuple((start, min(end, kept)) for start, end in spans if start < kept),
            num_cut=len(ids) - kept,
            num_thoughts_lost=num_thoughts_lost,
        )


def make_encoder(
    job: ResolvedJob, tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat
) -> ChatTokenizer:
    """Return the encoder of a job, the same in every stage."""
    return ChatTokenizer(
        tokenizer,
        chat_format,
        # Of a preference the one answer counts that is better or worse.
        loss=job.spec.method.loss if job.spec.method.objective == "SFT" else "Completion",
        max_tokens=job.spec.hyperparameters.max_sequence_length,
    )


def _messages_of(row: Mapping[str, Any]) -> list[Message]:
    return list(row["messages"]) if "messages" in row else [*row["prompt"], *row["completion"]]
