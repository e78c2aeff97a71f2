"""Asks an engine for the answers of a variant, and stores them so that a stop loses little.

``answers/<digest>.json`` below the run holds the answers so far. The digest covers everything that
an answer depends on: questions as tokens, weights, types, device, libraries. Answers to other
questions or of another adapter have another name. A second digest in the file covers its bytes.
Numbers keep all their digits, and a batch is asked again whole or not at all, so the report of a
continued evaluation is the same as without the stop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate.inference.engine import Engine, Generation, Prompt
from finetune_trainer.evaluate.inference.keeping import AnswerStore, DamagedAnswersError
from finetune_trainer.evaluate.tokenized import (
    PROBES_NAME,
    PROMPTED_NAME,
    PUBLISHED_FOLDER,
    QUESTIONS_NAME,
    TokenizedQuestions,
    batch_prompts,
    make_batches,
    pair_references,
)
from finetune_trainer.model.chat_format import FORMAT_NAME
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.planning.answering import TOKENS_PER_BATCH

SIDES = ("base", "prompted", "baseProbes", "tuned", "tunedProbes", "published")
"""The variants in the order in which they are asked; the probes are asked of base and tuned."""
_PUBLISHED = tuple(f"{PUBLISHED_FOLDER}/{name}" for name in (QUESTIONS_NAME, FORMAT_NAME))
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """The answers of one variant to some of its examples and prompts, by their index.

    Attributes:
        likelihoods: Summed negative log-likelihood (nats) and counted tokens of examples.
        texts: Answers to prompts; None where reasoning has no end.
        seconds: Wall time of each answer: its share of its batch.
        chosen: Index of the likeliest choice behind prompts.
        cut: Prompts whose answer was cut at the limit of tokens.
    """

    likelihoods: dict[int, tuple[float, int]] = field(default_factory=dict)
    texts: dict[int, str | None] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON; numbers keep all their digits."""
        return asdict(self)

    @classmethod
    def from_json(cls, wire: Mapping[str, Any]) -> Said:
        """Read what :meth:`to_json` gave, from a file."""
        return cls(
            likelihoods={int(i): (nll, tokens) for i, (nll, tokens) in wire["likelihoods"].items()},
            texts={int(i): text for i, text in wire["texts"].items()},
            seconds={int(i): seconds for i, seconds in wire.get("seconds", {}).items()},
            chosen={int(i): number for i, number in wire.get("chosen", {}).items()},
            cut=list(wire.get("cut", ())),
        )


Answers = Mapping[str, Said]
"""Answers by :data:`SIDES`."""


Batch = Sequence[int]
"""Indices of the rows that are computed together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Calls of an engine that are left.

    Attributes:
        rows: Batches of examples to score, by their indices.
        asks: Batches of prompts to answer, by their indices.
    """

    rows: Sequence[Batch]
    asks: Sequence[Mapping[int, Prompt]]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.rows and not self.asks


class Asker:
    """Asks an engine a share of the questions of one variant.

    The batches are those of all questions, and a worker takes every n-th. So neither the batches
    nor the scores depend on the number of workers that hold as much.

    Args:
        encoder: The encoder of the variant's model.
        encoded: All its questions.
        batch_size: Prompts of one batch; None fills a token budget.
        held_tokens: That budget: tokens of the conversations that are answered together.
        rank: This worker.
        num_workers: Workers that share the questions.
    """

    def __init__(
        self,
        encoder: ChatTokenizer,
        encoded: TokenizedQuestions,
        *,
        batch_size: int | None,
        held_tokens: int = TOKENS_PER_BATCH,
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        self._encoder = encoder
        self.encoded = encoded
        self._pairs = pair_references(encoded)
        alone = sorted(set(range(len(encoded.examples))) - set(self._pairs.values()))
        rows = make_batches([len(encoded.examples[index].input_ids) for index in alone])
        self._rows = [[alone[row] for row in batch] for batch in rows]
        self._asks = batch_prompts(encoded, batch_size, held_tokens=held_tokens)
        self._rank, self._num_workers = rank, num_workers

    @property
    def pad_id(self) -> int:
        """Token that fills the shorter rows of a batch."""
        return self._encoder.pad_id

    def share(self, before: Said) -> Share:
        """Return what is left for this worker, in batches for an engine in this process.

        Args:
            before: The answers of earlier attempts, from all workers. A batch that lacks any is
                asked again whole.
        """
        rows = [batch for batch in self._rows if not before.likelihoods.keys() >= set(batch)]
        asks = [batch for batch in self._asks if not self._has_answered(before, batch)]
        # Where one kind of batch ends, the other goes on, or the first workers get more of both.
        first = (self._rank - len(rows)) % self._num_workers
        return Share(
            rows=rows[self._rank :: self._num_workers],
            asks=[
                {index: self._prompt(index) for index in batch}
                for batch in asks[first :: self._num_workers]
            ],
        )

    def share_of_all(self, before: Said) -> Share:
        """Return everything that is left, in one call of each kind for a server.

        Args:
            before: The answers of earlier attempts; only what they lack is asked.
        """
        encoded = self.encoded
        rows = [index for index in range(len(encoded.examples)) if index not in before.likelihoods]
        asks = {}
        for index, token_ids in enumerate(encoded.prompts):
            choices = [] if index in before.chosen else encoded.choices
            limit = 0 if index in before.texts else encoded.limit_of(index)
            if limit or choices:
                asks[index] = Prompt(token_ids=token_ids, max_new_tokens=limit, choices=choices)
        return Share(rows=[rows] if rows else [], asks=[asks] if asks else [])

    def _has_answered(self, before: Said, batch: Batch) -> bool:
        paired = {self._pairs[index] for index in batch if index in self._pairs}
        has_chosen = not self.encoded.choices or before.chosen.keys() >= set(batch)
        has_said = before.texts.keys() >= set(batch) and before.likelihoods.keys() >= paired
        return has_said and has_chosen

    def _prompt(self, index: int) -> Prompt:
        """Return a prompt with everything that is wanted behind it."""
        encoded, paired = self.encoded, self._pairs.get(index)
        return Prompt(
            token_ids=encoded.prompts[index],
            max_new_tokens=encoded.limit_of(index),
            choices=encoded.choices,
            reference=None if paired is None else encoded.examples[paired],
        )

    def ask(self, engine: Engine, share: Share, keep: Callable[[Said], object]) -> None:
        """Score a share's examples and answer its prompts.

        Args:
            engine: The engine of the variant's model.
            share: What to ask it.
            keep: Called with the results of each batch.

        Raises:
            TrainerError: The engine fails; see :class:`engine.Engine`.
        """
        encoded, num_shared = self.encoded, self.encoded.num_shared
        for rows in share.rows:
            examples = [encoded.examples[index] for index in rows]
            for scored in engine.score(examples, num_shared=num_shared):
                keep(Said(likelihoods={rows[at]: scored[at] for at in scored}))
        stop_ids = self._encoder.chat_format.stop_ids
        for asks in share.asks:
            indices, prompts = list(asks), list(asks.values())
            for said in engine.generate(prompts, stop_ids=stop_ids, num_shared=num_shared):
                keep(self._read({indices[at]: said[at] for at in said}, asks))

    def _read(self, said: Mapping[int, Generation], asks: Mapping[int, Prompt]) -> Said:
        """Read the text of answers, by the indices of their prompts."""
        stop_ids, reader = self._encoder.chat_format.stop_ids, self._encoder.reader
        answers = {i: each.token_ids for i, each in said.items() if asks[i].max_new_tokens}
        return Said(
            likelihoods={
                self._pairs[i]: each.reference for i, each in said.items() if each.reference
            },
            texts={i: reader.read_generated(asks[i].token_ids, ids) for i, ids in answers.items()},
            seconds={i: said[i].seconds for i in answers},
            chosen={i: each.choice for i, each in said.items() if each.choice is not None},
            cut=[i for i, ids in answers.items() if set(stop_ids).isdisjoint(ids)],
        )


class KeptAnswers:
    """The answers of one run to one set of questions, in storage.

    Args:
        store: Where they are.
        digest: Of everything that the answers depend on; see :func:`digest_of`.
        tell: Called with a message for people.
    """

    def __init__(self, store: AnswerStore, digest: str, tell: Callable[[str], None]) -> None:
        self._store = store
        self._name = f"{digest[:32]}.json"
        self._digest = digest
        self._tell = tell

    @property
    def key(self) -> str:
        """Their key in the store."""
        return self._store.key_of(self._name)

    def read(self) -> dict[str, Said]:
        """Return the answers of earlier attempts; none if the stored bytes are damaged.

        Raises:
            StorageError: The store failed.
        """
        nothing = {side: Said() for side in SIDES}
        try:
            body = self._store.read(self._name, self._header)
        except DamagedAnswersError:
            self._tell("the answers that were kept are damaged; all questions are asked again")
            return nothing
        if body is None:
            return nothing
        wire = json.loads(body)
        return {side: Said.from_json(wire[side]) for side in SIDES}

    def write(self, answers: Answers) -> None:
        """Store answers in place of the earlier ones.

        Raises:
            StorageError: The store failed.
        """
        body = json.dumps({side: answers[side].to_json() for side in SIDES}).encode()
        self._store.write(self._name, body, self._header)

    def try_to_write(self, answers: Answers) -> str:
        """Store answers; returns the reason if storage fails, else an empty text."""
        try:
            self.write(answers)
        except TrainerError as error:
            return error.message
        return ""

    def _header(self, body: bytes) -> bytes:
        sha256 = hashlib.sha256(body).hexdigest()
        return json.dumps({"of": self._digest, "sha256": sha256}).encode()


def digest_of(folder: Path, facts: Mapping[str, object]) -> str:
    """Return the digest of everything that answers depend on.

    Args:
        folder: Holds the questions as tokens and the chat format.
        facts: Weights, types and device.
    """
    known = {**facts, "kept": 6, **{name: _version_of(name) for name in LIBRARIES}}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name in (QUESTIONS_NAME, PROMPTED_NAME, PROBES_NAME, FORMAT_NAME, *_PUBLISHED):
        path = folder / name
        digest.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


def write_answers(path: Path, answers: Answers) -> None:
    """Write answers for workers."""
    path.write_text(json.dumps({side: answers[side].to_json() for side in SIDES}))


def read_answers(path: Path) -> dict[str, Said]:
    """Read what :func:`write_answers` has written."""
    wire = json.loads(path.read_text())
    return {side: Said.from_json(wire[side]) for side in SIDES}


def combine(parts: Iterable[Answers]) -> dict[str, Said]:
    """Put answers together; a later part replaces an earlier one."""
    combined = {side: Said() for side in SIDES}
    for part in parts:
        for side, said in part.items():
            combined[side].likelihoods.update(said.likelihoods)
            combined[side].texts.update(said.texts)
            combined[side].seconds.update(said.seconds)
            combined[side].chosen.update(said.chosen)
            kept = [index for index in combined[side].cut if index not in said.texts]
            combined[side].cut[:] = [*kept, *said.cut]
    return combined


def count(answers: Answers) -> int:
    """Return the number of scores, answers and choices."""
    return sum(
        len(said.likelihoods) + len(said.texts) + len(said.chosen) for said in answers.values()
    )


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
