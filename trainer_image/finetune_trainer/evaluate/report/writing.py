"""Writes what an evaluation leaves: for machines, for people, and the model card with its scores.

``report.json`` and ``samples.jsonl`` hold nothing that differs between two runs over the same
inputs: no times, no host names. The page tells what training took, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.evaluation.scoring import (
    BASELINE_WORDS,
    DIRECTION_UNKNOWN,
    READ_METRICS,
    BaselineName,
)
from finetune_trainer.evaluate.metrics.labels import LabelTable
from finetune_trainer.evaluate.metrics.overlap import corpus_figures
from finetune_trainer.evaluate.report.curve import draw_picture
from finetune_trainer.evaluate.report.evidence import Evidence
from finetune_trainer.evaluate.report.label_section import (
    count_both,
    describe_labels,
    table_to_json,
)
from finetune_trainer.evaluate.report.lineage import (
    asking_words,
    data_findings,
    describe_data,
    feedback_fact,
    licence_words,
    lineage_facts,
    serving_commands,
)
from finetune_trainer.evaluate.report.page import Sections, render_page
from finetune_trainer.evaluate.report.rows import show_rows
from finetune_trainer.evaluate.report.usage import read_usage, usage_facts
from finetune_trainer.evaluate.sources.source import write_lines
from finetune_trainer.publish.card import model_card, recipe_facts
from finetune_trainer.publish.declared import provenance_rows, use_facts

NUM_SAMPLES_IN_REPORT = 10
SIDES = ("base", "tuned")
_NOT_OF_ANSWERS = READ_METRICS | DIRECTION_UNKNOWN
"""By these it is not told which answers are better."""

Tables = tuple[LabelTable, LabelTable]
"""What base and tuned model said to the rows of each label."""


def write_report(folder: Path, evidence: Evidence) -> None:
    """Write ``report.json``, ``report.html``, ``samples.jsonl`` and ``README.md``."""
    write_lines(folder / "samples.jsonl", evidence.samples)
    samples = evidence.samples
    tables = count_both(
        _base_texts(evidence),
        [sample.tuned for sample in samples],
        [sample.references for sample in samples],
    )
    text = json.dumps(_to_json(evidence, tables), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    (folder / "report.html").write_text(_to_page(evidence, tables), encoding="utf-8")
    card = model_card(
        evidence.job,
        model_name=evidence.model_name,
        record=evidence.record,
        evaluation=evidence.result,
        baseline=evidence.fields.get("baseline", {}).get("words", ""),
        engine=evidence.engine,
        findings=data_findings(evidence.data) if evidence.data else (),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _to_json(evidence: Evidence, tables: Tables | None) -> dict[str, Any]:
    """Return what ``report.json`` says; the publishing stage and the CLI read it back."""
    job, record = evidence.job, evidence.record
    return {
        "job": f"{job.namespace}/{job.name}",
        "uid": job.uid,
        "model": evidence.model_name,
        "dataset": record["dataset"],
        "adapter": evidence.adapter_sha256,
        "merged": evidence.merged_digest,
        "initFrom": record.get("initFrom"),
        "quantization": record.get("quantization"),
        "generation": record.get("generation"),
        "selection": record.get("selection"),
        "curve": record.get("curve"),
        "engine": evidence.engine,
        "result": evidence.result.to_wire(),
        "answerTokens": evidence.answer_tokens,
        "cutAnswers": evidence.cut_words or None,
        "questions": evidence.questions.to_wire() if evidence.questions else None,
        **evidence.fields,
        "labels": _labels_to_json(evidence, tables) if tables else None,
        "corpus": None if tables else _corpus_to_json(evidence),
        "parts": [{**asdict(part), "score": part.score.to_wire()} for part in evidence.parts],
        "samples": [asdict(sample) for sample in evidence.samples[:NUM_SAMPLES_IN_REPORT]],
    }


def _corpus_to_json(evidence: Evidence) -> dict[str, Any]:
    references = [sample.references for sample in evidence.samples]
    texts = (_base_texts(evidence), [sample.tuned for sample in evidence.samples])
    return {
        side: [asdict(figure) for figure in corpus_figures(said, references)]
        for side, said in zip(SIDES, texts, strict=True)
    } | {"baseline": _way_of(evidence)}


def _labels_to_json(evidence: Evidence, tables: Tables) -> dict[str, Any]:
    by_side = dict(zip(SIDES, map(table_to_json, tables), strict=True))
    return {**by_side, "baseline": _way_of(evidence)}


def _way_of(evidence: Evidence) -> BaselineName | None:
    """Return how the base model was asked for the answers that are compared; None if in one way.

    Ways are chosen metric by metric. Of answers as a whole that of the first metric of answers
    counts: a loss may be lowest where nobody asked for labels.
    """
    scores = evidence.result.scores
    of_answers = (score for score in scores if score.name not in _NOT_OF_ANSWERS)
    first = next(of_answers, scores[0] if scores else None)
    return first.baseline if first else None


def _asked_words(evidence: Evidence) -> str:
    way = _way_of(evidence)
    return BASELINE_WORDS[way] if way else ""


def _base_texts(evidence: Evidence) -> list[str]:
    """Return the base model's answers that the tuned ones are compared with, not its worst."""
    name = {"Prompted": "prompted", "Likelihood": "likelihood"}.get(_way_of(evidence) or "", "base")
    return [getattr(sample, name) or "" for sample in evidence.samples]


def _to_page(evidence: Evidence, tables: Tables | None) -> str:
    job, record, result = evidence.job, evidence.record, evidence.result
    names: dict[str, Any] = {"model_name": evidence.model_name, "record": record}
    lineage = lineage_facts(job, **names, files=_name_files(evidence))
    recipe = recipe_facts(job, **names)
    sections = Sections(
        rows=show_rows(
            evidence.samples,
            metric=result.scores[0].name if result.scores else "",
            has_labels=tables is not None,
        ),
        criteria=evidence.criteria,
        cut_words=evidence.cut_words,
        questions=evidence.questions.message if evidence.questions else "",
        labels=describe_labels(*tables, asked=_asked_words(evidence)) if tables else None,
        parts_of_rows=evidence.parts,
        curve=draw_picture(record),
        sections=evidence.sections,
        data=describe_data(job, evidence.data, uri=evidence.data_uri) if evidence.data else None,
        recipe={name: fact for name, fact in recipe.items() if name not in lineage},
        usage=_describe_usage(evidence),
        provenance=provenance_rows(job),
        use=use_facts(job),
        lineage=lineage,
        licence=licence_words(record),
        asking=asking_words(job, record),
        commands=serving_commands(job, **names, adapter_uri=evidence.adapter_uri),
    )
    return render_page(job, result, sections)


def _describe_usage(evidence: Evidence) -> dict[str, str]:
    record = evidence.record
    usage = read_usage(evidence.curve, was_resumed=bool(record.get("resumedFromStep")))
    return usage_facts(usage, record["recipe"], num_nodes=evidence.job.spec.resources.nodes)


def _name_files(evidence: Evidence) -> dict[str, str]:
    merged, image = evidence.merged_digest, evidence.image
    return {
        **({"Trainer image": image} if image else {}),
        **({"Answers computed by": evidence.engine} if evidence.engine else {}),
        **feedback_fact(evidence.data, uri=evidence.data_uri),
        "Adapter files": evidence.adapter_uri,
        "Adapter sha256": evidence.adapter_sha256,
        **({"Merged model": merged} if merged else {}),
    }
