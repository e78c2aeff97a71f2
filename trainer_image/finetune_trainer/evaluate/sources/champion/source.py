"""The published version as a source of evidence: it answers the held-out questions, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.question_set import AskedPublished, QuestionSet
from finetune_trainer.evaluate.sources.champion.section import PublishedSection, describe_published
from finetune_trainer.evaluate.sources.champion.seen import add_seen_prompts
from finetune_trainer.evaluate.sources.champion.version import (
    add_problem,
    find_published,
    ready_to_ask,
)
from finetune_trainer.evaluate.sources.source import (
    EvidenceSource,
    Inquiry,
    Measured,
    Outcome,
    Said,
    Services,
    Task,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChampionInquiry(Inquiry, Measured):
    """The published version in one evaluation.

    Attributes:
        told: The version as reports show it.
        asked: Its questions; None where there is no version that can be asked.
        answers: Its answers; None where it was not asked.
    """

    told: PublishedVersion
    asked: AskedPublished | None
    answers: Answers | None = None

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """See :class:`Inquiry`."""
        return replace(asked, published=self.asked)

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> ChampionInquiry:
        """See :class:`Inquiry`."""
        told = add_problem(self.told, said.problem)
        return replace(self, told=told, answers=said.answers.get("published"))

    def add_to(self, comparison: Comparison) -> Comparison:
        """See :class:`Measured`."""
        return replace(comparison, published=self.answers)

    def to_result(self, certainty: float) -> dict[str, Any]:
        """See :class:`Measured`."""
        return {"published": self.told}

    def describe(self, outcome: Outcome) -> PublishedSection:
        """See :class:`Measured`."""
        return describe_published(outcome.result.scores, self.told)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChampionSource(EvidenceSource):
    """The newest published version of the job's name, which a gate asks for."""

    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> ChampionSource | None:
        """See :class:`EvidenceSource`."""
        if all(gate.over_published is None for gate in job.spec.evaluation.gates):
            return None
        return cls(services=services)

    def ask(self, task: Task) -> ChampionInquiry:
        """Find, fetch and check the version, and count the questions that it was trained on."""
        services, questions = self.services, task.asked.questions
        found = find_published(
            services.storage,
            services.workspace,
            model_name=services.model.name,
            revision=task.revision,
        )
        found, asked = ready_to_ask(
            task.job,
            services.model.load_tokenizer(),
            found,
            questions,
            task.encoder.chat_format,
            room=task.room,
        )
        told = add_seen_prompts(services.storage, services.workspace.folder, found, questions)
        return ChampionInquiry(told=told, asked=asked)
