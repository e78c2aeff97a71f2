"""A metric of the user's own: scored, or refused by file, line and question, never by text."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.custom import load_scorer, score_by
from finetune_trainer.evaluate.settings import read_settings
from finetune_trainer.storage import StorageAccess

SECRET = "private words of a row"


def run(tmp_path: Path, body: str, texts: list[str] | None = None, name: str = "score") -> Any:
    path = tmp_path / "metric.py"
    path.write_text(body)
    texts = texts or ["yes", SECRET]
    prompts = ["Q"] * len(texts)
    return score_by(load_scorer(path, name), path, prompts, texts, [["yes"]] * len(texts))


def test_function_gets_answer_references_and_prompt(tmp_path: Path) -> None:
    body = (
        "def score(answer, references, prompt):\n    return answer in references and prompt == 'Q'"
    )
    assert run(tmp_path, body).rows.tolist() == [1.0, 0.0]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    body = "import numpy\ndef half(answer, references, prompt):\n    return numpy.float32(0.5)"
    measured = run(tmp_path, body, name="half")
    assert measured.over(np.array([0, 1, 1])) == 0.5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "def score(a, r, p):\n    if a != 'yes':\n        raise ValueError(a)\n    return 1",
            "raised ValueError at line 3, for held-out question 2",
        ),
        (
            "def score(a, r, p):\n    print(a)\n    return float('nan')",
            "returned nan, not a number from 0 to 1, for held-out question 1",
        ),
        ("def score(a, r, p):\n    return a", "returned a value of type str"),
        ("def score(a, r, p):\n    return 1.5", "returned 1.5"),
        ("def score(a, r, p):\n    return None", "returned a value of type NoneType"),
        ("def score(a):\n    return 1", "raised TypeError, for held-out question 1"),
        ("import sys\ndef score(a, r, p):\n    sys.exit(3)", "raised SystemExit at line 3"),
        ("def score(a, r, p)\n    return 1", "cannot be imported: SyntaxError at line 1"),
        ("x = 1\nimport not_there", "cannot be imported: ModuleNotFoundError at line 2"),
        ("def other(): pass", "has no function of this name"),
    ],
)
def test_what_is_wrong_is_named_and_no_row_is_quoted(
    tmp_path: Path, body: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, body)
    assert words in caught.value.message
    assert "metric.py" in caught.value.message
    assert SECRET not in caught.value.message
    assert caught.value.__cause__ is None
    out, err = capfd.readouterr()
    assert out + err == ""


def test_absent_file_is_told_with_the_way_to_mount_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"podTemplate\.volumes"):
        load_scorer(tmp_path / "absent.py", "score")


def test_a_metric_is_named_by_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "metric.py"
    names = []
    for body in ("def score(a, r, p):\n    return 1", "def score(a, r, p):\n    return 0"):
        path.write_text(body)
        evaluation = Evaluation.model_validate(
            {"customMetric": {"path": str(path), "function": "score"}}
        )
        names.append(read_settings(evaluation, StorageAccess()).scorer_words)
        assert names[-1] == f"metric.py sha256:{hashlib.sha256(body.encode()).hexdigest()}"
    assert names[0] != names[1]
