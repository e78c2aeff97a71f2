"""Which differences between the scores of runs are real. Pure.

Runs with the same held-out questions are compared question by question; else their bounds are
combined, which is wider. Holm's correction bounds the error over all pairs of a metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune_api.v1alpha1.evaluation.scoring import (
    DIRECTION_UNKNOWN,
    LIKELIHOOD_METRICS,
    LOWER_IS_BETTER,
    UNBOUNDED_METRICS,
)
from finetune_trainer.evaluate.metrics.answers import Answers, Measured, mean_of
from finetune_trainer.evaluate.metrics.catalog import measure
from finetune_trainer.evaluate.scores.comparing import compare
from finetune_trainer.experiments.recipe import PINNED
from finetune_trainer.experiments.run import Row, Run
from finetune_trainer.statistics.claims import correct_for_many
from finetune_trainer.statistics.confidence import Confidence, Interval, difference_of

MAX_FOR_ALL_PAIRS = 4
"""Of more runs, each is compared with one alone."""
NUM_SAMPLES = 1000
SEED = 13

_OF_CORPUS = frozenset({"macroF1", "bleu"})
"""They are no means of their rows' scores, and need no settings of a job."""
_OF_JUDGE = tuple(
    f"evaluation.judge.{name}" for name in ("endpoint", "model", "mode", "rubric", "showReference")
)
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "regexMatch": ("evaluation.answerPattern",),
    "jsonSchemaValid": ("evaluation.jsonSchema",),
    "numberClose": ("evaluation.numberTolerance",),
    "custom": ("evaluation.customMetric",),
    "judgeScore": _OF_JUDGE,
    # Gains are over the run's own base model.
    "judgeWinRate": (*_OF_JUDGE, "evaluation.baseline", "model.uri", PINNED),
}
"""Metrics that are only the same where these settings are."""
_OF_OTHER_ROWS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("loss", "perplexity"), ("method.loss", "model.uri", "model.chatTemplate")),
    "bitsPerByte": ("method.loss",),
}
"""Settings that choose a likelihood's tokens; compared where questions have no token counts."""

Verdict = Literal["Real", "WithinNoise", "NotJudged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How two runs differ by one metric.

    Attributes:
        metric: The metric.
        first: Position of one run.
        second: Position of the other.
        gain: Second minus first, with its own interval; None where it was not judged.
        is_paired: Whether they were compared question by question.
        num_rows: Questions, of two sets the smaller.
        doubt: p-value of no difference, corrected for all pairs of this metric.
        verdict: The verdict.
        better: Position of the better run, where the difference is real and the metric has a better
            side.
        why: Why it was not judged, or not paired.
    """

    metric: str
    first: int
    second: int
    gain: Interval | None = None
    is_paired: bool = False
    num_rows: int = 0
    doubt: float | None = None
    verdict: Verdict = "NotJudged"
    better: int | None = None
    why: str = ""


def choose_pairs(
    number: int, *, against: int | None = None, best: int = 0
) -> list[tuple[int, int]]:
    """Return the pairs to compare: all of few runs, else each with one.

    ``against`` is the reference run in any case, ``best`` where there are many.
    """
    if against is None and number <= MAX_FOR_ALL_PAIRS:
        return list(combinations(range(number), 2))
    one = best if against is None else against
    return [(one, other) for other in range(number) if other != one]


def find_differences(
    runs: Sequence[Run], pairs: Iterable[tuple[int, int]], *, certainty: float
) -> list[Difference]:
    """Compare pairs of runs by every metric that both have, in the order of the metrics.

    ``certainty`` is of the intervals and of all verdicts of a metric together.
    """
    chosen = list(pairs)
    names = dict.fromkeys(score.name for run in runs for score in run.scores)
    found: list[Difference] = []
    for name in names:
        measured = [_measure(name, run.rows) for run in runs]
        of_metric = []
        for first, second in chosen:
            if all(name in {s.name for s in runs[i].scores} for i in (first, second)):
                of_metric.append(_compare(name, runs, measured, (first, second), certainty))
        found += _judge(of_metric, certainty)
    return found


def _judge(differences: Sequence[Difference], certainty: float) -> list[Difference]:
    judged = [d for d in differences if d.doubt is not None]
    corrected = iter(correct_for_many([d.doubt for d in judged if d.doubt is not None]))
    found = []
    for each in differences:
        if each.doubt is None or each.gain is None:
            found.append(each)
            continue
        doubt = next(corrected)
        is_real = doubt <= 1 - certainty + 1e-12
        better = None
        if is_real and each.metric not in DIRECTION_UNKNOWN:
            is_second = (each.gain.value > 0) != (each.metric in LOWER_IS_BETTER)
            better = each.second if is_second else each.first
        verdict: Verdict = "Real" if is_real else "WithinNoise"
        found.append(replace(each, doubt=doubt, verdict=verdict, better=better))
    return found


def _compare(
    name: str,
    runs: Sequence[Run],
    measured: Sequence[Measured | None],
    pair: tuple[int, int],
    certainty: float,
) -> Difference:
    first, second = pair
    one, other = runs[first], runs[second]
    before, after = measured[first], measured[second]
    order = _match(one.rows, other.rows)
    why = _differing(_SETTINGS.get(name, ()), one, other)
    if not why and before is None:
        why = _unread(name, one)
    elif not why and after is None:
        why = _unread(name, other)
    elif not why and name in _OF_OTHER_ROWS:
        why = _other_tokens(name, one, other, order)
    if why or before is None or after is None:
        return Difference(metric=name, first=first, second=second, why=why)
    if order is not None:
        gain = _pair(name, one.rows, before, after, order)
    else:
        bounds = [_alone(name, run.rows, each) for run, each in ((one, before), (other, after))]
        gain, why = difference_of(*bounds), "they were asked different held-out questions"
    return Difference(
        metric=name,
        first=first,
        second=second,
        gain=gain.interval(certainty),
        is_paired=order is not None,
        num_rows=min(len(one.rows), len(other.rows)),
        doubt=gain.doubt_of_none(),
        why=why,
    )


def _differing(settings: Iterable[str], one: Run, other: Run) -> str:
    """Say which setting makes two metrics of one; empty if none does."""
    found = next((name for name in settings if _part(one, name) != _part(other, name)), None)
    return f"{found} differs: it is not the same metric" if found else ""


def _unread(name: str, run: Run) -> str:
    if not run.rows:
        return f"the answers of {run.name} are not stored or could not be read"
    if any(name not in row.scores for row in run.rows):
        return f"{run.name} has no {name} of some of its questions"
    return f"{run.name} stored no lengths of its references: an earlier version made it"


def _other_tokens(name: str, one: Run, other: Run, order: NDArray[np.int64] | None) -> str:
    """Say why likelihoods are of different texts; empty if they are of the same."""
    if order is None:
        return _differing(_OF_OTHER_ROWS[name], one, other)
    sizes = [[_size_of(name, row) for row in run.rows] for run in (one, other)]
    if sizes[0] == [sizes[1][place] for place in order]:
        return ""
    unit = "bytes" if name == "bitsPerByte" else "tokens"
    return (
        f"they count other {unit} of the same answers (another tokenizer, chat template, loss or "
        "length limit): such likelihoods do not compare"
    )


def _size_of(name: str, row: Row) -> float | None:
    return row.num_bytes if name == "bitsPerByte" else row.num_tokens


def _part(run: Run, setting: str) -> dict[str, str]:
    return {path: value for path, value in run.recipe.items() if path.startswith(setting)}


def _measure(name: str, rows: Sequence[Row]) -> Measured | None:
    """Return a metric of one run; None where the rows do not suffice."""
    if not rows or any(name not in row.scores for row in rows):
        return None
    scores = np.array([row.scores[name] for row in rows])
    if name in LIKELIHOOD_METRICS:
        return _likelihood(name, rows, scores)
    if name not in _OF_CORPUS:
        return mean_of(scores)
    answers = Answers(
        texts=[row.text for row in rows], nll_sums=np.zeros(0), num_tokens=np.zeros(0)
    )
    return measure(name, answers, [row.references for row in rows])


def _likelihood(name: str, rows: Sequence[Row], scores: NDArray[np.float64]) -> Measured | None:
    of_bytes = name == "bitsPerByte"
    sizes = [_size_of(name, row) for row in rows]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    counts = np.array(known, dtype=np.float64)
    per_unit = scores * np.log(2) if of_bytes else scores
    sums = (np.log(per_unit) if name == "perplexity" else per_unit) * counts
    texts = [""] * len(rows)
    return measure(
        name, Answers(texts=texts, nll_sums=sums, num_tokens=counts, num_bytes=counts), []
    )


def _match(one: Sequence[Row], other: Sequence[Row]) -> NDArray[np.int64] | None:
    """Return for each row of the one its position in the other; None if the questions differ."""
    places = {row.question: place for place, row in enumerate(other)}
    if len(one) != len(other) or len(places) != len(other):
        return None
    found = [places.get(row.question) for row in one]
    if None in found or len(set(found)) < len(found):
        return None
    return np.array(found, dtype=np.int64)


def _pair(
    name: str, rows: Sequence[Row], before: Measured, after: Measured, order: NDArray[np.int64]
) -> Confidence:
    in_order = Measured(
        rows=after.rows[order],
        over=lambda picked: after.over(order[picked]),
        is_mean=after.is_mean,
        sums=after.sums and after.sums.taken(order),
    )
    return compare(
        before,
        in_order,
        _groups(rows),
        is_bounded=name not in UNBOUNDED_METRICS,
        num_samples=NUM_SAMPLES,
        seed=SEED,
    ).gain


def _alone(name: str, rows: Sequence[Row], measured: Measured) -> Confidence:
    return compare(
        measured,
        measured,
        _groups(rows),
        is_bounded=name not in UNBOUNDED_METRICS,
        num_samples=NUM_SAMPLES,
        seed=SEED,
    ).tuned


def _groups(rows: Sequence[Row]) -> list[NDArray[np.int64]]:
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(row.question if row.group is None else row.group, []).append(place)
    return [np.array(places) for places in groups.values()]
