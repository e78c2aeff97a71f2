"""Near bounds where what matters is rare: large losses, rare labels, an answer gone astray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from benchmarks.evidence.coverage import (
    NUM_DRAWS,
    PATTERNS,
    SEED,
    Coverage,
    Floats,
    Ints,
    draw_clusters,
    summarize,
)

from finetune_trainer.evaluate.metrics.answers import Measured
from finetune_trainer.evaluate.metrics.labels import macro_f1
from finetune_trainer.evaluate.metrics.overlap import bleu
from finetune_trainer.statistics.bounded import confidence_of_mean
from finetune_trainer.statistics.confidence import Interval
from finetune_trainer.statistics.resampling import resample_scores
from finetune_trainer.statistics.sums import Sums, compare_sums

COUNTS = (30, 60, 100)
BLEU_DRAWS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Rare:
    """One line: how often the near bound is too high, of the product's method and a bootstrap's.

    Attributes:
        words: What is rare.
        rows: Of how many rows, or clusters.
        found: Coverage of the product's bounds.
        resampled: Coverage of a bootstrap's on the same draws; None where that is the product's.
    """

    words: str
    rows: str
    found: Coverage
    resampled: Coverage | None = None


_Draw = Callable[[int, np.random.Generator], tuple[Floats, Ints]]


def rare_losses(num_tests: int) -> Iterator[Rare]:
    """Yield the coverage of graded differences of which a few are large losses."""
    for words, draw, truth, is_bounded in _loss_cases():
        for count in COUNTS:
            rng = np.random.default_rng(SEED + count)
            exact, resampled = [], []
            for seed in range(num_tests):
                gains, clusters = draw(count, rng)
                if is_bounded:
                    bounds = confidence_of_mean(
                        gains, clusters, lowest=-1.0, seed=seed, num_draws=NUM_DRAWS
                    )
                    exact.append(bounds.interval())
                resampled.append(_resample(gains, clusters, seed))
            old = summarize(resampled, truth)
            new = summarize(exact, truth) if is_bounded else old
            unit = "rows" if "clusters" not in words else "clusters"
            yield Rare(
                words=words,
                rows=f"{count} {unit}",
                found=new,
                resampled=old if is_bounded else None,
            )


def _resample(gains: Floats, clusters: Ints, seed: int) -> Interval:
    means: Floats = np.bincount(clusters, weights=gains) / np.bincount(clusters)
    rows = [np.array([row]) for row in range(len(means))]
    mean = [lambda taken: float(means[taken].mean())]
    return resample_scores(mean, rows, num_samples=500, seed=seed)[0].interval()


def _loss_cases() -> Iterator[tuple[str, _Draw, float, bool]]:
    """Yield what is rare, how it is drawn, the true mean, and whether it has limits."""
    for share in (0.01, 0.03, 0.06, 0.10):
        words = f"{share:.0%} of the rows lose 0.3 to 0.9"
        yield words, partial(_draw_alone, share), -share * 0.6, True
    yield "2 % of the rows lose all", partial(_draw_alone, 0.02, least=1.0, most=1.0), -0.02, True
    yield "none: graded gains of 0.1 ± 0.2", _draw_ordinary, 0.1, True
    yield "6 % of the clusters of 1 to 9 rows lose 0.3 to 0.9", _draw_clusters, -0.036, True
    # In a cluster of k rows each loses 0.1 k, and each cluster counts once.
    truth = -0.06 * 0.1 * float(np.mean(np.arange(1, 10)))
    yield "the same clusters, large ones lose more", _draw_sized, truth, True
    huge = "2 % of the clusters have 50 rows, which lose 0.3 to 0.9, the others one"
    yield huge, _draw_huge, -0.02 * 0.6, True
    unlimited = partial(_draw_alone, 0.06, least=3.0, most=9.0)
    yield "a loss, 6 % of the rows worse by 3 to 9 nats", unlimited, -0.36, False


def _draw_alone(
    share: float, count: int, rng: np.random.Generator, *, least: float = 0.3, most: float = 0.9
) -> tuple[Floats, Ints]:
    is_lost = rng.random(count) < share
    return (
        np.where(is_lost, -rng.uniform(least, most, count), rng.normal(0.0, 0.02, count)),
        np.arange(count),
    )


def _draw_ordinary(count: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    return 2 * rng.beta(13.0625, 10.6875, count) - 1, np.arange(count)


def _draw_clusters(count: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    clusters = draw_clusters(PATTERNS[1], count, rng)
    losses = np.where(rng.random(count) < 0.06, -rng.uniform(0.3, 0.9, count), 0.0)
    return losses[clusters] + rng.normal(0.0, 0.02, len(clusters)), clusters


def _draw_sized(count: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    clusters = draw_clusters(PATTERNS[1], count, rng)
    losses = np.where(rng.random(count) < 0.06, -0.1 * np.bincount(clusters), 0.0)
    return losses[clusters] + rng.normal(0.0, 0.02, len(clusters)), clusters


def _draw_huge(count: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
    is_huge = rng.random(count) < 0.02
    clusters = np.repeat(np.arange(count), np.where(is_huge, 50, 1))
    losses = np.where(is_huge, -rng.uniform(0.3, 0.9, count), 0.0)
    return losses[clusters] + rng.normal(0.0, 0.02, len(clusters)), clusters


@dataclass(frozen=True, kw_only=True, slots=True)
class Labels:
    """One line of macro F1: coverage of the tuned model's score and of its gain."""

    words: str
    rows: int
    tuned: Coverage
    gain: Coverage


_LABELS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("two labels, 50 %, right in 80 %", (0.5, 0.5), (0.8, 0.8)),
    ("two labels, one 6 %, right in 95 and 90 %", (0.94, 0.06), (0.95, 0.9)),
    ("three labels, 90, 7, 3 %, right in 97, 60, 50 %", (0.9, 0.07, 0.03), (0.97, 0.6, 0.5)),
    ("the same, right in 99, 90, 90 %", (0.9, 0.07, 0.03), (0.99, 0.9, 0.9)),
    ("twenty labels, 5 % each, right in 80 %", (0.05,) * 20, (0.8,) * 20),
)


def labels(num_tests: int) -> Iterator[Labels]:
    """Yield the coverage of macro F1; every draw has each label at least once."""
    for words, shares, recalls in _LABELS:
        for count in (50, 100, 300):
            rng = np.random.default_rng(SEED + count)
            weak = [0.7 * recall for recall in recalls]
            truths = [_true_macro_f1(shares, each) for each in (weak, recalls)]
            tuned, gain = [], []
            for seed in range(num_tests):
                true = _draw_labels(shares, count, rng)
                before, after = (_answer(true, shares, each, rng) for each in (weak, recalls))
                references = [[f"{label}"] for label in true]
                measured = [
                    macro_f1([f"{label}" for label in said], references).sums
                    for said in (before, after)
                ]
                assert measured[0] is not None
                assert measured[1] is not None
                compared = compare_sums(
                    measured[0], measured[1], np.arange(count), seed=seed, num_draws=NUM_DRAWS // 2
                )
                tuned.append(compared.tuned.interval())
                gain.append(compared.gain.interval())
            yield Labels(
                words=words,
                rows=count,
                tuned=summarize(tuned, truths[1]),
                gain=summarize(gain, truths[1] - truths[0]),
            )


def _draw_labels(shares: tuple[float, ...], count: int, rng: np.random.Generator) -> Ints:
    while True:
        true = rng.choice(len(shares), count, p=shares)
        if len(np.unique(true)) == len(shares):
            return true


def _answer(
    true: Ints,
    shares: tuple[float, ...],
    recalls: list[float] | tuple[float, ...],
    rng: np.random.Generator,
) -> Ints:
    """Return answers: the label, or one of the others as often as they are."""
    other = rng.choice(len(shares), len(true), p=shares)
    other = np.where(other == true, (true + 1) % len(shares), other)
    return np.where(rng.random(len(true)) < np.asarray(recalls)[true], true, other)


def _true_macro_f1(shares: tuple[float, ...], recalls: list[float] | tuple[float, ...]) -> float:
    number = len(shares)
    table = np.zeros((number, number))
    for true, (share, recall) in enumerate(zip(shares, recalls, strict=True)):
        table[true, true] += share * recall
        for other, chance in enumerate(shares):
            said = (true + 1) % number if other == true else other
            table[true, said] += share * (1 - recall) * chance
    return float(np.mean(2 * np.diag(table) / (table.sum(0) + table.sum(1))))


def texts(num_tests: int) -> Iterator[Rare]:
    """Yield the coverage of BLEU: of answers that keep words of theirs, and rarely go astray."""
    for words, share, length in (
        ("no answer astray", 0.0, 0),
        ("4 % of the answers share no word with the reference", 0.04, 15),
        ("4 % share none and are ten times as long", 0.04, 150),
    ):
        rng = np.random.default_rng(SEED)
        many = _write(5_000, share, length, rng)
        truth = many.over(np.arange(5_000))
        for count in COUNTS:
            exact, resampled = [], []
            for seed in range(num_tests):
                measured = _write(count, share, length, rng)
                assert measured.sums is not None
                clusters = np.arange(count)
                bounds = compare_sums(
                    measured.sums, measured.sums, clusters, seed=seed, num_draws=BLEU_DRAWS
                )
                exact.append(bounds.tuned.interval())
                resampled.append(_resample_texts(measured.sums, seed))
            yield Rare(
                words=words,
                rows=f"{count} rows",
                found=summarize(exact, truth),
                resampled=summarize(resampled, truth),
            )


def _resample_texts(sums: Sums, seed: int) -> Interval:
    rows, groups = sums.rows.toarray(), list(np.arange(sums.rows.shape[0])[:, None])

    def score(indices: Ints) -> float:
        return float(sums.score(rows[indices].sum(axis=0)[None])[0])

    (bounds,) = resample_scores([score], groups, num_samples=BLEU_DRAWS, seed=seed)
    return bounds.interval()


def _write(count: int, share: float, length: int, rng: np.random.Generator) -> Measured:
    """Return BLEU of answers of some 15 words, each of which is the reference's in 85 %."""
    said, references = [], []
    for _ in range(count):
        reference = rng.integers(0, 1000, 15)
        kept = np.where(rng.random(15) < 0.85, reference, rng.integers(1000, 2000, 15))
        if rng.random() < share:
            kept = rng.integers(1000, 2000, length)
        said.append(" ".join(f"w{word}" for word in kept))
        references.append([" ".join(f"w{word}" for word in reference)])
    return bleu(said, references)
