"""Replies of a judge, kept below the run: an evaluation that starts anew pays for none twice.

``answers/judge.json`` holds every reply by the digest of its call: endpoint, model, words and the
length that was allowed. The words have prompt, answers and rubric in them, so other answers ask
anew. It also holds what was paid, which the caps of the job count over all attempts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate.inference.keeping import AnswerStore, DamagedAnswersError

FILE_NAME = "judge.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One reply.

    Attributes:
        text: What the judge wrote; None where it gives no answer to this text.
        input_tokens: Tokens that it read, as it says or estimated.
        output_tokens: Tokens that it wrote.
        why: Why there is no answer.
    """

    text: str | None
    input_tokens: int = 0
    output_tokens: int = 0
    why: str = ""


class KeptReplies:
    """The replies of one run, in storage.

    Args:
        store: Where they are.
        tell: Called with a message for people.
    """

    def __init__(self, store: AnswerStore, tell: Callable[[str], object]) -> None:
        self._store = store
        self._tell = tell
        self._by_digest = self._read()
        self._num_written = len(self._by_digest)

    @property
    def replies(self) -> Mapping[str, Kept]:
        """All of them, by the digest of their call."""
        return self._by_digest

    def add(self, digest: str, reply: Kept) -> None:
        """Note a reply; :meth:`write` stores it."""
        self._by_digest[digest] = reply

    def write(self) -> None:
        """Store the replies if there are new ones and storage lets us; else tell why not.

        A text that got no answer may get one another day, and was not paid for: it is not stored.
        """
        paid = {k: asdict(each) for k, each in self._by_digest.items() if each.text is not None}
        if self._num_written == len(paid):
            return
        body = json.dumps(paid).encode()
        try:
            self._store.write(FILE_NAME, body, _header)
        except TrainerError as error:
            self._tell(f"the judge's verdicts so far could not be kept: {error.message}")
        else:
            self._num_written = len(paid)

    def _read(self) -> dict[str, Kept]:
        try:
            body = self._store.read(FILE_NAME, _header)
        except DamagedAnswersError:
            self._tell("the judge's verdicts that were kept are damaged; it is asked again")
            return {}
        wire: dict[str, dict[str, Any]] = json.loads(body) if body else {}
        return {name: Kept(**each) for name, each in wire.items()}


def digest_of_call(judge: Judge, content: str) -> str:
    """Return the digest of all that a reply depends on."""
    parts = [judge.endpoint, judge.model, judge.max_answer_tokens, content]
    body = json.dumps([*parts, "structured"] if judge.structured_replies else parts)
    return hashlib.sha256(body.encode()).hexdigest()


def _header(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()
