"""What a report is made of: the answers, the scores, and what led to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import QuestionCount, RowCounts
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.evaluate.inference.answering import Comparison
from finetune_trainer.evaluate.questions import name_group
from finetune_trainer.evaluate.scores.parts import PartScore
from finetune_trainer.evaluate.sources.judge.concluding import Judgement
from finetune_trainer.evaluate.sources.probes.measuring import Probed
from finetune_trainer.evaluate.sources.prompt_baseline.fitting import Prompted
from finetune_trainer.evaluate.sources.source import Section
from finetune_trainer.verdict.goal import Criterion


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One held-out question with all answers, and what each scored by every metric.

    Attributes:
        prompt: What was asked.
        references: Accepted answers.
        base: The base model's answer to the question alone.
        tuned: The tuned model's.
        scores: Of each metric the scores of the two, the base model's first: that of the answer
            which the tuned model is compared with.
        prompted: The base model's answer behind a prompt; None where it got none.
        likelihood: The likeliest label behind that prompt; None where answers are no labels.
        group: Names what keeps questions together: those of one group are not independent.
        num_tokens: Reference tokens behind the loss.
        num_bytes: Bytes of their text in UTF-8; None if nobody counted.
        published: The published version's answer; None where it was not asked.
        cut: Of ``base``, ``prompted``, ``published`` and ``tuned`` the answers that the limit of
            tokens cut.
    """

    prompt: list[dict[str, str]] | str
    references: tuple[str, ...]
    base: str
    tuned: str
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    prompted: str | None = None
    likelihood: str | None = None
    group: str = ""
    num_tokens: int = 0
    num_bytes: int | None = None
    published: str | None = None
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything a report tells.

    Attributes:
        job: The job.
        model_name: Public name of the base model.
        record: Content of the run's ``run.json``.
        rows: Rows of each side of the data set.
        adapter_uri: Folder of the adapter.
        adapter_sha256: Digest of its weights.
        merged_digest: Digest of the merged model's files, if there is one.
        result: Scores and goal.
        criteria: What the goal asks, one by one; empty where its metric was not measured.
        samples: All questions that were answered.
        prompted: The questions behind the prompt that the base model got; None where it got none.
        not_prompted: Why it got none.
        cut_words: Which answers were cut; empty if none were.
        questions: How many questions were asked and why; None where the job says it itself.
        probed: What both models said to what they were asked beyond the held-out rows.
        sections: What sources show on the page.
        judgements: What a judge said of the answers.
        data: The report of the prepared data set; None where there is none.
        data_uri: Its folder.
        parts: Scores of parts of the held-out rows.
        curve: Text of the run's ``metrics.jsonl``; empty where there is none.
        image: The trainer's container image, as the cluster knows it; empty elsewhere.
        engine: What computed the answers, with its version; empty if nobody knows.
    """

    job: ResolvedJob
    model_name: str
    record: dict[str, Any]
    rows: RowCounts
    adapter_uri: str
    adapter_sha256: str
    merged_digest: str | None
    result: EvaluateResult
    samples: Sequence[Sample]
    prompted: Prompted | None = None
    not_prompted: str = ""
    cut_words: str = ""
    questions: QuestionCount | None = None
    probed: Sequence[Probed] = ()
    sections: Sequence[Section] = ()
    judgements: Sequence[Judgement] = ()
    criteria: Sequence[Criterion] = ()
    data: DatasetReport | None = None
    data_uri: str = ""
    parts: Sequence[PartScore] = ()
    curve: str = ""
    image: str = ""
    engine: str = ""


def gather_samples(
    comparison: Comparison, row_scores: Sequence[dict[str, tuple[float, float]]]
) -> list[Sample]:
    """Return the questions that were asked, with what was said to them and what it scored.

    Args:
        comparison: What both models said.
        row_scores: As ``gather_row_scores`` returns them.
    """
    prompted, likelihood = comparison.prompted, comparison.likelihood
    published = comparison.published
    num_tokens, num_bytes = comparison.base.num_tokens, comparison.base.num_bytes
    # Likelihoods are those of all questions, also of plain text.
    places = [i for i, question in enumerate(comparison.questions) if question.prompt is not None]
    said = {"base": comparison.base, "prompted": prompted, "published": published}
    said["tuned"] = comparison.tuned
    return [
        Sample(
            prompt=question.prompt or "",
            references=question.references,
            base=comparison.base.texts[i],
            tuned=comparison.tuned.texts[i],
            scores=row_scores[i],
            prompted=prompted.texts[i] if prompted else None,
            likelihood=likelihood.texts[i] if likelihood else None,
            published=published.texts[i] if published else None,
            group=name_group(question),
            num_tokens=int(num_tokens[place]),
            num_bytes=None if num_bytes is None else int(num_bytes[place]),
            cut=tuple(name for name, side in said.items() if side and i in side.cut),
        )
        for i, (place, question) in enumerate(zip(places, comparison.asked, strict=True))
    ]
