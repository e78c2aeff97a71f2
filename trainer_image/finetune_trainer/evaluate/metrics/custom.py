"""A metric of the user's own: a function in a Python file.

It gets the answer, the list of references and the prompt (a text, or OpenAI's message list), and
returns a number from 0 to 1. What it says of a row stays out of every message: only the file, its
line and the number of the question are told, and what it prints is dropped.

It may be slow, so it is asked once about the same answer to the same question.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, SupportsFloat

from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.metrics.answers import Measured, References, mean_of

MODULE_NAME = "finetune_custom_metric"
MAX_REMEMBERED = 200_000
"""Scores that are kept, of 16 bytes of key each."""

Scorer = Callable[[str, list[str], Any], object]
Prompts = Sequence[Any]


def load_scorer(path: Path, name: str) -> Scorer:
    """Return the function of a file, which remembers what it returned.

    Args:
        path: The Python file.
        name: The function in it.

    Raises:
        UserError: ``CustomMetricUnusable``: there is no such file or function, or importing the
            file failed.
    """
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UserError(
            "CustomMetricUnusable",
            f"evaluation.customMetric.path {path}: there is no such Python file where the "
            "evaluation runs; mount it with podTemplate.volumes, for example from a ConfigMap",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(
            "CustomMetricUnusable",
            f"evaluation.customMetric.path {path} cannot be imported: {_where(error, path)}",
        ) from None
    scorer = getattr(module, name, None)
    if not callable(scorer):
        raise UserError(
            "CustomMetricUnusable",
            f"evaluation.customMetric.function {name}: {path} has no function of this name",
        )
    return _remember(scorer)


def _remember(scorer: Scorer) -> Scorer:
    """Return a function that calls another once for the same arguments, unless it raises."""
    known: dict[bytes, object] = {}

    def score(text: str, references: list[str], prompt: Any) -> object:
        asked = repr((text, references, prompt)).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(asked, digest_size=16).digest()
        if key not in known:
            value = scorer(text, references, prompt)
            if len(known) >= MAX_REMEMBERED:
                return value
            known[key] = value
        return known[key]

    return score


def score_by(
    scorer: Scorer, path: Path, prompts: Prompts, texts: Sequence[str], references: References
) -> Measured:
    """Return the mean of what a function says of each row.

    Args:
        scorer: The function.
        path: Its file, for messages.
        prompts: Of each row what the model was asked.
        texts: The answers.
        references: Accepted answers of each.

    Raises:
        UserError: ``CustomMetricFailed``: the function raised, or returned no number from 0 to 1.
    """
    rows = []
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for index, (prompt, text, group) in enumerate(zip(prompts, texts, references, strict=True)):
            try:
                value = scorer(text, list(group), prompt)
            except (Exception, SystemExit) as error:
                raise _failure(path, index, f"raised {_where(error, path)}") from None
            if not isinstance(value, SupportsFloat) or not 0 <= float(value) <= 1:
                raise _failure(path, index, f"returned {_shown(value)}, not a number from 0 to 1")
            rows.append(float(value))
    return mean_of(rows)


def _failure(path: Path, index: int, what: str) -> UserError:
    return UserError(
        "CustomMetricFailed",
        f"evaluation.customMetric {path} {what}, for held-out question {index + 1}; correct the "
        "function (what it is given is in the guide)",
    )


def _where(error: BaseException, path: Path) -> str:
    """Return kind and line of an exception; its message may quote the row."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines.append(error.lineno)
    return type(error).__name__ + (f" at line {lines[-1]}" if lines else "")


def _shown(value: object) -> str:
    # A float says nothing of the row; a text may be the row.
    return str(value) if isinstance(value, float) else f"a value of type {type(value).__name__}"
