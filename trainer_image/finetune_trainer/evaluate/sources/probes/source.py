"""Probes as a source of evidence: what both models are asked beyond the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.inference.answering import Comparison
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.scores.alarms import Alarm
from finetune_trainer.evaluate.sources.probes.alarms import settle_alarms
from finetune_trainer.evaluate.sources.probes.gathering import gather_probes
from finetune_trainer.evaluate.sources.probes.measuring import ProbeScores, measure_said
from finetune_trainer.evaluate.sources.probes.probe import Probes
from finetune_trainer.evaluate.sources.probes.section import ProbeSection, describe_probes
from finetune_trainer.evaluate.sources.source import (
    EvidenceSource,
    Inquiry,
    Measured,
    Outcome,
    Said,
    Services,
    Task,
    write_lines,
)
from finetune_trainer.verdict.gates import Standing


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeEvidence(Measured):
    """What the probes came to."""

    scores: ProbeScores

    @property
    def standings(self) -> Mapping[str, Standing]:
        """See :class:`Measured`."""
        return self.scores.standings

    @property
    def alarms(self) -> Mapping[str, Alarm]:
        """See :class:`Measured`."""
        return self.scores.alarms

    def to_result(self, certainty: float) -> dict[str, Any]:
        """See :class:`Measured`."""
        return self.scores.to_result(certainty)

    def describe(self, outcome: Outcome) -> ProbeSection:
        """See :class:`Measured`."""
        return describe_probes(outcome.result, self.scores.probed)

    def write(self, folder: Path, outcome: Outcome) -> None:
        """See :class:`Measured`."""
        if self.scores.probed:
            write_lines(folder / "probes.jsonl", self.scores.probed)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeInquiry(Inquiry):
    """The probes of one evaluation."""

    task: Task
    probes: Probes

    def extend(self, asked: QuestionSet) -> QuestionSet:
        """See :class:`Inquiry`."""
        return replace(asked, probes=self.probes.encode(self.task.room))

    def measure(self, said: Said, comparison: Comparison) -> ProbeEvidence:
        """See :class:`Inquiry`."""
        job = self.task.job
        scores = measure_said(job, self.probes, said.answers)
        return ProbeEvidence(scores=replace(scores, rules=settle_alarms(job.spec.evaluation)))


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
