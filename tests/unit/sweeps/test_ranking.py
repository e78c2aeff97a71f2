"""Who won, also among ties, losses that are no numbers, stopped trials and replicates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.finetunesweep.search.ranking import rank, winner
from finetune_operator.finetunesweep.search.trials import Point, Trial, TrialState

NAN, INF = float("nan"), float("inf")
COMPLETE, PRUNED, FAILED, RUNNING = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.FAILED,
    TrialState.RUNNING,
)


def trial(
    number: int,
    score: float | None,
    state: TrialState = COMPLETE,
    *,
    of: int | None = None,
    step: int | None = None,
    tie: float | None = None,
) -> Trial:
    curve = (Point(step, score),) if step is not None and score is not None else ()
    return Trial(
        number=number,
        assignment={},
        state=state,
        score=score,
        tie=tie,
        curve=curve,
        replicate_of=of,
    )


@pytest.mark.parametrize(
    ("what", "trials", "order"),
    [
        ("the lowest loss", [trial(0, 2.0), trial(1, 1.0), trial(2, 3.0)], [1, 0, 2]),
        ("ties: the earlier", [trial(2, 1.0), trial(0, 1.0), trial(1, 1.0)], [0, 1, 2]),
        (
            "ties: what breaks them, and none known comes last",
            [trial(0, 1.0), trial(1, 1.0, tie=0.4), trial(2, 1.0, tie=0.3), trial(3, 0.9, tie=9.0)],
            [3, 2, 1, 0],
        ),
        ("no numbers", [trial(0, NAN), trial(1, INF), trial(2, None), trial(3, 9.0)], [3, 0, 1, 2]),
        ("-inf is no result", [trial(0, -INF), trial(1, 5.0)], [1, 0]),
        ("stopped behind complete", [trial(0, 0.1, PRUNED, step=9), trial(1, 5.0)], [1, 0]),
        (
            "stopped: the furthest, then the best",
            [
                trial(0, 1.0, PRUNED, step=10),
                trial(1, 3.0, PRUNED, step=30),
                trial(2, 2.0, PRUNED, step=30),
                trial(3, 0.1, FAILED, step=90),
            ],
            [2, 1, 0, 3],
        ),
        (
            "by the mean of replicates",
            [trial(0, 1.0), trial(1, 1.5), trial(2, 3.0, of=0), trial(3, 1.7, of=1)],
            [1, 0],
        ),
    ],
)
def test_order(what: str, trials: list[Trial], order: list[int]) -> None:
    assert [standing.number for standing in rank(trials)] == order, what


def test_replicates_give_a_mean_and_its_spread() -> None:
    runs = [
        trial(0, 1.0),
        trial(1, 3.0, of=0),
        trial(2, 0.5, of=0),
        trial(3, NAN, of=0),
        trial(4, 0.1, FAILED, of=0),
        trial(5, 0.1, PRUNED, of=0),
    ]
    (standing,) = rank(runs)
    assert standing.mean == pytest.approx(1.5)
    assert standing.spread == pytest.approx(1.3229, abs=1e-4)
    assert (standing.num_runs, standing.best_run) == (3, 2)


def test_one_run_has_no_spread() -> None:
    (standing,) = rank([trial(0, 1.0)])
    assert (standing.mean, standing.spread, standing.num_runs) == (1.0, None, 1)


@pytest.mark.parametrize(
    "trials",
    [[], [trial(0, NAN)], [trial(0, 0.1, PRUNED, step=5)], [trial(0, 1.0, RUNNING)],
     [trial(0, 1.0, FAILED)]],
)  # fmt: skip
def test_without_a_complete_trial_nobody_wins(trials: list[Trial]) -> None:
    assert winner(trials) is None


@pytest.mark.slow
@given(data=st.data(), scores=st.lists(st.one_of(st.none(), st.floats()), max_size=8))
def test_the_order_of_the_trials_does_not_matter(data, scores: list[float | None]) -> None:
    states = st.sampled_from(TrialState)
    trials = [
        trial(n, score, data.draw(states), of=data.draw(st.sampled_from([None, 0])) if n else None)
        for n, score in enumerate(scores)
    ]
    assert rank(data.draw(st.permutations(trials))) == rank(trials)
