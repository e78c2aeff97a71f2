"""Which questions reviewers are shown."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluate.sources.review.sampling import Candidate, draw_questions


def candidates(number: int, strata: str = "ab") -> list[Candidate]:
    return [
        Candidate(base=f"b{i}", tuned=f"t{i}", score=i, stratum=strata[i % len(strata)])
        for i in range(number)
    ]


def test_answers_that_read_alike_are_not_shown_and_are_counted() -> None:
    found = [
        Candidate(base="late", tuned="late"),
        Candidate(base=" late\n", tuned="late"),
        Candidate(base="late", tuned="Late"),
    ]
    draw = draw_questions(found, number=10, seed=1)
    assert (draw.random, draw.worst, draw.num_equal) == ((2,), (), 2)


def test_few_questions_are_all_shown_and_none_is_drawn_for_its_score() -> None:
    draw = draw_questions(candidates(8), number=8, seed=1)
    assert (draw.random, draw.worst) == (tuple(range(8)), ())


def test_a_quarter_are_the_worst_of_those_that_chance_has_left() -> None:
    draw = draw_questions(candidates(400), number=40, seed=3)
    assert (len(draw.random), len(draw.worst)) == (30, 10)
    rest = [i for i in range(400) if i not in draw.random]
    assert list(draw.worst) == rest[:10]


def test_every_question_has_the_same_chance_and_every_stratum_its_share() -> None:
    found = candidates(90, strata="aaaaaaaab")  # one in nine is b
    times: Counter[int] = Counter()
    for seed in range(600):
        draw = draw_questions(found, number=24, seed=seed)
        times.update(draw.random)
        shown = Counter(found[i].stratum for i in draw.random)
        assert shown["b"] == 2
    expected = 600 * 18 / 90
    assert all(0.6 * expected < times[i] < 1.4 * expected for i in range(90))


@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 5))
def test_no_question_is_shown_twice_and_no_more_than_asked_for(
    num_candidates: int, number: int, seed: int
) -> None:
    draw = draw_questions(candidates(num_candidates), number=number, seed=seed)
    shown = [*draw.random, *draw.worst]
    assert len(shown) == len(set(shown)) == min(number, num_candidates)
    assert draw == draw_questions(candidates(num_candidates), number=number, seed=seed)
