"""Probes as a source of evidence: what both models are asked beyond the held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.sources.probes.alarms import settle_alarms
from finetune_trainer.evaluate.sources.probes.gathering import gather_probes
from finetune_trainer.evaluate.sources.probes.measuring import ProbeScores, measure_said
from finetune_trainer.evaluate.sources.probes.probe import Probes
from finetune_trainer.evaluate.sources.source import (
    EvidenceSource,
    Inquiry,
    Said,
    Services,
    Task,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeInquiry(Inquiry):
    """The probes of one evaluation."""

    task: Task
    probes: Probes

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """See :class:`Inquiry`."""
        return replace(asked, probes=self.probes.encode(self.task.room))

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> ProbeScores:
        """See :class:`Inquiry`."""
        scores = measure_said(job, self.probes, said.answers)
        return replace(scores, rules=settle_alarms(job.spec.evaluation))


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSource(EvidenceSource):
    """The packs and attacks that a job asks for; the report says so where it asks for none."""

    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> ProbeSource:
        """See :class:`EvidenceSource`."""
        return cls(services=services)

    def ask(self, task: Task) -> ProbeInquiry:
        """See :class:`EvidenceSource`."""
        services = self.services
        probes = gather_probes(
            task.job,
            services.storage,
            services.workspace.folder,
            services.model.load_tokenizer,
            task.prepared,
            task.asked.questions,
        )
        return ProbeInquiry(task=task, probes=probes)
