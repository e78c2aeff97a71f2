"""The judge as a source of evidence: a language model compares or scores both models' answers.

The key is read before anything is asked: a missing key must not cost thousands of questions first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.data.judge_key import read_judge_key
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.inference.keeping import AnswerStore
from finetune_trainer.evaluate.sources.judge.consulting import Consulted, consult_judge
from finetune_trainer.evaluate.sources.judge.endpoint import JudgeEndpoint
from finetune_trainer.evaluate.sources.judge.replies import KeptReplies
from finetune_trainer.evaluate.sources.judge.section import JudgeSection, describe_judge
from finetune_trainer.evaluate.sources.judge.wording import reply_schema_of
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


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeEvidence(Measured):
    """What became of the judge."""

    consulted: Consulted

    def add_to(self, comparison: Comparison) -> Comparison:
        """Return the answers with the judge's scores, or with why there are none."""
        return self.consulted.comparison

    def to_result(self, certainty: float) -> dict[str, Any]:
        """See :class:`Measured`."""
        return {"judge": self.consulted.result}

    def describe(self, outcome: Outcome) -> JudgeSection:
        """See :class:`Measured`."""
        consulted = self.consulted
        prompts = [question.prompt or "" for question in outcome.comparison.asked]
        return describe_judge(consulted.result, prompts, consulted.judgements)

    def write(self, folder: Path, outcome: Outcome) -> None:
        """See :class:`Measured`."""
        if self.consulted.judgements:
            write_lines(folder / "judgements.jsonl", self.consulted.judgements)


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeSource(EvidenceSource, Inquiry):
    """The job's judge. It asks both models nothing more than their held-out questions."""

    job: ResolvedJob
    judge: Judge
    endpoint: JudgeEndpoint
    services: Services

    @classmethod
    def open(cls, job: ResolvedJob, services: Services) -> JudgeSource | None:
        """See :class:`EvidenceSource`."""
        judge = job.spec.evaluation.judge
        if judge is None:
            return None
        endpoint = JudgeEndpoint(
            judge.endpoint,
            judge.model,
            key=read_judge_key(judge, services.storage.access(judge.credentials_ref), os.environ),
            timeout_seconds=judge.timeout_seconds,
            max_answer_tokens=judge.max_answer_tokens,
            reply_schema=reply_schema_of(judge) if judge.structured_replies else None,
        )
        return cls(job=job, judge=judge, endpoint=endpoint, services=services)

    def ask(self, task: Task) -> JudgeSource:
        """See :class:`EvidenceSource`."""
        return self

    def measure(self, job: ResolvedJob, said: Said, comparison: Comparison) -> Measured:
        """Have the judge judge; plain text has no answers that it could."""
        if not comparison.asked:
            return Measured()
        storage, emit = self.services.storage, self.services.emit
        store = AnswerStore(
            store=storage.output, direct=storage.open_direct(), prefix=self.job.run_prefix
        )
        kept = KeptReplies(store, emit.message)
        consulted = consult_judge(self.job, self.judge, comparison, self.endpoint, kept, emit)
        return JudgeEvidence(consulted=consulted)
