"""How often one of many claims is held true wrongly: gates, alarms, secrets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from benchmarks.evidence.coverage import NUM_DRAWS, SEED, Floats

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.evaluation.probing import NUM_PROBES
from finetune_trainer.evaluate.metrics.answers import Measured
from finetune_trainer.evaluate.scores.alarms import judge_alarms
from finetune_trainer.evaluate.scores.comparing import compare
from finetune_trainer.evaluate.sources.probes.alarms import ALARMS
from finetune_trainer.evaluate.sources.probes.canaries import NUM_ALTERNATIVES, is_exposed
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.statistics.paired import Compared, compare_means
from finetune_trainer.verdict.gates import Found, LookUp, check_gates

GATED = 0.8
"""What gates ask for, and what the model's true score is: it should meet none."""
SAME_LUCK = 0.5
"""Share of the probes on which both models fare the same."""
NUM_TEXTS = 41
"""Of the pack behind ``forgetting.bitsPerByte``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gates:
    """How often some gate of a job is met wrongly: corrected as in the product, or each alone."""

    words: str
    number: int
    corrected: float
    alone: float


def wrongly_met(num_jobs: int) -> Iterator[Gates]:
    """Yield how often some gate of a family is met by a model that is just at what is asked."""
    for words, is_shared in (("each on 200 rows of its own", False), ("on the same rows", True)):
        for number in (1, 4, 10):
            gates = [
                Gate.model_validate({"name": f"g{i}", "metric": "contains", "atLeast": "0.8",
                                     "slice": {"source": f"{i}"}})
                for i in range(number)
            ]  # fmt: skip
            rng = np.random.default_rng(SEED + number)
            corrected = alone = 0
            for _ in range(num_jobs):
                found = _measure_gates(number, rng, is_shared=is_shared)
                look_up = _look_up_in(
                    {gate.name: each for gate, each in zip(gates, found, strict=True)}
                )
                corrected += any(result.met for result in check_gates(gates, look_up))
                alone += any(check_gates([gate], look_up)[0].met for gate in gates)
            yield Gates(
                words=words, number=number, corrected=corrected / num_jobs, alone=alone / num_jobs
            )


def _look_up_in(found: Mapping[str, Found]) -> LookUp:
    return lambda gate: found[gate.name]


def _measure_gates(number: int, rng: np.random.Generator, *, is_shared: bool) -> list[Found]:
    """Return what gates are held against; on the same rows half of the luck is the same."""
    common = rng.random(200) < GATED
    found = []
    for _ in range(number):
        hits = rng.random(200) < GATED
        if is_shared:
            hits = np.where(rng.random(200) < SAME_LUCK, common, hits)
        found.append(_gated(int(hits.sum())))
    return found


@cache
def _gated(num_hits: int) -> Found:
    score = confidence_of_share(num_hits, 200)  # nobody looks at the base model
    return Found(compared=Compared(base=score, tuned=score, gain=score), num_prompts=200)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarms:
    """How often alarms ring: any of them, and that of the metric that is harmed."""

    words: str
    any_rings: float
    its_rings: float | None = None


_RATES = {
    "forgetting.instructions": 0.7,
    "safety.refusals": 0.95,
    "safety.overRefusal": 0.1,
    "safety.injection": 0.3,
    "safety.jailbreak": 0.1,
}
"""What share of the probes of each metric the base model scores."""
_HARMS: tuple[tuple[str, float], ...] = (
    ("forgetting.bitsPerByte", 0.1),
    ("forgetting.bitsPerByte", 0.15),
    ("forgetting.bitsPerByte", 0.3),
    ("forgetting.instructions", -0.2),
    ("forgetting.instructions", -0.4),
    ("safety.refusals", -0.2),
    ("safety.refusals", -0.4),
    ("safety.overRefusal", 0.4),
    ("safety.injection", 0.6),
    ("safety.jailbreak", 0.3),
    ("safety.jailbreak", 0.6),
)
"""What tuning does to one metric, all others staying the same."""


def rung_alarms(num_jobs: int) -> Iterator[Alarms]:
    """Yield how often the alarms beside gates ring, without harm and with harm to one metric.

    With harm a fifth of the jobs are drawn.
    """
    for words, harmed, change in (
        ("no harm: the tuned model equals its base", "", 0.0),
        *((f"{metric} {change:+.0%}", metric, change) for metric, change in _HARMS),
    ):
        rng = np.random.default_rng(SEED)
        rung: list[set[str]] = []
        for _ in range(num_jobs if not harmed else max(1, num_jobs // 5)):
            found = {
                metric: _probe(metric, change if metric == harmed else 0.0, rng)
                for metric in ("forgetting.bitsPerByte", *_RATES)
            }
            told = judge_alarms([], found, ALARMS)
            rung.append({result.metric for result in told if not result.met})
        its = float(np.mean([harmed in each for each in rung])) if harmed else None
        yield Alarms(
            words=words, any_rings=float(np.mean([bool(each) for each in rung])), its_rings=its
        )


def _probe(metric: str, change: float, rng: np.random.Generator) -> Found:
    if metric == "forgetting.bitsPerByte":
        return _read(change, rng)
    number, rate = NUM_PROBES[metric], _RATES[metric]
    before = rng.random(number) < rate
    after = rng.random(number) < rate + change
    if not change:
        after = np.where(rng.random(number) < SAME_LUCK, before, after)
    kinds = np.bincount(2 * before + after, minlength=4)
    return _probed(tuple(kinds.tolist()))


@cache
def _probed(kinds: tuple[int, ...]) -> Found:
    """Return two models' hits, from how many probes none, the second, the first, or both hit."""
    place = np.repeat(np.arange(4), kinds)
    before, after = (place // 2).astype(np.float64), (place % 2).astype(np.float64)
    compared = compare_means(before, after, np.arange(len(place)), num_draws=NUM_DRAWS)
    return Found(compared=compared, num_prompts=len(place))


def _read(change: float, rng: np.random.Generator) -> Found:
    """Return bits per byte of texts, each of which changes by a tenth of its own more or less."""
    sizes = rng.integers(200, 800, NUM_TEXTS).astype(np.float64)
    before = rng.gamma(20.0, 0.05, NUM_TEXTS)
    after = before * (1 + change + rng.normal(0.0, 0.1, NUM_TEXTS))

    def weigh(bits: Floats) -> Measured:
        return Measured(
            rows=bits, over=lambda rows: float((bits * sizes)[rows].sum() / sizes[rows].sum())
        )

    groups = list(np.arange(NUM_TEXTS)[:, None])
    compared = compare(
        weigh(before),
        weigh(after),
        groups,
        is_bounded=False,
        num_samples=200,
        seed=int(rng.integers(2**31)),
    )
    return Found(compared=compared, num_prompts=NUM_TEXTS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Canaries:
    """How often a secret is told to be exposed."""

    words: str
    by_secret: float
    by_job: float


NUM_SECRETS = 10
"""Of a job."""


def exposed_secrets(num_jobs: int) -> Iterator[Canaries]:
    """Yield how often secrets are told to be exposed, of a model that has not learned them or has.

    The likelihood of a text is the sum of its characters': of sixteen digits nearly normal, of four
    skewed.
    """
    for words, length, learned in (
        ("not learned, 16 characters", 16, 0.0),
        ("not learned, 8 characters", 8, 0.0),
        ("not learned, 4 characters", 4, 0.0),
        ("learned: 1 nat a character less, 16 characters", 16, 1.0),
        ("learned: 1 nat a character less, 8 characters", 8, 1.0),
        ("learned: half a nat less, 16 characters", 16, 0.5),
    ):
        rng = np.random.default_rng(SEED)
        rings = np.array(
            [[_is_told(length, learned, rng) for _ in range(NUM_SECRETS)] for _ in range(num_jobs)]
        )
        yield Canaries(
            words=words, by_secret=float(rings.mean()), by_job=float(rings.any(axis=1).mean())
        )


def _is_told(length: int, learned: float, rng: np.random.Generator) -> bool:
    nats = rng.gamma(4.0, 2.3 / 4, (NUM_ALTERNATIVES + 1, length)).sum(axis=1)
    nats[0] -= learned * length
    told: Sequence[float] = nats.tolist()
    return is_exposed(told) == 1.0
