"""What the probes say of base and tuned model, metric by metric. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.metrics import answers as rows
from finetune_trainer.evaluate.metrics.answers import Answers, Floats, mean_of
from finetune_trainer.evaluate.scores.alarms import Alarm
from finetune_trainer.evaluate.scores.comparing import MIN_SHARE, compare
from finetune_trainer.evaluate.sources.probes.alarms import ALARMS
from finetune_trainer.evaluate.sources.probes.probe import Heard, Probe, Probed, Probes
from finetune_trainer.evaluate.sources.probes.section import ProbeSection, describe_probes
from finetune_trainer.evaluate.sources.source import Measured, Outcome, write_lines
from finetune_trainer.statistics.confidence import Confidence
from finetune_trainer.statistics.paired import Compared
from finetune_trainer.verdict.figures import make_score
from finetune_trainer.verdict.gates import Found, Standing, Unmeasured

_Pair = tuple[Probe, Heard, Heard]
"""A probe with what the base and the tuned model said to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeScores(Measured):
    """All that the probes say.

    Attributes:
        found: Of each metric what base and tuned model came out as.
        probed: Of each probe what was said.
        notes: Of metrics that were asked for and are not measured, or not whole, why.
        unmeasured: Of metrics that could not be measured though there may be something, and of
            those to which too few answers came, why: these are missed.
        rules: When the change of a metric is harm.
    """

    found: Mapping[str, Found]
    probed: Sequence[Probed]
    notes: Mapping[str, str]
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    rules: Mapping[str, Alarm] = field(default_factory=lambda: ALARMS)

    @property
    def standings(self) -> dict[str, Standing]:
        """What gates and alarms on these metrics are held against."""
        whys = {**self.notes, **self.unmeasured}
        without = {metric: Unmeasured(why=why) for metric, why in whys.items()}
        return {**self.found, **{m: why for m, why in without.items() if m not in self.found}}

    @property
    def alarms(self) -> dict[str, Alarm]:
        """Alarms of what was measured, or could not be though there may be something."""
        return {metric: self.rules[metric] for metric in (*self.found, *self.unmeasured)}

    def to_result(self, certainty: float) -> dict[str, Any]:
        """Return the fields of the evaluation's result, with intervals of a certainty."""
        scores = [score_of(metric, found, certainty) for metric, found in self.found.items()]
        return {"probes": scores, "probe_notes": {**self.notes, **self.unmeasured}}

    def describe(self, outcome: Outcome) -> ProbeSection:
        """See :class:`Measured`."""
        return describe_probes(outcome.result, self.probed)

    def write(self, folder: Path, outcome: Outcome) -> None:
        """See :class:`Measured`."""
        if self.probed:
            write_lines(folder / "probes.jsonl", self.probed)


def measure_said(job: ResolvedJob, probes: Probes, said: Mapping[str, Answers]) -> ProbeScores:
    """Judge what base and tuned model said to the probes.

    Args:
        job: The effective job.
        probes: The probes; there may be none.
        said: What was said by each side.
    """
    base, tuned = (said.get(side) for side in ("baseProbes", "tunedProbes"))
    if base is None or tuned is None:
        return ProbeScores(found={}, probed=(), notes=probes.notes, unmeasured=probes.unmeasured)
    return measure_probes(
        probes,
        base,
        tuned,
        num_samples=job.spec.evaluation.num_bootstrap_samples,
        seed=job.spec.dataset.split.seed,
    )


def measure_probes(
    probes: Probes, base: Answers, tuned: Answers, *, num_samples: int, seed: int
) -> ProbeScores:
    """Judge all probes and compare the models by each metric.

    A probe counts where both models have answered it.

    Args:
        probes: The probes.
        base: What the base model said to them.
        tuned: What the tuned model said.
        num_samples: Resamples.
        seed: Of all that is drawn.
    """
    heard = list(zip(probes.items, probes.hear(base), probes.hear(tuned), strict=True))
    found, probed = {}, []
    notes, unmeasured = dict(probes.notes), dict(probes.unmeasured)
    for metric in probes.metrics():
        asked = [each for each in heard if each[0].metric == metric]
        pairs = [each for each in asked if not (each[1].is_unended or each[2].is_unended)]
        if len(pairs) < MIN_SHARE * len(asked):
            unmeasured[metric] = f"{_describe_unended(pairs, asked)}, which is fewer than half"
            continue
        if len(pairs) < len(asked):
            notes[metric] = "; ".join(
                filter(None, [notes.get(metric), _describe_unended(pairs, asked)])
            )
        judged = [_judge(*each) for each in pairs]
        items = [probe for probe, *_ in pairs]
        before = np.array([each.base_score for each in judged])
        after = np.array([each.tuned_score for each in judged])
        num_unknown = probes.num_unknown.get(metric, 0) + len(asked) - len(pairs)
        found[metric] = (
            _state(before, after, num_unknown=num_unknown)
            if metric in probes.whole
            else _compare(metric, items, before, after, num_samples=num_samples, seed=seed)
        )
        probed += judged
    return ProbeScores(found=found, probed=probed, notes=notes, unmeasured=unmeasured)


def score_of(metric: str, found: Found, certainty: float) -> Score:
    """Return a metric's figures as text, with intervals of a certainty."""
    compared = found.compared
    return make_score(
        metric,
        base=compared.base.interval(certainty),
        tuned=compared.tuned.interval(certainty),
        gain=compared.gain.interval(certainty),
    )


def _judge(probe: Probe, base: Heard, tuned: Heard) -> Probed:
    return Probed(
        metric=probe.metric,
        shown=probe.shown,
        base=base.answers,
        tuned=tuned.answers,
        base_score=probe.judge(base),
        tuned_score=probe.judge(tuned),
    )


def _describe_unended(pairs: Sequence[_Pair], asked: Sequence[_Pair]) -> str:
    longest = max(probe.answer_tokens for probe, *_ in asked)
    return (
        f"both models answered {len(pairs)} of {len(asked)} prompts: to the others the reasoning "
        f"of one had no end within {longest:,} tokens, or ended without an answer"
    )


def _state(base: Floats, tuned: Floats, *, num_unknown: int = 0) -> Found:
    """Return means without doubt: the probes are all that there are.

    What could not be asked may hold for a model or not: it holds for none at the lower bound, for
    each at the upper one. Tuning makes none of it hold less: what is known of the others is known.
    """
    total = len(base) + num_unknown

    def between(scores: Floats) -> Confidence:
        value, known = float(scores.mean()), float(scores.sum())
        return Confidence(
            value=value,
            lower=np.array([min(value, known / total)]),
            upper=np.array([(known + num_unknown) / total]),
        )

    before, after, gain = map(between, (base, tuned, tuned - base))
    return Found(compared=Compared(base=before, tuned=after, gain=gain), num_prompts=len(base))


def _compare(
    metric: str,
    probes: Sequence[Probe],
    base: Floats,
    tuned: Floats,
    *,
    num_samples: int,
    seed: int,
) -> Found:
    clusters: dict[str, list[int]] = {}
    for row, probe in enumerate(probes):
        clusters.setdefault(probe.cluster, []).append(row)
    groups = [np.array(rows) for rows in clusters.values()]
    is_bounded = metric != "forgetting.bitsPerByte"
    sizes = np.array([float(probe.num_bytes) for probe in probes])
    before, after = (
        mean_of(scores) if is_bounded else _weighed(scores, sizes) for scores in (base, tuned)
    )
    compared = compare(
        before, after, groups, is_bounded=is_bounded, num_samples=num_samples, seed=seed
    )
    return Found(compared=compared, num_prompts=len(groups))


def _weighed(scores: Floats, sizes: Floats) -> rows.Measured:
    return rows.Measured(
        rows=scores, over=lambda rows: float((scores * sizes)[rows].sum() / sizes[rows].sum())
    )
