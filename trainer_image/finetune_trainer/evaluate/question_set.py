"""Everything that the models of one evaluation are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, encode_questions
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.model.pair import PublishedFolder


class PromptedQuestions(Protocol):
    """The held-out questions behind a prompt, for the base model alone."""

    @property
    def encoded(self) -> TokenizedQuestions:
        """They as tokens."""

    @property
    def labels(self) -> Sequence[str]:
        """What the choices of :attr:`encoded` are; empty where none is chosen."""

    def cut(self, answer: str) -> str:
        """Return an answer up to where the next part of the prompt would begin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPublished:
    """The published version, ready to be asked.

    Attributes:
        source: Its files.
        encoder: Of its own chat format.
        encoded: The held-out questions in it.
        digest: Digest of its manifest.
    """

    source: PublishedFolder
    encoder: ChatTokenizer
    encoded: TokenizedQuestions
    digest: str = ""

    def to_plan(self) -> dict[str, Any]:
        """Return what workers need to load it."""
        source = self.source
        return {
            "folder": str(source.folder),
            "bfloat16": source.bfloat16,
            "quantize": source.quantize,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """What is asked.

    Attributes:
        questions: The held-out questions.
        encoded: They as tokens.
        prompted: They behind a prompt, for the base model alone; None where there is none.
        probes: What both models are asked beyond them, as tokens; None where there is nothing.
        published: The published version that is asked as well; None where there is none.
        rows: What the rows behind the questions are called.
        has_base: Whether the base model is asked beside the tuned one.
    """

    questions: list[Question]
    encoded: TokenizedQuestions
    prompted: PromptedQuestions | None = None
    probes: TokenizedQuestions | None = None
    published: AskedPublished | None = None
    rows: str = "held-out"
    has_base: bool = True

    def encoded_for(self, side: str) -> TokenizedQuestions:
        """Return what a side is asked."""
        if side == "prompted":
            assert self.prompted is not None
            return self.prompted.encoded
        if side == "published":
            assert self.published is not None
            return self.published.encoded
        if side.endswith("Probes"):
            assert self.probes is not None
            return self.probes
        return self.encoded

    def num_questions_for(self, side: str) -> int:
        """Return how many questions the texts that a side scores belong to."""
        return len(self.encoded_for(side).owners if side.endswith("Probes") else self.questions)

    @property
    def all_encoded(self) -> list[TokenizedQuestions]:
        """Everything that is asked."""
        others = [self.prompted.encoded if self.prompted else None, self.probes]
        others += [self.published.encoded if self.published else None]
        return [self.encoded, *(each for each in others if each is not None)]


def gather_question_set(
    job: ResolvedJob, prepared: Prepared, encoder: ChatTokenizer, *, room: int | None
) -> QuestionSet:
    """Gather the held-out questions of a job.

    Args:
        job: The effective job.
        prepared: The run's data set, of which the held-out side is here.
        encoder: The encoder of training.
        room: Tokens that the base model takes; None where nobody knows.

    Raises:
        DataError: There is no held-out row.
    """
    questions = gather_questions(
        prepared.test,
        max_questions=most_asked(job.spec.evaluation, prepared.num_chosen),
        seed=job.spec.dataset.split.seed,
        read_answer=encoder.read_answer,
    )
    if not questions:
        raise DataError(
            "NoHeldOutRows",
            "there is no held-out row to evaluate on; set dataset.split.testPercent above 0 or "
            "give a source with side: Test",
        )
    max_new_tokens = job.spec.evaluation.max_new_tokens
    encoded = encode_questions(encoder, questions, max_new_tokens, context=room)
    return QuestionSet(questions=questions, encoded=encoded)
