"""The prompted base model as a source of evidence: the strongest base that a prompt makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.inference.answering import Comparison
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.sources.prompt_baseline.making import FromTrainSide, make_prompted
from finetune_trainer.evaluate.sources.prompt_baseline.section import (
    BaselineSection,
    describe_baseline,
    to_json,
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
class PromptEvidence(Measured):
    """What the base model said behind the prompt."""

    found: FromTrainSide
    said: Said

    def add_to(self, comparison: Comparison) -> Comparison:
        """See :class:`Measured`."""
        return replace(
            comparison,
            prompted=self.said.answers.get("prompted"),
            likelihood=self.said.answers.get("likelihood"),
            trained=self.found.answers,
        )

    def to_report(self) -> dict[str, Any]:
        """See :class:`Measured`."""
        return {"baseline": to_json(self.found.prompted, self.found.not_prompted)}

    def describe(self, outcome: Outcome) -> BaselineSection:
        """See :class:`Measured`."""
        return describe_baseline(self.found.prompted, self.found.not_prompted)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptInquiry(Inquiry):
    """The prompt of one evaluation."""

    found: FromTrainSide

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """See :class:`Inquiry`."""
        return replace(asked, prompted=self.found.prompted)

    def measure(self, said: Said, comparison: Comparison) -> PromptEvidence:
        """See :class:`Inquiry`."""
        return PromptEvidence(found=self.found, said=said)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSource(EvidenceSource):
    """The prompt that a person would write for the base; the report says why there is none."""

    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> PromptSource:
        """See :class:`EvidenceSource`."""
        return cls(services=services)

    def ask(self, task: Task) -> PromptInquiry:
        """See :class:`EvidenceSource`."""
        services = self.services
        found = make_prompted(
            services.storage,
            services.workspace.folder,
            services.model.load_tokenizer,
            task.prepared,
            task.asked,
            base_dir=task.base_dir,
        )
        return PromptInquiry(found=found)
