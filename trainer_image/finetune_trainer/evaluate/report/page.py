"""Renders ``report.html``: one file that opens anywhere, with nothing to load.

What models and data say is text of strangers: the template escapes everything, and a policy in the
page forbids whatever might slip through, every script but the page's own among it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.report.curve import Picture
from finetune_trainer.evaluate.report.label_section import (
    LABEL_COLUMNS,
    MAX_OPEN_LABELS,
    MISTAKE_COLUMNS,
    LabelSection,
)
from finetune_trainer.evaluate.report.lineage import Command, DataSection
from finetune_trainer.evaluate.report.rows import RowSection
from finetune_trainer.evaluate.report.scores import describe_scores
from finetune_trainer.evaluate.report.verdict import find_verdicts, is_local_run
from finetune_trainer.evaluate.scores.parts import PartScore
from finetune_trainer.evaluate.sources.source import Place, Section
from finetune_trainer.pages.rendering import render
from finetune_trainer.publish.declared import PROVENANCE_COLUMNS
from finetune_trainer.verdict.goal import Criterion, certainty_of

GATE_COLUMNS = (
    {"label": "gate"},
    {"label": "verdict", "whole": True},
    {"label": "metric", "name": True},
    {"label": "rows"},
    {"label": "measured", "number": True},
    {"label": "bound", "number": True},
    {"label": "asked"},
)
CRITERION_COLUMNS = (
    {"label": "what the goal asks of"},
    {"label": "verdict", "whole": True},
    {"label": "measured", "number": True},
    {"label": "bound", "number": True},
    {"label": "asked"},
)
SOURCE_COLUMNS = (
    {"label": "source"},
    {"label": "side"},
    {"label": "usable rows", "number": True},
    {"label": "invalid rows", "number": True},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """What the page tells below the verdict and the scores.

    Attributes:
        rows: Single questions with their answers.
        criteria: What the goal asks, one by one.
        cut_words: Which answers were cut; empty if none were.
        questions: Why so many questions were asked; empty where the job says the number itself.
        labels: What becomes of each label, where answers are labels.
        parts_of_rows: Scores of parts of the held-out rows.
        curve: The losses while training.
        sections: What sources of evidence show.
        data: What it learned from.
        recipe: How it was trained, by label.
        usage: What training took, by label.
        provenance: What the job says of each source's rows; empty where it says nothing.
        use: Intended use and limits, as the job states them.
        lineage: What it was made of, by label.
        licence: What is known of its terms.
        asking: How it was asked, and how others may be answered.
        commands: How it is fetched, asked and served.
    """

    rows: RowSection
    criteria: Sequence[Criterion] = ()
    cut_words: str = ""
    questions: str = ""
    labels: LabelSection | None = None
    parts_of_rows: Sequence[PartScore] = ()
    curve: Picture | None = None
    sections: Sequence[Section] = ()
    data: DataSection | None = None
    recipe: Mapping[str, str | int] = field(default_factory=dict)
    usage: Mapping[str, str] = field(default_factory=dict)
    provenance: Sequence[Sequence[str]] = ()
    use: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, str | int] = field(default_factory=dict)
    licence: str = ""
    asking: str = ""
    commands: Sequence[Command] = ()


def render_page(job: ResolvedJob, result: EvaluateResult, sections: Sections) -> str:
    """Render the page; the same values give the same bytes.

    Args:
        job: The job.
        result: Scores, goal and gates.
        sections: What else the page tells.
    """
    certainty = certainty_of(job.spec.goal)
    return render(
        "report/page.html.j2",
        folder=Path(__file__).parent.parent,
        script="report/rows.js" if sections.rows.rows else "",
        job=job,
        result=result,
        is_local_run=is_local_run(job),
        verdicts=find_verdicts(job, result, sections.criteria),
        criterion_columns=CRITERION_COLUMNS,
        scores=describe_scores(result, job.spec.goal),
        certainty=f"{certainty * 100:g}",
        gate_columns=GATE_COLUMNS,
        gates=[_gate_cells(gate) for gate in result.gates],
        label_columns=LABEL_COLUMNS,
        max_open_labels=MAX_OPEN_LABELS,
        mistake_columns=MISTAKE_COLUMNS,
        source_columns=SOURCE_COLUMNS,
        provenance_columns=[{"label": name} for name in PROVENANCE_COLUMNS],
        sections_at={place: _at(sections.sections, place) for place in ("scores", "gates")},
        beyond=_at(sections.sections, "answers", "safety", "people"),
        **{each.name: getattr(sections, each.name) for each in fields(Sections)},
    )


def _at(sections: Sequence[Section], *places: Place) -> list[Section]:
    """Return the sections of some places, in the order of the places."""
    return [section for place in places for section in sections if section.place == place]


def _gate_cells(gate: GateResult) -> list[str]:
    verdict = "met" if gate.met else "MISSED" if gate.severity == "Block" else "missed (warning)"
    measured = gate.value or "not measured"
    if not gate.applicable:
        verdict, measured = "not applicable", "nothing to compare with"
    rows = gate.slice or "all"
    return [gate.name, verdict, gate.metric, rows, measured, gate.bound, gate.asked]
