"""The best constant answer is known before there is a model."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluate.metrics.catalog import NO_SETTINGS
from finetune_trainer.evaluate.scores.foreseen import foresee_constant

UNEVEN = [("yes",)] * 30 + [("no",)] * 10


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("exactMatch", 0.75),
        ("macroF1", 0.5),
        ("contains", 1.0),
        ("jsonValid", None),
        ("loss", None),
    ],
)
def test_labels_are_foreseen(metric: str, score: float | None) -> None:
    assert foresee_constant(metric, UNEVEN, [], NO_SETTINGS) == score


def test_the_train_side_shows_what_is_usual() -> None:
    references = [(f"the parcel {i} arrives in the town on day {i * 7}",) for i in range(40)]
    trained = [f"the parcel {i} arrives in the town on day {i}" for i in range(900, 950)]
    assert foresee_constant("rougeL", references, [], NO_SETTINGS) == 0
    found = foresee_constant("rougeL", references, trained, NO_SETTINGS)
    assert found is not None
    assert found > 0.7
