"""Everything that the models of one evaluation are asked."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.context import StageContext
from finetune_trainer.data.asking import most_asked
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import DataError
from finetune_trainer.evaluate.inference.encoded import EncodedQuestions, encode_questions
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.settings import read_settings, try_settings
from finetune_trainer.evaluate.sources.champion.version import AskedPublished
from finetune_trainer.evaluate.sources.prompt_baseline.fitting import Prompted
from finetune_trainer.evaluate.sources.prompt_baseline.making import make_prompted
from finetune_trainer.model.context import evaluated_context
from finetune_trainer.model.encoding import Encoder
from finetune_trainer.model.load import read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """What is asked.

    Attributes:
        questions: The held-out questions.
        encoded: They as tokens.
        prompted: They behind a prompt, for the base model alone; None where there is none.
        not_prompted: Why there is none.
        probes: What both models are asked beyond them, as tokens; None where there is nothing.
        published: The published version that is asked as well; None where there is none.
        rows: What the rows behind the questions are called.
        has_base: Whether the base model is asked beside the tuned one.
        trained: Some answers of the train side; empty where it was not read.
    """

    questions: list[Question]
    encoded: EncodedQuestions
    prompted: Prompted | None = None
    not_prompted: str = ""
    probes: EncodedQuestions | None = None
    published: AskedPublished | None = None
    rows: str = "held-out"
    has_base: bool = True
    trained: tuple[str, ...] = ()

    def encoded_for(self, side: str) -> EncodedQuestions:
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
    def all_encoded(self) -> list[EncodedQuestions]:
        """Everything that is asked."""
        others = [self.prompted.encoded if self.prompted else None, self.probes]
        others += [self.published.encoded if self.published else None]
        return [self.encoded, *(each for each in others if each is not None)]


def gather_question_set(
    context: StageContext, prepared: Prepared, encoder: Encoder
) -> tuple[QuestionSet, Settings]:
    """Gather what is asked, as it is and for the base behind a prompt, and what metrics are told.

    A metric of the user's own is tried on the references.

    Raises:
        DataError: There is no held-out row.
        UserError: A schema or a metric of the user's own cannot be used.
        StorageError: Storage failed.
    """
    job = context.job
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
    settings = read_settings(job.spec.evaluation, context.access())
    try_settings(settings, questions)
    folder, _ = context.model_folder(include_weights=False)
    encoded = encode_questions(
        encoder,
        questions,
        job.spec.evaluation.max_new_tokens,
        context=evaluated_context(read_config(folder), job.spec.evaluation.engine),
    )
    if encoded.cut_words:
        context.emit.message(encoded.cut_words)
    found = make_prompted(context, prepared, questions, encoded)
    asked = QuestionSet(
        questions=questions,
        encoded=encoded,
        prompted=found.prompted,
        not_prompted=found.not_prompted,
        trained=found.answers,
    )
    return asked, settings
