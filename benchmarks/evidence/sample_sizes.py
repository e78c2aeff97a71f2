"""How often goals and gates are met on as many rows as ``maxSamples: auto`` asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benchmarks.evidence.coverage import NUM_DRAWS, SEED, Floats, Ints

from finetune_api.v1alpha1.evaluation.gates import Gate
from finetune_api.v1alpha1.finetunejob import FineTuneJob, FineTuneJobSpec
from finetune_trainer.data.asking import order_questions
from finetune_trainer.data.held_out import HeldOut
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.paired import Compared, compare_means
from finetune_trainer.statistics.power import better_than
from finetune_trainer.verdict.gates import Found, check_gates
from finetune_trainer.verdict.goal import Measurement, certainty_of, check_goal
from finetune_trainer.verdict.sample_size import choose_number

Draw = Callable[[float, Ints, np.random.Generator], Floats]
"""Draws one score for each question, with this mean, from the questions' clusters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """What came of the jobs of a case.

    Attributes:
        words: The case.
        asked: Questions that are asked.
        available: Questions that are held out.
        published: Share of the jobs that publish a model which is better than asked by the margin.
        false: The same of one that in one claim is just what is not enough.
    """

    words: str
    asked: int
    available: int
    published: float
    false: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    """A job, its held-out side, and two models: true scores of base and tuned one.

    Attributes:
        words: What it is.
        spec: Its goal and its ``evaluation``.
        questions: What is held out.
        better: Scores of both models where the tuned one is better than asked by the margin.
        same: The same where it is not; of gates, on the first one's slice alone.
        draw: Draws scores.
        is_opposed: The base model scores what the tuned one does not, as where a judge says which
            answer is better.
    """

    words: str
    spec: dict[str, Any]
    questions: Sequence[HeldOut]
    better: tuple[float, float]
    same: tuple[float, float]
    draw: Draw = field(default=lambda mean, clusters, rng: _hits(mean, clusters, rng))
    is_opposed: bool = False


def published_shares(num_jobs: int) -> Iterator[Sized]:
    """Yield how often each case's jobs publish."""
    for place, case in enumerate(_cases()):
        spec = _spec(case.spec)
        number = choose_number(spec, case.questions).number
        groups = [question.group for question in case.questions]
        order = order_questions(groups, seed=spec.dataset.split.seed)
        asked = [case.questions[place] for place in order[:number]]
        shares = []
        for scores in (case.better, case.same):
            rng = np.random.default_rng(SEED + place)
            met = [_is_published(case, spec, asked, scores, job, rng) for job in range(num_jobs)]
            shares.append(float(np.mean(met)))
        yield Sized(
            words=case.words,
            asked=number,
            available=len(case.questions),
            published=shares[0],
            false=shares[1],
        )


def _is_published(
    case: _Case,
    spec: FineTuneJobSpec,
    asked: Sequence[HeldOut],
    scores: tuple[float, float],
    job: int,
    rng: np.random.Generator,
) -> bool:
    base, tuned = scores

    def compare(questions: Sequence[HeldOut], before: float, after: float) -> Compared:
        _, clusters = np.unique([each.group for each in questions], return_inverse=True)
        drawn = [case.draw(score, clusters, rng) for score in (before, after)]
        if case.is_opposed:
            drawn[0] = 1 - drawn[1]
        settings = {"seed": job, "num_draws": NUM_DRAWS}
        if spec.goal is not None and spec.goal.over_base is not None:
            return compare_means(drawn[0], drawn[1], clusters, **settings)
        # Nobody looks at the base model.
        tuned = confidence_of_mean(drawn[1], clusters, **settings)
        return Compared(base=tuned, tuned=tuned, gain=tuned)

    if spec.goal is not None:
        compared = compare(asked, base, tuned)
        certainty = certainty_of(spec.goal)
        measured = Measurement(
            base=compared.base.interval(certainty),
            tuned=compared.tuned.interval(certainty),
            gain=compared.gain.interval(certainty),
            num_prompts=len(asked),
        )
        return check_goal(spec.goal, measured)[0] is True
    first = spec.evaluation.gates[0].name

    def look_up(gate: Gate) -> Found:
        inside = [each for each in asked if gate.name in each.gates]
        # All gates but the first are passed by the better model.
        before, after = scores if gate.name == first else case.better
        return Found(compared=compare(inside, before, after), num_prompts=len(inside))

    return all(result.met for result in check_gates(spec.evaluation.gates, look_up))


def _hits(mean: float, clusters: Ints, rng: np.random.Generator) -> Floats:
    """Return hits and misses, each alone."""
    return (rng.random(len(clusters)) < mean).astype(np.float64)


def _alike(mean: float, clusters: Ints, rng: np.random.Generator) -> Floats:
    """Return hits and misses that are all the same within a cluster."""
    return (rng.random(int(clusters.max()) + 1) < mean).astype(np.float64)[clusters]


def _graded(mean: float, clusters: Ints, rng: np.random.Generator) -> Floats:
    """Return scores such as ROUGE-L, which vary half as much as hits and misses."""
    strength = 3.0
    return rng.beta(mean * strength, (1 - mean) * strength, len(clusters))


def _held_out(
    count: int, *, sizes: Sequence[int] = (1,), slices: int = 0, every: int = 1
) -> list[HeldOut]:
    groups = np.repeat(np.arange(count), np.resize(sizes, count))[:count].tolist()
    return [
        HeldOut(
            group=str(group),
            gates=frozenset(
                {f"g{number // every % slices}"} if slices and number % every == 0 else ()
            ),
        )
        for number, group in enumerate(groups)
    ]


def _spec(change: dict[str, Any]) -> FineTuneJobSpec:
    evaluation = {"maxSamples": "auto", **change.get("evaluation", {})}
    body = {
        "model": {"uri": "hf://example/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models"},
        **change,
        "evaluation": evaluation,
    }
    return FineTuneJob.from_wire({"metadata": {"name": "job"}, "spec": body}).spec


def _at_least(threshold: float, certainty: str = "0.95") -> dict[str, Any]:
    goal = {"metric": "contains", "atLeast": f"{threshold}", "certainty": certainty}
    return {"goal": goal}


def _gates(count: int, **asked: str) -> dict[str, Any]:
    gates = [
        {"name": f"g{i}", "metric": "contains", "slice": {"source": f"{i}"}, **asked}
        for i in range(count)
    ]
    return {"evaluation": {"gates": gates}}


def _cases() -> Iterator[_Case]:
    for threshold in (0.5, 0.8, 0.9, 0.99):
        yield _Case(
            words=f"atLeast {threshold}",
            spec=_at_least(threshold),
            questions=_held_out(5000),
            better=(0.1, better_than(threshold)),
            same=(0.1, threshold),
        )
    for threshold in (0.0, 0.3, 0.9):
        gain = better_than(threshold)
        after = (1 + gain) / 2
        yield _Case(
            words=f"overBase {threshold}",
            spec={"goal": {"metric": "contains", "overBase": f"{threshold}"}},
            questions=_held_out(5000),
            better=(after - gain, after),
            same=(after - gain, after - gain + threshold),
        )
    yield _Case(
        words="atLeast 0.8 and overBase 0.3",
        spec={"goal": {"metric": "contains", "atLeast": "0.8", "overBase": "0.3"}},
        questions=_held_out(5000),
        better=(0.5, 0.85),
        same=(0.4, 0.8),
    )
    yield _Case(
        words="four gates, each atLeast 0.8 of a quarter",
        spec=_gates(4, atLeast="0.8"),
        questions=_held_out(9000, slices=4),
        better=(0.1, 0.85),
        same=(0.1, 0.8),
    )
    yield _Case(
        words="a gate atLeast 0.8 of 2 % of the rows",
        spec=_gates(1, atLeast="0.8"),
        questions=_held_out(60_000, slices=1, every=50),
        better=(0.1, 0.85),
        same=(0.1, 0.8),
    )
    yield _Case(
        words="atLeast 0.5, graded scores",
        spec=_at_least(0.5),
        questions=_held_out(5000),
        better=(0.1, 0.55),
        same=(0.1, 0.5),
        draw=_graded,
    )
    yield _Case(
        words="atLeast 0.8, groups of 5 all alike",
        spec=_at_least(0.8),
        questions=_held_out(9000, sizes=(5,)),
        better=(0.1, 0.85),
        same=(0.1, 0.8),
        draw=_alike,
    )
    yield _Case(
        words="the same, groups of 1 to 9",
        spec=_at_least(0.8),
        questions=_held_out(9000, sizes=range(1, 10)),
        better=(0.1, 0.85),
        same=(0.1, 0.8),
        draw=_alike,
    )
    judge = {"endpoint": "https://judge/v1", "model": "m", "sample": 10_000, "maxCalls": 100_000}
    yield _Case(
        words="overBase 0.3 of judgeWinRate",
        spec={
            "goal": {"metric": "judgeWinRate", "overBase": "0.3"},
            "evaluation": {"judge": judge},
        },
        questions=_held_out(5000),
        better=(0.325, 0.675),
        same=(0.35, 0.65),
        is_opposed=True,
    )
