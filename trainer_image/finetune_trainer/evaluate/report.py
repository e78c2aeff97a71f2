"""What an evaluation leaves: for machines, for people, and the model card that knows the scores.

The files hold nothing that differs between two runs over the same inputs: no times, no host names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.trainer import EvaluateResult, ResolvedJob, RowCounts
from finetune_trainer.evaluate.answering import Comparison
from finetune_trainer.evaluate.baseline.fitting import Prompted
from finetune_trainer.evaluate.baseline.section import describe_baseline, prompt_words, to_json
from finetune_trainer.evaluate.curve import draw_picture
from finetune_trainer.evaluate.label_section import (
    count_both,
    describe_labels,
    table_to_json,
)
from finetune_trainer.evaluate.metrics.overlap import corpus_figures
from finetune_trainer.evaluate.page import render_page
from finetune_trainer.evaluate.probes.measuring import Probed
from finetune_trainer.evaluate.probes.section import describe_probes
from finetune_trainer.publish.card import model_card, recipe_facts

NUM_SAMPLES_IN_REPORT = 10
SIDES = ("base", "tuned")


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
        samples: All questions that were answered.
        prompted: The questions behind the prompt that the base model got; None where it got none.
        not_prompted: Why it got none.
        probed: What both models said to what they were asked beyond the held-out rows.
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
    probed: Sequence[Probed] = ()


def gather_samples(
    comparison: Comparison, row_scores: Sequence[dict[str, tuple[float, float]]]
) -> list[Sample]:
    """Return the questions that were asked, with what was said to them and what it scored.

    Args:
        comparison: What both models said.
        row_scores: As ``gather_row_scores`` returns them.
    """
    prompted, likelihood = comparison.prompted, comparison.likelihood
    num_tokens, num_bytes = comparison.base.num_tokens, comparison.base.num_bytes
    # Likelihoods are those of all questions, also of plain text.
    places = [i for i, question in enumerate(comparison.questions) if question.prompt is not None]
    return [
        Sample(
            prompt=question.prompt or "",
            references=question.references,
            base=comparison.base.texts[i],
            tuned=comparison.tuned.texts[i],
            scores=row_scores[i],
            prompted=prompted.texts[i] if prompted else None,
            likelihood=likelihood.texts[i] if likelihood else None,
            group=hashlib.sha256(question.group.encode()).hexdigest()[:16],
            num_tokens=int(num_tokens[place]),
            num_bytes=None if num_bytes is None else int(num_bytes[place]),
        )
        for i, (place, question) in enumerate(zip(places, comparison.asked, strict=True))
    ]


def write_report(folder: Path, evidence: Evidence) -> None:
    """Write ``report.json``, ``report.html``, ``samples.jsonl`` and ``README.md``."""
    job, result = evidence.job, evidence.result
    with (folder / "samples.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for sample in evidence.samples:
            file.write(json.dumps(asdict(sample), ensure_ascii=False) + "\n")
    if evidence.probed:
        with (folder / "probes.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for probed in evidence.probed:
                file.write(json.dumps(asdict(probed), ensure_ascii=False) + "\n")
    shown = evidence.samples[:NUM_SAMPLES_IN_REPORT]
    base, tuned = ([getattr(sample, side) for sample in evidence.samples] for side in SIDES)
    references = [sample.references for sample in evidence.samples]
    tables = count_both(base, tuned, references)
    report = {
        "job": f"{job.namespace}/{job.name}",
        "uid": job.uid,
        "model": evidence.model_name,
        "dataset": evidence.record["dataset"],
        "adapter": evidence.adapter_sha256,
        "merged": evidence.merged_digest,
        "initFrom": evidence.record.get("initFrom"),
        "quantization": evidence.record.get("quantization"),
        "selection": evidence.record.get("selection"),
        "curve": evidence.record.get("curve"),
        "result": result.to_wire(),
        "baseline": to_json(evidence.prompted, evidence.not_prompted),
        "labels": dict(zip(SIDES, map(table_to_json, tables), strict=True)) if tables else None,
        "corpus": None
        if tables
        else {
            side: [asdict(figure) for figure in corpus_figures(texts, references)]
            for side, texts in zip(SIDES, (base, tuned), strict=True)
        },
        "samples": [asdict(sample) for sample in shown],
    }
    text = json.dumps(report, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    facts = recipe_facts(job, model_name=evidence.model_name, record=evidence.record)
    rows = evidence.rows
    page = render_page(
        job=job,
        result=result,
        facts={
            **facts,
            "Rows": f"{rows.train:,} train, {rows.validation:,} validation, {rows.test:,} held out",
            "Adapter files": evidence.adapter_uri,
            "Adapter sha256": evidence.adapter_sha256,
            **({"Merged model": evidence.merged_digest} if evidence.merged_digest else {}),
        },
        samples=[asdict(sample) for sample in shown],
        num_samples=len(evidence.samples),
        curve=draw_picture(evidence.record),
        labels=describe_labels(*tables) if tables else None,
        probes=describe_probes(result, evidence.probed),
        baseline=describe_baseline(result.scores, evidence.prompted, evidence.not_prompted),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    card = model_card(
        job,
        model_name=evidence.model_name,
        record=evidence.record,
        evaluation=result,
        baseline=prompt_words(evidence.prompted, evidence.not_prompted),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
