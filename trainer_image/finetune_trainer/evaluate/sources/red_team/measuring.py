"""What attacks came to on base and tuned model, prompt by prompt. Pure.

Only prompts that both models were attacked with count, judged by the detectors that had a say on
both answers: whatever is left out on one side is left out on the other, and told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.protocol.evaluation_result import RedTeamResult
from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.evaluate.metrics.answers import mean_of
from finetune_trainer.evaluate.scores.alarms import MAX_ALARM_NAME, Alarm
from finetune_trainer.evaluate.scores.comparing import MIN_SHARE, compare
from finetune_trainer.evaluate.sources.red_team.catalog import Catalog
from finetune_trainer.evaluate.sources.red_team.reading import (
    RED_TEAM,
    Attack,
    Attempt,
    GarakReport,
)
from finetune_trainer.evaluate.sources.red_team.section import RedTeamSection, describe_red_team
from finetune_trainer.evaluate.sources.source import Measured, Outcome
from finetune_trainer.verdict.certainty import Severity
from finetune_trainer.verdict.figures import make_score
from finetune_trainer.verdict.gates import Found, Standing, Unmeasured

_Numbered = dict[tuple[str, str, int], Attempt]
"""Attempts by probe, prompt, and how often that came before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RedTeamScores(Measured):
    """All that a red team came to.

    Attributes:
        engine: Who attacked, with its version and image.
        found: Of each entry that could be measured, by metric, the share of hits.
        unmeasured: Of each that could not be, why.
        attacks: The prompts that count.
        notes: What to know of the figures.
        failure: Why garak did not come to its end; empty if it did.
        severity: What harm costs.
        texts: What garak left of each side, by its name.
    """

    engine: str
    found: Mapping[str, Found] = field(default_factory=dict)
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    attacks: Sequence[Attack] = ()
    notes: Sequence[str] = ()
    failure: str = ""
    severity: Severity = "Block"
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def standings(self) -> dict[str, Standing]:
        """What alarms on these metrics are held against."""
        return {**self.found, **{name: Unmeasured(why=w) for name, w in self.unmeasured.items()}}

    @property
    def alarms(self) -> dict[str, Alarm]:
        """An alarm for each entry."""
        return {
            metric: Alarm(severity=self.severity, lower_is_better=True, name=_name_alarm(metric))
            for metric in (*self.found, *self.unmeasured)
        }

    def refer_to(self, logs: Sequence[str]) -> RedTeamScores:
        """Return the same, saying of what is not measured where garak's logs lie."""
        if not logs:
            return self
        where = f"what garak wrote is in {', '.join(logs)}"
        told = {name: f"{why}; {where}" for name, why in self.unmeasured.items()}
        return replace(self, unmeasured=told)

    def to_result(self, certainty: float) -> dict[str, Any]:
        """See :class:`Measured`."""
        result = RedTeamResult(
            engine=self.engine[:256],
            scores=[
                make_score(
                    metric.removeprefix(RED_TEAM),
                    base=found.compared.base.interval(certainty),
                    tuned=found.compared.tuned.interval(certainty),
                    gain=found.compared.gain.interval(certainty),
                )
                for metric, found in self.found.items()
            ],
            num_prompts=len(self.attacks),
            failure=self.failure,
            notes=list(self.notes),
        )
        return {"red_team": result}

    def describe(self, outcome: Outcome) -> RedTeamSection:
        """See :class:`Measured`."""
        return describe_red_team(outcome.result, self.attacks)

    def write(self, folder: Path, outcome: Outcome) -> None:
        """Write what garak left of each side, unchanged."""
        beside = folder / "red-team"
        beside.mkdir()
        for side, text in self.texts.items():
            (beside / f"{side}.report.jsonl").write_text(text, encoding="utf-8")


def measure_attacks(
    red_team: RedTeam,
    catalog: Catalog,
    base: GarakReport,
    tuned: GarakReport,
    *,
    engine: str,
    failure: str = "",
    notes: Sequence[str] = (),
    num_samples: int,
    seed: int,
) -> RedTeamScores:
    """Compare both models by the share of prompts that are hits.

    Args:
        red_team: What the job asks for.
        catalog: The probes that garak has.
        base: What it left of the base model.
        tuned: What it left of the tuned model.
        engine: Who attacked, in words.
        failure: Why it did not come to its end; empty if it did.
        notes: What else to know, of probes that it could not run.
        num_samples: Resamples.
        seed: Of all that is drawn.
    """
    attacks = pair_attempts(base, tuned)
    found, unmeasured = {}, {}
    numbered = _number(base), _number(tuned)
    for entry in red_team.probes:
        names = set(catalog.expand(entry))
        its = [attack for attack in attacks if attack.probe in names]
        metric = f"{RED_TEAM}{entry}"
        if gap := _find_gap(names, numbered, len(its)):
            unmeasured[metric] = failure or gap
        else:
            found[metric] = _compare(its, num_samples=num_samples, seed=seed)
    probes = [name for entry in red_team.probes for name in catalog.expand(entry)]
    return RedTeamScores(
        engine=engine,
        found=found,
        unmeasured=unmeasured,
        attacks=attacks,
        notes=[*notes, *_list_unmeasured(list(dict.fromkeys(probes)), base, tuned, attacks)],
        failure=failure,
        severity=red_team.severity,
    )


def _name_alarm(metric: str) -> str:
    """Return the entry as names are written, with room for what tells equal names apart."""
    asked = re.sub("[^a-z0-9]+", "-", metric.removeprefix(RED_TEAM).lower())
    return f"red-team-{asked}"[: MAX_ALARM_NAME - len("-alarm")].strip("-")


def _find_gap(names: Set[str], numbered: tuple[_Numbered, _Numbered], num_pairs: int) -> str:
    """Return why an entry cannot be compared; empty where it can.

    Probes that ran for one model alone are told by themselves, and are no part of the share.
    """
    before, after = (
        {key: each for key, each in side.items() if each.probe in names} for side in numbered
    )
    if not before or not after:
        side = "base" if before else "tuned"
        return (
            f"its probes were run to their end for the {side} model alone"
            if before or after
            else "garak could run none of its probes to its end"
        )
    both = {probe for probe, *_ in before} & {probe for probe, *_ in after}
    most = max(sum(probe in both for probe, *_ in side) for side in (before, after))
    if most and num_pairs >= MIN_SHARE * most:
        return ""
    shared = before.keys() & after.keys()
    answered = [k for k in shared if before[k].answer is not None and after[k].answer is not None]
    if not both:
        return "no probe of it was run to its end for both models"
    if len(shared) < MIN_SHARE * most:
        return (
            f"both models were asked {len(shared)} of {most} prompts, fewer than half: garak drew "
            "other prompts for each"
        )
    if len(answered) < MIN_SHARE * most:
        return (
            f"both models answered {len(answered)} of {most} prompts, fewer than half (a prompt "
            "may be too long)"
        )
    return (
        f"detectors judged both answers to {num_pairs} of {most} prompts, fewer than half: garak "
        "could not load them, or they had no say"
    )


def pair_attempts(base: GarakReport, tuned: GarakReport) -> list[Attack]:
    """Return the prompts of both sides that are the same, in the order of probe and place.

    A prompt that stands several times in a probe is paired as often as on both sides.
    """
    theirs = _number(tuned)
    attacks = []
    for key, before in _number(base).items():
        after = theirs.get(key)
        if after is None or before.answer is None or after.answer is None:
            continue
        shared = sorted(set(before.hits) & set(after.hits))
        if not shared:
            continue
        attacks.append(
            Attack(
                probe=before.probe,
                prompt=before.prompt,
                shown=before.shown,
                base=before.answer,
                tuned=after.answer,
                base_hits=[name for name in shared if before.hits[name]],
                tuned_hits=[name for name in shared if after.hits[name]],
                detectors=shared,
            )
        )
    return attacks


def _number(report: GarakReport) -> _Numbered:
    """Return attempts by what tells them apart."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = {}
    for attempt in report.attempts:
        key = (attempt.probe, attempt.prompt)
        numbered[(*key, seen[key])] = attempt
        seen[key] += 1
    return numbered


def _compare(attacks: Sequence[Attack], *, num_samples: int, seed: int) -> Found:
    clusters: dict[str, list[int]] = {}
    for row, attack in enumerate(attacks):
        clusters.setdefault(attack.prompt, []).append(row)
    groups = [np.array(rows) for rows in clusters.values()]
    before, after = (
        mean_of(np.array([float(bool(getattr(attack, hits))) for attack in attacks]))
        for hits in ("base_hits", "tuned_hits")
    )
    compared = compare(before, after, groups, is_bounded=True, num_samples=num_samples, seed=seed)
    return Found(compared=compared, num_prompts=len(groups))


def _list_unmeasured(
    probes: Sequence[str], base: GarakReport, tuned: GarakReport, attacks: Sequence[Attack]
) -> list[str]:
    """Return what does not count, probe by probe."""
    counted = Counter(attack.probe for attack in attacks)
    sides = {"base": _count(base), "tuned": _count(tuned)}
    notes = []
    for probe in probes:
        asked = {side: counts[probe] for side, counts in sides.items()}
        most = max(asked.values())
        if not most:
            notes.append(f"{probe} was not run to its end, or asked nothing")
        elif not min(asked.values()):
            side = "base" if asked["base"] else "tuned"
            notes.append(
                f"{probe} was run to its end for the {side} model alone and does not count"
            )
        elif counted[probe] < most:
            notes.append(
                f"{probe}: {counted[probe]} of {most} prompts count; the others were asked of one "
                "model alone, or have no answer or no detector's verdict (a prompt may be too long)"
            )
    for side, report in (("base", base), ("tuned", tuned)):
        told = Counter((each.probe, detector) for each in report.attempts for detector in each.hits)
        lost = sum(max(0, number - told[key]) for key, number in report.counts.items())
        if lost:
            notes.append(
                f"{lost} verdicts of the {side} model that garak counts are not in its file"
            )
    return notes


def _count(report: GarakReport) -> Counter[str]:
    return Counter(attempt.probe for attempt in report.attempts)
