"""Keeps the sample of a version's answers: draws, reads people's scores, has the judge score.

``monitor/quality.json`` below the endpoint's traffic holds ids and scores, and no texts. Scores
stay there after retention has deleted the answers; those of deleted answers do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_api.v1alpha1.status.traffic import QualityStatus
from finetune_api.v1alpha1.traffic import LiveQuality
from finetune_trainer.monitor.quality.judging import MAX_CALLS, LiveJudge
from finetune_trainer.monitor.quality.measuring import Measured, measure
from finetune_trainer.monitor.quality.sampling import (
    Drawing,
    Drawn,
    DrawnAnswer,
    parse_drawn,
    write_drawn,
)
from finetune_trainer.statistics.confidence import DEFAULT_CERTAINTY
from finetune_trainer.storage import ObjectNotFound, ObjectStore
from finetune_trainer.traffic.drawn import is_review, score_of, write_open
from finetune_trainer.traffic.reading import find_exchanges, read_deleted, read_feedback

QUALITY_KEY = "monitor/quality.json"
SHARES_OF_GOOD = frozenset({"exactMatch", "contains", "numberClose", "jsonEqual"})
"""Metrics by which an answer is right or not, as people say it. The others have other scales."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standard:
    """What live quality is held against.

    Attributes:
        certainty: Of the interval.
        goal: Least share of good answers; None for none.
        metric: Of the job's goal; empty without one.
        published: Score of the version by it, as its manifest has it; empty without one.
    """

    certainty: float
    goal: float | None = None
    metric: str = ""
    published: str = ""


def standard_of(
    wanted: LiveQuality, spec: Mapping[str, Any], scores: Mapping[str, str]
) -> Standard:
    """Return what live quality is held against.

    Args:
        wanted: ``monitor.quality``.
        spec: Of the job that published the version; empty where nobody knows it.
        scores: Of the version, by metric.
    """
    told = spec.get("goal")
    goal: Mapping[str, Any] = told if isinstance(told, Mapping) else {}
    metric = str(goal.get("metric") or "")
    least = wanted.at_least or (goal.get("atLeast") if metric in SHARES_OF_GOOD else None)
    return Standard(
        certainty=float(wanted.certainty or goal.get("certainty") or DEFAULT_CERTAINTY),
        goal=None if least is None else float(least),
        metric=metric,
        published=scores.get(metric, ""),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """How people and the judge are asked.

    Attributes:
        per_week: Answers that people are asked about in a week.
        judge: None where people's scores alone count.
    """

    per_week: int
    standard: Standard
    judge: LiveJudge | None = None

    def begin(self, store: ObjectStore, *, version: int, begin: datetime) -> Drawing:
        """Begin to draw from the answers of a look.

        Args:
            store: The endpoint's traffic.
            version: The version that gives them. The sample of another one is forgotten.
            begin: Of the look.

        Raises:
            StorageError: The store fails.
        """
        digest = "" if self.judge is None else self.judge.digest
        drawn = _read(store)
        if drawn is None or drawn.version != version:
            drawn = Drawn(version=version, begin=begin, until=begin)
        if drawn.judge != digest:
            drawn = drawn.change(lambda each: replace(each, judged=None))
        return Drawing(replace(drawn, judge=digest), self.per_week)

    def end(self, store: ObjectStore, drawing: Drawing, end: datetime) -> QualityStatus:
        """Collect the scores of drawn answers at the end of a look, and keep both.

        Raises:
            StorageError: The store fails.
        """
        drawn = _with_scores(store, _without_deleted(store, drawing.end(end)))
        failure = ""
        if self.judge is not None:
            todo = find_exchanges(store, drawn.unjudged[:MAX_CALLS])
            judged = self.judge.score(todo)
            scores, failure = judged.scores, judged.failure
            drawn = drawn.change(
                lambda each: replace(each, judged=scores.get(each.id, each.judged))
            )
        store.write_bytes(QUALITY_KEY, write_drawn(drawn))
        write_open(store, drawn.open)
        return self._describe(drawn, failure)

    def known(self, store: ObjectStore, *, version: int) -> QualityStatus:
        """Return the stored quality of a version without another look."""
        drawn = _read(store)
        if drawn is None or drawn.version != version:
            return _words(self.standard, None, 0)
        return self._describe(drawn)

    def _describe(self, drawn: Drawn, failure: str = "") -> QualityStatus:
        measured = measure(drawn.weeks, drawn.until, self.standard.certainty)
        return _words(self.standard, measured, len(drawn.open), failure)


def _words(
    standard: Standard, measured: Measured | None, num_open: int, failure: str = ""
) -> QualityStatus:
    def text(number: float | None) -> str | None:
        return None if number is None else f"{number:.4f}"

    return QualityStatus(
        low=text(measured.low if measured else None),
        estimate=text(measured.value if measured else None),
        high=text(measured.high if measured else None),
        goal=None if standard.goal is None else f"{standard.goal:.6g}",
        metric=standard.metric or None,
        published=standard.published or None,
        num_people=measured.num_people if measured else 0,
        num_judged=measured.num_judged if measured else 0,
        num_open=num_open,
        failure=failure[:300] or None,
    )


def _without_deleted(store: ObjectStore, drawn: Drawn) -> Drawn:
    deleted = read_deleted(store)
    return drawn.change(
        lambda each: None if deleted.covers(each.id, each.user, each.time) else each
    )


def _with_scores(store: ObjectStore, drawn: Drawn) -> Drawn:
    """Return the sample with what people say by now. The scores of closed weeks stay."""
    asked = [
        each.id for week in drawn.weeks if not week.is_closed(drawn.until) for each in week.asked
    ]
    scores = {each: _score_of_answer(store, each) for each in asked}

    def take(answer: DrawnAnswer) -> DrawnAnswer:
        return replace(answer, score=scores.get(answer.id, answer.score))

    return drawn.change(take)


def _score_of_answer(store: ObjectStore, response_id: str) -> float | None:
    entries = read_feedback(store, response_id)
    scores: Sequence[float] = [
        score for entry in entries if is_review(entry) and (score := score_of(entry)) is not None
    ]
    return sum(scores) / len(scores) if scores else None


def _read(store: ObjectStore) -> Drawn | None:
    """Return the sample; None without one, or where it is damaged: it begins anew."""
    try:
        return parse_drawn(store.read_bytes(QUALITY_KEY))
    except (ObjectNotFound, ValueError):
        return None
