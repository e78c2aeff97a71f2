"""Answers kept below the run, so that an evaluation that was stopped need not ask again.

``answers/<digest>.json`` holds what the models have said so far. The digest names everything that
an answer depends on: questions as tokens, weights, types, device, libraries. So answers to other
questions, or of another adapter, lie under another name; a second digest in the file tells whether
its bytes are the ones that were written. Numbers keep all their digits on the way, and batches are
asked again whole or not at all: the report is the same as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate.inference.answering import Said
from finetune_trainer.evaluate.tokenized import (
    PROBES_NAME,
    PROMPTED_NAME,
    PUBLISHED_FOLDER,
    QUESTIONS_NAME,
)
from finetune_trainer.model.chat_format import FORMAT_NAME
from finetune_trainer.storage import ObjectStore

SIDES = ("base", "prompted", "baseProbes", "tuned", "tunedProbes", "published")
"""Base model as is, with a good prompt, probed; tuned model, and probed; the version that is
published: asked in this order."""
_PUBLISHED = tuple(f"{PUBLISHED_FOLDER}/{name}" for name in (QUESTIONS_NAME, FORMAT_NAME))
LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")

Answers = Mapping[str, Said]
"""What the models said, by :data:`SIDES`."""


class KeptAnswers:
    """The answers of one run to one set of questions, in storage.

    Args:
        store: The run's storage, to read from; it may wait for an answer.
        direct: The same, to write to while others wait.
        run_prefix: Key prefix of the run.
        digest: Of all that the answers depend on, as :func:`digest_of` gives it.
        tell: Called with a message for people.
    """

    def __init__(
        self,
        store: ObjectStore,
        direct: ObjectStore,
        run_prefix: str,
        digest: str,
        tell: Callable[[str], None],
    ) -> None:
        self._store, self._direct = store, direct
        self._prefix = prefix_of(run_prefix)
        self._digest = digest
        self._tell = tell

    @property
    def key(self) -> str:
        """Where they lie."""
        return f"{self._prefix}/{self._digest[:32]}.json"

    def read(self) -> dict[str, Said]:
        """Return what an attempt before has kept; nothing if that is not whole.

        Raises:
            StorageError: The store failed.
        """
        nothing = {side: Said(likelihoods={}, texts={}) for side in SIDES}
        if not self._store.exists(self.key):
            return nothing
        header, _, body = self._store.read_bytes(self.key).partition(b"\n")
        if header != self._header(body):
            self._tell("the answers that were kept are damaged; all questions are asked again")
            return nothing
        wire = json.loads(body)
        return {side: Said.from_json(wire[side]) for side in SIDES}

    def write(self, answers: Answers) -> None:
        """Keep answers in place of those before.

        Raises:
            StorageError: The store failed.
        """
        body = json.dumps({side: answers[side].to_json() for side in SIDES}).encode()
        self._direct.write_bytes(self.key, self._header(body) + b"\n" + body)

    def try_to_write(self, answers: Answers) -> str:
        """Keep answers if storage lets us; returns why not, or nothing."""
        try:
            self.write(answers)
        except TrainerError as error:
            return error.message
        return ""

    def _header(self, body: bytes) -> bytes:
        sha256 = hashlib.sha256(body).hexdigest()
        return json.dumps({"of": self._digest, "sha256": sha256}).encode()


def prefix_of(run_prefix: str) -> str:
    """Return the key prefix of a run's kept answers."""
    return f"{run_prefix}/answers"


def drop_answers(store: ObjectStore, run_prefix: str) -> None:
    """Remove all kept answers of a run: its evaluation is published.

    Raises:
        StorageError: The store failed.
    """
    for item in list(store.list(f"{prefix_of(run_prefix)}/")):
        store.delete(item.key)


def digest_of(folder: Path, facts: Mapping[str, object]) -> str:
    """Return the digest of all that answers depend on.

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
    """Put answers together; a later part counts above an earlier one."""
    combined = {side: Said(likelihoods={}, texts={}) for side in SIDES}
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
    """Return how many asks the answers are to."""
    return sum(
        len(said.likelihoods) + len(said.texts) + len(said.chosen) for said in answers.values()
    )


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
