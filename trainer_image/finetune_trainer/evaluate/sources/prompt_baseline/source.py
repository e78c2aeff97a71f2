"""The prompted base model as a source of evidence: the strongest base that a prompt makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.sources.prompt_baseline.making import FromTrainSplit, make_prompted
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
class PromptInquiry(Inquiry, Measured):
    """The prompt of one evaluation, and what the base model said behind it."""

    found: FromTrainSplit
    answers: Mapping[str, Answers] = field(default_factory=dict)

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """See :class:`Inquiry`."""
        return replace(asked, prompted=self.found.prompted)

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> PromptInquiry:
        """See :class:`Inquiry`."""
        return replace(self, answers=said.answers)

    def add_to(self, comparison: Comparison) -> Comparison:
        """See :class:`Measured`."""
        return replace(
            comparison,
            prompted=self.answers.get("prompted"),
            likelihood=self.answers.get("likelihood"),
            trained=self.found.answers,
        )

    def to_report(self) -> dict[str, Any]:
        """See :class:`Measured`."""
        return {"baseline": to_json(self.found.prompted, self.found.not_prompted)}

    def describe(self, outcome: Outcome) -> BaselineSection:
        """See :class:`Measured`."""
        return describe_baseline(self.found.prompted, self.found.not_prompted)


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
            config_dir=task.config_dir,
        )
        return PromptInquiry(found=found)
