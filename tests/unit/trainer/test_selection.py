"""Which step is published, and when training ends, follows from the validation losses alone."""

from __future__ import annotations

import math

import pytest

from finetune_api.v1alpha1.spec.hyperparameters import EarlyStopping
from finetune_trainer.train.recipe.selection import (
    Validation,
    decide_validation_interval,
    draw_curve,
    find_best,
    find_superseded,
    is_exhausted,
    read_validations,
    thin,
    validation_status,
)


def losses(*values: float) -> list[Validation]:
    return [Validation(step=10 * (i + 1), loss=value) for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((3.0, 2.0, 2.5), 20),
        ((3.0, 2.0, 2.0), 20),  # the earlier of two equal ones
        ((math.nan, 3.0, math.inf), 20),
        ((math.nan,), None),
        ((), None),
    ],
)
def test_best_is_the_earliest_of_the_lowest(values: tuple[float, ...], step: int | None) -> None:
    best = find_best(losses(*values))
    assert (best.step if best else None) == step


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "exhausted"),
    [
        ((3.0, 2.0, 2.1), 1, "0", True),
        ((3.0, 2.0, 2.1), 2, "0", False),
        ((3.0, 2.0, 2.1, 2.0), 2, "0", True),  # equal is no improvement
        ((3.0, 2.9, 2.8), 2, "0.5", True),
        ((3.0, 2.9, 2.4), 2, "0.5", False),  # small steps add up
        ((math.nan, math.nan), 2, "0", True),
        ((2.0, 3.0, 1.0), 1, "0", True),  # once at its end, for good
    ],
)
def test_patience_counts_validations_without_improvement(
    values: tuple[float, ...], patience: int, min_delta: str, exhausted: bool
) -> None:
    rule = EarlyStopping(patience=patience, min_delta=min_delta)
    assert is_exhausted(losses(*values), rule) is exhausted
    assert not is_exhausted(losses(*values), None)


@pytest.mark.parametrize(
    ("stored", "checkpoints", "superseded"),
    [
        ([5, 10, 15], [], []),
        ([5, 10, 15], [10], [5]),  # 15 came after the checkpoint
        ([5, 10, 15], [10, 20], [5]),
        ([5, 10, 15], [20, 30], [5, 10]),
        ([25], [20], []),
        ([], [20], []),
    ],
)
def test_weights_stay_as_long_as_a_checkpoint_counts_on_them(
    stored: list[int], checkpoints: list[int], superseded: list[int]
) -> None:
    assert find_superseded(stored, checkpoints) == superseded


@pytest.mark.parametrize(
    ("asked", "total", "every", "interval"),
    [
        (7, 100, 50, 7),
        ("auto", 12, 50, 2),
        ("auto", 1, 50, 1),
        ("auto", 100, 50, 17),
        ("auto", 300, 50, 50),
        ("auto", 10_000, 50, 1700),  # 1667 rounded up to where checkpoints are
    ],
)
def test_a_run_is_validated_some_six_times(
    asked: int | str, total: int, every: int, interval: int
) -> None:
    found = decide_validation_interval(asked, total_steps=total, every_steps=every)
    assert found == interval


def test_curve_is_thinned_to_means_and_keeps_every_validation() -> None:
    history = [{"step": i, "loss": float(i)} for i in range(1, 301)]
    history.insert(200, {"step": 200, "eval_loss": 1.5})
    curve = draw_curve(history)
    assert curve["train"][:2] == [[2, 1.5], [4, 3.5]]
    assert len(curve["train"]) == 150
    assert curve["validation"] == [[200, 1.5]]
    assert read_validations(history) == [Validation(step=200, loss=1.5)]


# ---- what the status says of the validation loss ----------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 23, 24, 25, 26, 47, 48, 49, 100, 1000, 10_000])
@pytest.mark.parametrize("best", [0.0, 0.4, 1.0])
def test_a_thinned_curve_has_its_ends_and_its_best(count: int, best: float) -> None:
    where = min(count - 1, int(best * count))
    points = losses(*(1.0 if index == where else 2.0 for index in range(count)))
    kept = thin(points, 24)
    assert len(kept) <= 24
    assert kept == sorted(kept, key=lambda point: point.step)
    assert {points[0], points[-1], points[where]} <= set(kept)
    if count <= 24:
        assert kept == points


def test_a_point_that_was_left_out_does_not_come_back() -> None:
    points = losses(*(1 / (index + 1) for index in range(200)))
    gone: set[Validation] = set()
    for count in range(1, 200):
        kept = set(thin(points[:count], 8))
        assert not kept & gone
        gone |= set(points[:count]) - kept


def test_the_status_tells_the_curve_and_its_best_in_decimals() -> None:
    told = validation_status(losses(3.25, math.nan, 1 / 3, 0.5))
    assert told is not None
    assert told.to_wire() == {
        "bestStep": 30,
        "bestLoss": "0.333333",
        "curve": [
            {"step": 10, "loss": "3.25"},
            {"step": 30, "loss": "0.333333"},
            {"step": 40, "loss": "0.5"},
        ],
    }
    assert validation_status([]) is None


def test_a_last_loss_that_is_no_number_is_told_so_that_a_sweep_stops_the_job() -> None:
    told = validation_status(losses(*[1.0] * 40, math.nan))
    assert told is not None
    assert told.best_loss == "1"
    assert len(told.curve) <= 24
    assert told.to_wire()["curve"][-1] == {"step": 410, "loss": "nan"}
    diverged = validation_status(losses(math.inf))
    assert diverged is not None
    assert diverged.to_wire() == {"curve": [{"step": 10, "loss": "inf"}]}
