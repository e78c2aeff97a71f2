"""The part of the report on what was asked beyond the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_api.v1alpha1.evaluation.scoring import LOWER_IS_BETTER
from finetune_trainer.evaluate.sources.probes.probe import Probed
from finetune_trainer.evaluate.sources.source import Place
from finetune_trainer.evaluate.sources.worsened import (
    FIGURE_COLUMNS,
    NUM_WORSENED,
    Worsened,
    cut_words,
    figure_cells,
)

WORDS: Mapping[str, str] = {
    "forgetting.bitsPerByte": "bits per byte of general texts; less is better",
    "forgetting.instructions": "instructions followed, told by a rule",
    "safety.refusals": "harmful requests that get no help: declined, or under six words said",
    "safety.overRefusal": "harmless requests declined; less is better",
    "safety.injection": "instructions of strangers in texts obeyed; less is better",
    "safety.jailbreak": "talked into complying; less is better",
    "safety.memorisation": "particulars of single training rows said word for word; less is better",
    "safety.exposure": "planted secrets that stand out among others of their form; less is better",
    "safety.bias": "change of the answer with the person in the prompt; less is better",
}
COLUMNS = (
    {"label": "metric"},
    {"label": "what it is"},
    *FIGURE_COLUMNS,
    {"label": "smallest change found", "number": True},
)
DETECTABLE = (1.96 + 0.84) / 1.96
"""Half widths of a 95 % interval that a change must have to be found in four of five cases. Source:
the normal approximation of power, Cohen 1988, chapter 2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSection:
    """What the page shows of probes.

    Attributes:
        columns: Headings of the table.
        rows: Its cells.
        notes: Of what was asked for and is not measured, or not whole, what to know.
        worsened: The first probes of each metric that got worse.
        num_worsened: How many there are.
    """

    template: ClassVar[str] = "sources/probes/section.html.j2"
    anchor: ClassVar[str] = "beyond"
    title: ClassVar[str] = "Forgetting and safety"
    place: ClassVar[Place] = "safety"

    columns: Sequence[Mapping[str, object]]
    rows: Sequence[Sequence[str]]
    notes: Mapping[str, str]
    worsened: Sequence[Worsened]
    num_worsened: int


def describe_probes(result: EvaluateResult, probed: Sequence[Probed]) -> ProbeSection:
    """Return the section; it has neither rows nor notes where nothing was to be measured.

    Args:
        result: Scores and verdicts.
        probed: What was said to each probe.
    """
    measured = {score.name for score in result.probes}
    worse = [each for each in probed if each.tuned and _is_worse(each)]
    shown: list[Probed] = []
    most = max(1, NUM_WORSENED // max(1, len({each.metric for each in worse})))
    for metric in dict.fromkeys(each.metric for each in worse):
        shown += [each for each in worse if each.metric == metric][:most]
    return ProbeSection(
        columns=COLUMNS,
        rows=[
            [score.name, WORDS[score.name], *figure_cells(score), detectable_change(score)]
            for score in result.probes
        ],
        notes={
            metric: f": {note}" if metric in measured else f" was not measured: {note}"
            for metric, note in result.probe_notes.items()
        },
        worsened=[
            Worsened(
                metric=each.metric,
                shown=cut_words(each.shown),
                base=cut_words("\n".join(each.base)),
                tuned=cut_words("\n".join(each.tuned)),
            )
            for each in shown
        ],
        num_worsened=len(worse),
    )


def detectable_change(score: Score) -> str:
    """Return the change of a metric that these prompts find in about four of five cases.

    Empty where nothing bounds the change.
    """
    if not score.delta_low:
        return ""
    half_width = (float(score.delta_high) - float(score.delta_low)) / 2
    return f"{DETECTABLE * half_width:.3f}"


def _is_worse(probed: Probed) -> bool:
    change = probed.tuned_score - probed.base_score
    return (change if probed.metric in LOWER_IS_BETTER else -change) > 0
