"""The best constant answer is known before there is a model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from finetune_trainer.evaluate.metrics.catalog import NO_SETTINGS
from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.scores.foreseen import foresee_constant

UNEVEN = ["yes"] * 30 + ["no"] * 10


def asked(answers: Sequence[str], prompt: str = "p{0}") -> list[Question]:
    rows = [{"prompt": prompt.format(i), "completion": text} for i, text in enumerate(answers)]
    return gather_questions(rows, max_questions=1000, seed=0)


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
    assert foresee_constant(metric, asked(UNEVEN), [], NO_SETTINGS) == score


def test_the_train_side_shows_what_is_usual() -> None:
    answers = [f"the parcel {i} arrives in the town on day {i * 7}" for i in range(40)]
    questions = asked(answers)
    trained = [("", f"the parcel {i} arrives in the town on day {i}") for i in range(900, 950)]
    assert foresee_constant("rougeL", questions, [], NO_SETTINGS) == pytest.approx(2 / 11)
    found = foresee_constant("rougeL", questions, trained, NO_SETTINGS)
    assert found is not None
    assert found > 0.7


def test_the_prompt_itself_is_foreseen() -> None:
    answers = [f"the parcel {i} is with us" for i in range(40)]
    questions = asked(answers, prompt="tell me: the parcel {0} is with us")
    found = foresee_constant("contains", questions, [], NO_SETTINGS)
    assert found == 1
