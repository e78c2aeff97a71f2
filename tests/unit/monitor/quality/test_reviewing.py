"""A version in looks: people and a judge are asked, answers get worse, people delete some."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.status.traffic import QualityStatus
from finetune_api.v1alpha1.traffic import LiveQuality
from finetune_trainer.evaluate.sources.judge.endpoint import JudgeAway, Reply
from finetune_trainer.monitor.quality.judging import LiveJudge
from finetune_trainer.monitor.quality.reviewing import QUALITY_KEY, Review, Standard, standard_of
from finetune_trainer.monitor.users import read_exchange
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.deleting import delete_answer, delete_user
from finetune_trainer.traffic.drawn import DRAWN, REVIEW, read_open
from finetune_trainer.traffic.places import feedback_key, id_time, segment_key
from finetune_trainer.traffic.reading import find_exchanges, open_traffic
from finetune_trainer.traffic.rows import Exchange, Feedback, write_exchange, write_feedback

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STANDARD = Standard(certainty=0.95, goal=0.9, metric="exactMatch", published="0.95")
JUDGE = Judge(endpoint="https://judge.example.org/v1", model="j", mode="Rubric")
Ask = Callable[[str], Reply]


def truthful(content: str) -> Reply:
    points = 5 if re.search(r"\ngood\n", content) else 1
    scores = ", ".join(f'"{name}": {points}' for name in ("accuracy", "completeness", "clarity"))
    return Reply(text=f'{{"reason": "so", "scores": {{{scores}}}}}')


class Life:
    """An endpoint with one look a day, and people who score what they are asked about."""

    def __init__(self, folder: Path, ask: Ask | None = None) -> None:
        self.store: ObjectStore = open_traffic(folder.as_uri(), "shop", "copy")
        judge = None if ask is None else LiveJudge(judge=JUDGE, open=lambda _: ask)
        self.review = Review(per_week=30, standard=STANDARD, judge=judge)
        self.rng, self.day, self.version = random.Random(7), 0, 1

    def pass_day(self, good: float, *, do_score: bool = True) -> QualityStatus:
        return self.pass_days(1, good, do_score=do_score)

    def pass_days(self, number: int, good: float, *, do_score: bool = True) -> QualityStatus:
        """Capture answers for some days; look, and have people score, at their end."""
        begins = [START + (self.day + each) * DAY for each in range(number)]
        rows = [row for begin in begins for row in self.capture(begin, good)]
        told = self.look(rows, days=number)
        if do_score:
            for row in find_exchanges(self.store, read_open(self.store)):
                self.rate(row, is_good=row.text == "good")
        return told

    def capture(self, begin: datetime, good: float) -> list[Exchange]:
        rows = [
            Exchange(
                id=f"{id_time(time)}-{number:022}-0123456789",
                time=time,
                endpoint="copy",
                version=self.version,
                sha256="",
                request={"messages": [{"role": "user", "content": "q"}]},
                answer={"choices": [{"message": {
                    "content": "good" if self.rng.random() < good else "bad"}}]},
                latency_seconds=0.1,
                user=f"user{number}",
            )
            for number in range(100)
            for time in [begin + timedelta(seconds=number)]
        ]  # fmt: skip
        key = segment_key(rows[0].time, rows[-1].time, num_rows=100, writer="w", number=1)
        self.store.write_bytes(key, b"".join(map(write_exchange, rows)))
        return rows

    def look(self, rows: list[Exchange], *, days: int = 1) -> QualityStatus:
        begin = START + self.day * DAY
        self.day += days
        drawing = self.review.begin(self.store, version=self.version, begin=begin)
        for row in rows:
            drawing.add(read_exchange(row))
        return self.review.end(self.store, drawing, begin + days * DAY)

    def rate(self, row: Exchange, *, is_good: bool, is_asked: bool = True) -> None:
        entry = Feedback(
            id=row.id, time=START + self.day * DAY, endpoint="copy", version=row.version,
            sha256="", who="ed" if is_asked else "af", rating="up" if is_good else "down",
            metadata={REVIEW: DRAWN} if is_asked else None,
        )  # fmt: skip
        self.store.write_bytes(feedback_key(entry), write_feedback(entry))


def test_answers_that_get_worse_fall_below_the_goal_and_good_ones_do_not(tmp_path: Path) -> None:
    life = Life(tmp_path, truthful)
    for _ in range(14):
        told = life.pass_days(2, 0.96)
        assert not told.is_below_goal
    assert told.low is not None
    assert float(told.low) > 0.9
    assert (told.num_people, told.goal, told.published) == (90, "0.9", "0.95")
    assert told.num_judged > 900
    days = 0
    while not told.is_below_goal:
        told, days = life.pass_days(2, 0.7), days + 2
        assert days < 28
    life.version = 2
    told = life.pass_day(0.96)
    assert (told.num_people, told.low, told.is_below_goal) == (0, None, False)


def test_thumbs_of_who_was_not_asked_do_not_count(tmp_path: Path) -> None:
    life = Life(tmp_path)
    life.pass_day(0.9, do_score=False)
    for row in find_exchanges(life.store, read_open(life.store)):
        life.rate(row, is_good=False, is_asked=False)
    told = life.pass_day(0.9, do_score=False)
    assert (told.num_people, told.estimate) == (0, None)
    assert told.num_open == 9


def test_deleted_answers_leave_the_sample_with_their_scores(tmp_path: Path) -> None:
    life = Life(tmp_path, truthful)
    for _ in range(3):
        life.pass_day(0.5)
    kept = life.store.read_bytes(QUALITY_KEY).decode()
    gone, other = sorted(set(re.findall(r"\d{14}-\d{22}-0123456789", kept)))[:2]
    (row,) = find_exchanges(life.store, [other])
    assert row.user is not None
    delete_answer(life.store, gone)
    delete_user(life.store, row.user, until=START + 10 * DAY)
    for _ in range(2):  # at once, and after the next look
        kept = "".join(
            life.store.read_bytes(info.key).decode() for info in life.store.list("monitor/")
        )
        assert gone not in kept
        assert other not in kept
        assert f'"{row.user}"' not in kept
        life.pass_day(0.5)


def test_a_judge_who_is_away_costs_nothing_but_its_help(tmp_path: Path) -> None:
    def away(content: str) -> Reply:
        raise JudgeAway("it cannot be reached")

    life = Life(tmp_path, away)
    for _ in range(9):
        told = life.pass_day(0.9)
    assert told.failure is not None
    assert "judge.example.org" in told.failure
    assert told.num_judged == 0
    assert told.num_people > 5


def test_another_judge_scores_anew(tmp_path: Path) -> None:
    life = Life(tmp_path, lambda _: Reply(text="no verdict"))
    for _ in range(3):
        life.pass_day(0.9)
    assert b",0.5]" in life.store.read_bytes(QUALITY_KEY)
    other = JUDGE.model_copy(update={"model": "k"})
    judge = LiveJudge(judge=other, open=lambda _: truthful)
    life.review = Review(per_week=30, standard=STANDARD, judge=judge)
    life.look([])
    life.look([])
    assert b",0.5]" not in life.store.read_bytes(QUALITY_KEY)


@pytest.mark.parametrize(
    ("wanted", "goal", "expected"),
    [
        ({}, {"metric": "exactMatch", "atLeast": "0.8", "certainty": "0.9"}, (0.8, 0.9)),
        ({}, {"metric": "rougeL", "atLeast": "0.4"}, (None, 0.95)),
        ({"atLeast": "0.7", "certainty": "0.8"}, {"metric": "rougeL"}, (0.7, 0.8)),
        ({}, {}, (None, 0.95)),
    ],
)
def test_the_goal_counts_only_where_it_is_a_share_of_good_answers(
    wanted: dict[str, str], goal: dict[str, str], expected: tuple[float | None, float]
) -> None:
    found = standard_of(LiveQuality.model_validate(wanted), {"goal": goal}, {"rougeL": "0.41"})
    assert (found.goal, found.certainty) == expected
    assert found.published == ("0.41" if goal.get("metric") == "rougeL" else "")
