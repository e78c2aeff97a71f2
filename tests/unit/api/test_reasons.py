"""Every reason that a status may show has a sentence and a remedy; none is told that is none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.reasons import OPERATOR_REASONS
from finetune_api.reference import render_reasons
from finetune_api.trainer import FailureClass
from finetune_api.trainer_reasons import TRAINER_REASONS
from finetune_operator.finetunejob.unstarted import CONFIGURATION_REASONS, IMAGE_REASONS
from finetune_operator.status.conditions import Reason
from finetune_trainer import errors

TRAINER = Path(errors.__file__).parent
_CAMEL_CASE = re.compile(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*")


def trees() -> Iterator[ast.Module]:
    for path in sorted(TRAINER.rglob("*.py")):
        yield ast.parse(path.read_text())


def given_reasons() -> set[str]:
    """First arguments of the trainer's errors and of its bad rows, where they are literal."""
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TrainerError)
    } | {"BadRow"}
    found: set[str] = set()
    for tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            is_parent = isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"
            first = node.args[0]
            if (called in kinds or is_parent) and isinstance(first, ast.Constant):
                text = str(first.value)
                if _CAMEL_CASE.fullmatch(text):
                    found.add(text)
    return found


def test_every_reason_of_the_trainer_is_explained():
    given = given_reasons()
    assert len(given) > 100
    assert given - set(TRAINER_REASONS) == set()


def test_no_reason_is_explained_that_the_trainer_does_not_give():
    literals = {
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(TRAINER_REASONS) - literals == set()


def test_every_reason_of_the_operator_is_explained():
    given = {*Reason, *FailureClass, *IMAGE_REASONS, *CONFIGURATION_REASONS}
    assert {str(word) for word in given} - set(OPERATOR_REASONS) == set()


@pytest.mark.parametrize("reason", sorted({**OPERATOR_REASONS, **TRAINER_REASONS}))
def test_a_reason_has_a_sentence_and_a_remedy(reason):
    for table in (OPERATOR_REASONS, TRAINER_REASONS):
        if reason in table:
            meaning, remedy = table[reason]
            assert re.fullmatch(r"[A-Z`].+\.", meaning)
            assert re.fullmatch(r"[A-Z`].+[.?]", remedy)
            assert len(reason) <= 63


def test_the_page_shows_them_all():
    page = render_reasons()
    assert all(f"| `{reason}` |" in page for reason in {**OPERATOR_REASONS, **TRAINER_REASONS})
