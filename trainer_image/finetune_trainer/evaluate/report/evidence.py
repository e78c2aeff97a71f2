"""What a report is made of: the answers, the scores, and what led to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import QuestionCount, RowCounts
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.questions import name_group
from finetune_trainer.evaluate.scores.parts import PartScore
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.run import RunStorage
from finetune_trainer.verdict.goal import Criterion

if TYPE_CHECKING:
    from finetune_trainer.evaluate.concluding import Conclusion
    from finetune_trainer.evaluate.sources.source import Measured, Section, Task


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
        tools: Tools that the prompt offers, in OpenAI's shape; None offers none.
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
    tools: list[dict[str, Any]] | None = None


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
        cut_words: Which answers were cut; empty if none were.
        answer_tokens: Longest answer that was asked for, in tokens.
        questions: How many questions were asked and why; None where the job says it itself.
        data: The report of the prepared data set; None where there is none.
        data_uri: Its folder.
        parts: Scores of parts of the held-out rows.
        curve: Text of the run's ``metrics.jsonl``; empty where there is none.
        image: The trainer's container image, as the cluster knows it; empty elsewhere.
        engine: What computed the answers, with its version; empty if nobody knows.
        sections: What sources of evidence show on the page.
        fields: What they add to ``report.json``.
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
    cut_words: str = ""
    answer_tokens: int | None = None
    questions: QuestionCount | None = None
    criteria: Sequence[Criterion] = ()
    data: DatasetReport | None = None
    data_uri: str = ""
    parts: Sequence[PartScore] = ()
    curve: str = ""
    image: str = ""
    engine: str = ""
    sections: Sequence[Section] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def gather_evidence(
    task: Task,
    conclusion: Conclusion,
    measured: Sequence[Measured],
    storage: RunStorage,
    *,
    model_name: str,
    merged_digest: str | None,
    engine: str,
    image: str,
    unended: str,
) -> Evidence:
    """Return everything that a report tells of an evaluation.

    Args:
        task: What was compared.
        conclusion: What it came to.
        measured: What the sources of evidence measured.
        storage: The run's.
        model_name: Public name of the base model.
        merged_digest: As :attr:`Evidence.merged_digest`.
        engine: As :attr:`Evidence.engine`.
        image: As :attr:`Evidence.image`.
        unended: Which answers were lost to reasoning; empty if none were.
    """
    cut_words = [task.asked.encoded.cut_words, unended]
    return Evidence(
        job=conclusion.job,
        model_name=model_name,
        record=task.record,
        rows=task.prepared.report.rows,
        adapter_uri=storage.uri_of(f"{task.job.run_prefix}/adapter"),
        adapter_sha256=weights_file(task.adapter).sha256,
        merged_digest=merged_digest,
        result=conclusion.result,
        criteria=conclusion.criteria,
        samples=gather_samples(conclusion.comparison, conclusion.row_scores),
        cut_words=". ".join(filter(None, cut_words)),
        answer_tokens=task.asked.encoded.answer_tokens,
        questions=task.prepared.questions,
        data=task.prepared.report,
        data_uri=task.prepared.uri,
        parts=conclusion.parts,
        curve=_read_curve(storage),
        image=image,
        engine=engine,
        sections=[section for each in measured if (section := each.describe(conclusion))],
        fields={name: value for each in measured for name, value in each.to_report().items()},
    )


def _read_curve(storage: RunStorage) -> str:
    """Return what training logged; empty where it left no log, as runs of earlier versions may."""
    key = f"{storage.job.run_prefix}/metrics.jsonl"
    if not storage.output.exists(key):
        return ""
    return storage.output.read_bytes(key).decode("utf-8", errors="replace")


def gather_samples(
    comparison: Comparison, row_scores: Sequence[Mapping[str, tuple[float, float]]]
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
            scores=dict(row_scores[i]),
            prompted=prompted.texts[i] if prompted else None,
            likelihood=likelihood.texts[i] if likelihood else None,
            published=published.texts[i] if published else None,
            group=name_group(question),
            num_tokens=int(num_tokens[place]),
            num_bytes=None if num_bytes is None else int(num_bytes[place]),
            cut=tuple(name for name, side in said.items() if side and i in side.cut),
            tools=question.tools,
        )
        for i, (place, question) in enumerate(zip(places, comparison.asked, strict=True))
    ]
