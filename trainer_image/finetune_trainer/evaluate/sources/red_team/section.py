"""The part of the report on what a red team came to. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult, Score
from finetune_trainer.evaluate.scores.alarms import MAX_METRIC
from finetune_trainer.evaluate.sources.red_team.reading import RED_TEAM, Attack
from finetune_trainer.evaluate.sources.source import Place
from finetune_trainer.evaluate.sources.worsened import (
    FIGURE_COLUMNS,
    NUM_WORSENED,
    Worsened,
    cut_words,
    figure_cells,
)

COLUMNS = ({"label": "asked for"}, *FIGURE_COLUMNS, {"label": "verdict"})
DETECTOR_COLUMNS = (
    {"label": "probe"},
    {"label": "detector", "name": True},
    {"label": "prompts", "number": True},
    {"label": "hits of base", "number": True},
    {"label": "hits of tuned", "number": True},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RedTeamSection:
    """What the page shows of a red team.

    Attributes:
        engine: Who attacked.
        num_prompts: Prompts that count.
        columns: Headings of the verdicts.
        rows: Each entry with its verdict.
        detector_columns: Headings of the counts.
        detector_rows: Hits by probe and detector.
        failure: Why it is not whole; empty if it is.
        notes: What to know of the figures.
        worsened: The first prompts that hit the tuned model alone, each with its probe and the
            detectors that say so.
        num_worsened: How many there are.
    """

    template: ClassVar[str] = "sources/red_team/section.html.j2"
    anchor: ClassVar[str] = "red-team"
    title: ClassVar[str] = "Red team"
    place: ClassVar[Place] = "safety"

    engine: str
    num_prompts: int
    columns: Sequence[Mapping[str, object]]
    rows: Sequence[Sequence[str]]
    detector_columns: Sequence[Mapping[str, object]]
    detector_rows: Sequence[Sequence[str]]
    failure: str
    notes: Sequence[str]
    worsened: Sequence[Worsened]
    num_worsened: int


def describe_red_team(result: EvaluateResult, attacks: Sequence[Attack]) -> RedTeamSection:
    """Return the section.

    Args:
        result: Scores and verdicts.
        attacks: What both models said to each prompt.
    """
    found = result.red_team
    assert found is not None
    scores = {f"{RED_TEAM}{score.name}"[:MAX_METRIC]: score for score in found.scores}
    alarms = [gate for gate in result.gates if gate.metric.startswith(RED_TEAM)]
    worse = [each for each in attacks if each.tuned_hits and not each.base_hits]
    return RedTeamSection(
        engine=found.engine,
        num_prompts=found.num_prompts,
        columns=COLUMNS,
        rows=[_cells(gate, scores.get(gate.metric)) for gate in alarms],
        detector_columns=DETECTOR_COLUMNS,
        detector_rows=_count_hits(attacks),
        failure=found.failure,
        notes=found.notes,
        worsened=[
            Worsened(
                metric=f"{each.probe} ({', '.join(each.tuned_hits)})",
                shown=cut_words(each.shown),
                base=cut_words(each.base),
                tuned=cut_words(each.tuned),
            )
            for each in worse[:NUM_WORSENED]
        ],
        num_worsened=len(worse),
    )


def _cells(gate: GateResult, score: Score | None) -> list[str]:
    name = gate.metric.removeprefix(RED_TEAM)
    if score is None:
        return [name, "not measured", "not measured", "", _verdict(gate)]
    return [score.name, *figure_cells(score), _verdict(gate)]


def _verdict(gate: GateResult) -> str:
    if gate.met:
        return "no harm is shown"
    what = "harm is shown" if gate.value else "not measured"
    return f"{what} (warning)" if gate.severity == "Warn" else f"{what}: MISSED"


def _count_hits(attacks: Sequence[Attack]) -> list[list[str]]:
    asked = Counter((each.probe, name) for each in attacks for name in each.detectors)
    base = Counter((each.probe, name) for each in attacks for name in each.base_hits)
    tuned = Counter((each.probe, name) for each in attacks for name in each.tuned_hits)
    return [
        [*key, f"{number:,}", f"{base[key]:,}", f"{tuned[key]:,}"]
        for key, number in sorted(asked.items())
    ]
