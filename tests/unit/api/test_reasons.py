"""Every reason that a status may show has a sentence and a remedy; none is told that is none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import finetune_operator
from finetune_api.protocol.reasons import TRAINER_REASONS
from finetune_api.protocol.trainer import FailureClass
from finetune_api.reasons import OPERATOR_REASONS
from finetune_api.reasons.endpoints import ENDPOINTS
from finetune_operator.finetunejob.pods.unstarted import CONFIGURATION_REASONS, IMAGE_REASONS
from finetune_operator.status.conditions import Reason
from finetune_trainer import errors
from kit.reports.reference import render_reasons

TRAINER = Path(errors.__file__).parent
OPERATOR = Path(finetune_operator.__file__).parent
OF_KUBERNETES = {"ContainerCreating"}
"""Compared with, and told of no job."""
_CAMEL_CASE = re.compile(r"[A-Z][A-Za-z]*[a-z][A-Za-z]*")


def trees(room: Path = TRAINER) -> Iterator[ast.Module]:
    for path in sorted(room.rglob("*.py")):
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


def told_by(node: ast.AST) -> Iterator[ast.expr | None]:
    """Yield the expressions of a node that are the reason of a condition, an Event or a failure."""
    words = ("reason", "event")
    if isinstance(node, ast.Call):
        called = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
        yield from node.args[:1] if called == "announce" else ()
        yield from node.args[1:2] if called == "fail" else ()
        yield from node.args[2:3] if called == "set" else ()
        yield from (each.value for each in node.keywords if each.arg in words)
    elif isinstance(node, ast.Assign):
        if any(getattr(target, "id", None) in words for target in node.targets):
            yield node.value
    elif isinstance(node, ast.AnnAssign):
        if getattr(node.target, "id", None) in words:
            yield node.value
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        named = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        defaults = [*zip(named, node.args.defaults, strict=True)]
        alone = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        yield from (value for each, value in [*defaults, *alone] if each.arg in words)


def literals(node: ast.expr | None) -> Iterator[str]:
    """Yield the words that an expression may come to, where they are written in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.BoolOp):
        yield from (word for each in node.values for word in literals(each))
    elif isinstance(node, ast.IfExp):
        yield from (*literals(node.body), *literals(node.orelse))


@pytest.mark.slow
def test_every_word_that_the_operator_announces_is_explained():
    told = {
        word
        for tree in trees(OPERATOR)
        for node in ast.walk(tree)
        for expression in told_by(node)
        for word in literals(expression)
        if _CAMEL_CASE.fullmatch(word)
    }
    assert {"TrialsCreated", "Failed", "ChangeRefused", "PodFailed", "JobSuspended"} <= told
    assert told - OF_KUBERNETES - set(OPERATOR_REASONS) == set()


@pytest.mark.slow
def test_every_reason_of_the_trainer_is_explained():
    given = given_reasons()
    assert len(given) > 100
    # The agents of servers give theirs to conditions of endpoints.
    assert given - set(TRAINER_REASONS) - set(ENDPOINTS) == set()


@pytest.mark.slow
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
