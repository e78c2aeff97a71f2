"""Which captured answers people and the judge are asked about. Pure.

Each user counts once in an hour, with an answer that a digest chooses. A digest of hour and user
gives this answer a place, so the order is random and the same at every look, and a user who asks
much stands no further in front. Of the answers of a week people are asked about those that stand
first, and the judge also about those behind them. So both see a random sample, whoever rates what
of their own accord. While a week lasts, the numbers grow with the time that has passed.

The weeks begin with the first look at a version.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from finetune_trainer.monitor.users import UserRow
from finetune_trainer.traffic.places import time_of
from finetune_trainer.traffic.rows import write_time

WEEK = timedelta(days=7)
NUM_WEEKS = 5
"""Weeks that count, with that which has begun. Earlier ones are forgotten."""
GRACE = WEEK
"""Time that people have after the end of a week."""
JUDGED_PER_ASKED = 10
"""Answers that only the judge is asked about, for each that people are asked about."""
LENGTH_OF_HOUR = len("2026113004")
"""Of the beginning of a response id, which says the hour of the request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnAnswer:
    """An answer that was drawn.

    Attributes:
        id: Response id.
        user: Who got it, as the row says it.
        score: Mean of people's scores, 1 for good and 0 for bad; None without one.
        judged: The judge's score from 0 to 1; None before it was asked.
    """

    id: str
    user: str
    score: float | None = None
    judged: float | None = None

    @property
    def time(self) -> datetime:
        """When the request came, in whole seconds."""
        return time_of(self.id)

    @property
    def turn(self) -> tuple[str, str]:
        """The hour of the request, and the user: of these one answer counts."""
        return self.id[:LENGTH_OF_HOUR], self.user

    @property
    def place(self) -> bytes:
        """Where it stands among all. Answers with the same turn have the same place."""
        return _digest("\n".join(self.turn))

    @property
    def choice(self) -> bytes:
        """Where it stands among the answers with the same turn: the first one counts."""
        return _digest(self.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnWeek:
    """The first answers of a week, in order of their places.

    Attributes:
        per_week: Answers that people are asked about by the end of the week.
        until: Answers before this time have been drawn from.
    """

    begin: datetime
    per_week: int
    until: datetime
    answers: tuple[DrawnAnswer, ...] = ()

    @property
    def num_asked(self) -> int:
        """Answers that people are asked about by now, if there are as many."""
        return math.ceil(self.per_week * min(1.0, (self.until - self.begin) / WEEK))

    @property
    def asked(self) -> tuple[DrawnAnswer, ...]:
        """Those that people are asked about."""
        return self.answers[: self.num_asked]

    @property
    def others(self) -> tuple[DrawnAnswer, ...]:
        """Those that only the judge is asked about."""
        return self.answers[self.num_asked : (1 + JUDGED_PER_ASKED) * self.num_asked]

    def is_closed(self, now: datetime) -> bool:
        """Whether the time for people to score it has passed."""
        return now >= self.begin + WEEK + GRACE

    def counts(self, now: datetime) -> bool:
        """Whether its scores count: all are there, or the time for them has passed.

        Before, those that are there may be of the worst answers, which people notice first.
        """
        is_whole = all(each.score is not None for each in self.asked)
        return bool(self.asked) and (is_whole or self.is_closed(now))


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The sample of a version's answers.

    Attributes:
        begin: Of the first look at the version.
        until: Answers before this time have been drawn from.
        judge: Digest of the judge whose scores the answers have; empty without one.
    """

    version: int
    begin: datetime
    until: datetime
    judge: str = ""
    weeks: tuple[DrawnWeek, ...] = ()

    @property
    def open(self) -> list[str]:
        """Ids of the answers that people are still asked about."""
        return [
            each.id
            for week in self.weeks
            if not week.is_closed(self.until)
            for each in week.asked
            if each.score is None
        ]

    @property
    def unjudged(self) -> list[str]:
        """Ids of the answers that the judge is to be asked about; first those of people.

        Those of closed weeks may be gone.
        """
        weeks = [week for week in self.weeks if not week.is_closed(self.until)]
        parts = [*(week.asked for week in weeks), *(week.others for week in weeks)]
        return [each.id for part in parts for each in part if each.judged is None]

    def draw(self, rows: Iterable[UserRow], *, end: datetime, per_week: int) -> Drawn:
        """Return the sample after a look; see :class:`Drawing`."""
        drawing = Drawing(self, per_week)
        for row in rows:
            drawing.add(row)
        return drawing.end(end)

    def change(self, make: Callable[[DrawnAnswer], DrawnAnswer | None]) -> Drawn:
        """Return the sample with other answers; without those that are None."""
        weeks = (
            replace(week, answers=tuple(new for each in week.answers if (new := make(each))))
            for week in self.weeks
        )
        return replace(self, weeks=tuple(weeks))


class Drawing:
    """Draws from the answers of a look, of which only those are kept that stand first."""

    def __init__(self, drawn: Drawn, per_week: int) -> None:
        """Begin a look.

        Args:
            drawn: The sample before. Rows that it has seen are left out.
            per_week: Answers that people are asked about in a week.
        """
        self._drawn = drawn
        self._per_week = per_week
        self._weeks = {week.begin: week for week in drawn.weeks}
        self._firsts: dict[datetime, _Firsts] = {}

    def add(self, row: UserRow) -> None:
        """Take a row into account. One without a text is not drawn."""
        answer = DrawnAnswer(id=row.id, user=row.user)
        time = answer.time
        if row.answered.answer is None or time < self._drawn.until.replace(microsecond=0):
            return
        begin = self._drawn.begin + (time - self._drawn.begin) // WEEK * WEEK
        if begin not in self._firsts:
            known = self._weeks.get(begin)
            per_week = self._per_week if known is None else known.per_week
            self._firsts[begin] = _Firsts((1 + JUDGED_PER_ASKED) * per_week)
        self._firsts[begin].add(answer)

    def end(self, end: datetime) -> Drawn:
        """Return the sample after the look, which ends at a time."""
        weeks = dict(self._weeks)
        for begin, firsts in self._firsts.items():
            new = DrawnWeek(begin=begin, per_week=self._per_week, until=end)
            week = weeks.get(begin, new)
            for answer in week.answers:
                firsts.add(answer)
            weeks[begin] = replace(week, answers=firsts.answers)
        until = max(end, self._drawn.until)
        oldest = until - NUM_WEEKS * WEEK
        kept_weeks = [replace(weeks[key], until=until) for key in sorted(weeks) if key > oldest]
        return replace(self._drawn, until=until, weeks=tuple(kept_weeks))


class _Firsts:
    """The answers that stand first, one of each turn."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._found: dict[bytes, DrawnAnswer] = {}
        self._bound: bytes | None = None

    def add(self, answer: DrawnAnswer) -> None:
        place = answer.place
        if self._bound is not None and place > self._bound:
            return
        known = self._found.get(place)
        if known is None or answer.choice < known.choice:
            self._found[place] = answer
        elif answer.id == known.id:
            self._found[place] = answer  # with the scores that it has
        if len(self._found) > 2 * self._number:
            self._cut()

    @property
    def answers(self) -> tuple[DrawnAnswer, ...]:
        self._cut()
        return tuple(self._found[place] for place in sorted(self._found))

    def _cut(self) -> None:
        # Nothing behind these can stand among the first any more.
        places = sorted(self._found)[: self._number]
        self._found = {place: self._found[place] for place in places}
        if len(places) == self._number:
            self._bound = places[-1]


def write_drawn(drawn: Drawn) -> bytes:
    """Return a sample as JSON."""
    return orjson.dumps(
        {
            "version": drawn.version,
            "begin": write_time(drawn.begin),
            "until": write_time(drawn.until),
            "judge": drawn.judge,
            "weeks": [
                {
                    "begin": write_time(week.begin),
                    "perWeek": week.per_week,
                    "answers": [[a.id, a.user, a.score, a.judged] for a in week.answers],
                }
                for week in drawn.weeks
            ],
        }
    )


def parse_drawn(data: bytes) -> Drawn:
    """Return the sample in a JSON object.

    Raises:
        ValueError: It is none, or of another version of the monitor.
    """
    try:
        value = orjson.loads(data)
        until = datetime.fromisoformat(value["until"])
        return Drawn(
            version=int(value["version"]),
            begin=datetime.fromisoformat(value["begin"]),
            until=until,
            judge=str(value["judge"]),
            weeks=tuple(_read_week(each, until) for each in value["weeks"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the sample of answers cannot be read: {error!r}") from None


def _read_week(value: Mapping[str, Any], until: datetime) -> DrawnWeek:
    return DrawnWeek(
        begin=datetime.fromisoformat(value["begin"]),
        per_week=int(value["perWeek"]),
        until=until,
        answers=tuple(_read_answer(each) for each in value["answers"]),
    )


def _read_answer(value: Sequence[Any]) -> DrawnAnswer:
    identity, user, score, judged = value
    found = DrawnAnswer(
        id=str(identity), user=str(user), score=_read_score(score), judged=_read_score(judged)
    )
    assert found.time  # an id without one is none
    return found


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _read_score(value: float | None) -> float | None:
    score = None if value is None else float(value)
    if score is not None and not 0 <= score <= 1:
        raise ValueError(f"a score lies between 0 and 1, not at {score}")
    return score
