"""Fits a first job to its data: what is proposed is what the stage prepare takes, or it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_cli.errors import CliError
from finetune_cli.extras import DATA_MODULES, POWER_MODULES, has_modules
from finetune_cli.files.data import DataGuess
from finetune_cli.files.documents import parse_documents
from finetune_cli.files.starter import GOAL_OF_LABELS, TEST_PERCENT, TOOL_MODEL, render_starter

if TYPE_CHECKING:
    from finetune_cli.local.job import LocalRun

MAX_FITTED_ROWS = 2_000
"""Up to so many rows the stage is asked; it takes seconds. More hold out enough prompts."""

TEST_PERCENTS = (TEST_PERCENT, 25, 30, 40, 50)
"""Shares to hold out that are tried, one after the other."""

LABEL_GOALS = tuple(f"0.{percent}" for percent in range(90, 45, -5))
"""What a goal on labels may ask, the highest first."""
GOOD, LEAST_CHANCE = 0.95, 0.5
"""True score of a good model, and the chance with which it meets a proposed goal, at least."""

TEMPLATE = "Template"
"""Reasons that begin so are about the model's chat template."""
TOO_FEW = ("TooFewHeldOutPrompts", "GoalUndecidable")
"""Refusals that more held-out rows mend."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A job file fitted to its data.

    Attributes:
        guess: The apparent content of the data; None if it was not read.
        warnings: Fields that prepare would refuse, and unread data.
        reasons: Causes for which the stage would refuse the job.
    """

    text: str
    guess: DataGuess | None
    warnings: Sequence[str] = ()
    reasons: Sequence[str] = ()

    def next_step(self, file: Path) -> str:
        """Say what to do with the file once it is written."""
        if not self.reasons:
            return f"next: finetune validate --data {file}, then finetune run {file}"
        needs_model = any(reason.startswith(TEMPLATE) for reason in self.reasons)
        return (
            f"it will be refused until {' and '.join(self.reasons)} is mended; check it with: "
            f"finetune validate --data{' --with-model' if needs_model else ''} {file}"
        )


def fit_starter(
    *, file: Path, data: str | None = None, model: str | None = None, output: str | None = None
) -> Fitted:
    """Return a job file and the problems that prepare would find in it.

    Args:
        file: Where it will be written.
        data: Local file or URI of the examples.
        model: URI or local folder of the base model.
        output: URI or local folder of the results.

    Raises:
        CliError: The data file cannot be read.
    """
    text, guess = render_starter(file=file, data=data, model=model, output=output)
    if guess is None or not _is_asked(guess):
        return Fitted(text=text, guess=guess)
    found = _look(text, file)
    unread, of_template = _check_template(text, file) if guess.has_tools else ([], [])
    for percent in TEST_PERCENTS[1:] if _may_hold_out_enough(found) else ():
        raised, _ = render_starter(
            file=file, data=data, model=model, output=output, test_percent=percent, guess=guess
        )
        other = _look(raised, file)
        if not _is_too_few(other):
            text, found = raised, other
            break
    fitted = _lower_goal(text, file, found["report"])
    if fitted != text and found["refusals"]:
        found = _look(fitted, file)
    refusals = [*of_template, *found["refusals"]]
    return Fitted(
        text=fitted,
        guess=guess,
        warnings=[*unread, *map(_word, of_template), *_format_refusals(found)],
        reasons=list(dict.fromkeys(each["reason"] for each in refusals)),
    )


def _lower_goal(text: str, file: Path, report: dict[str, Any] | None) -> str:
    """Ask of labels no more than the held-out rows can show of a model that is right in 95 %."""
    if GOAL_OF_LABELS not in text or report is None or not has_modules(POWER_MODULES):
        return text
    from finetune_trainer.verdict.certainty import at_first_look
    from finetune_trainer.verdict.power import chance_of_goal, suppose

    number, held_out = report["split"]["testGroups"], [each["test"] for each in report["labels"]]
    constant, chances = max(held_out, default=0) / max(1, sum(held_out)), []
    for at_least in LABEL_GOALS:
        lowered = GOAL_OF_LABELS.replace(LABEL_GOALS[0], at_least)
        goal = at_first_look(_plan(text.replace(GOAL_OF_LABELS, lowered), file).job.spec).goal
        supposed = suppose(goal, constant=constant) if goal else None
        good = supposed and replace(supposed, truth=GOOD)
        chances.append(chance_of_goal(good, number) if good else 0.0)
        if chances[-1] >= LEAST_CHANCE:
            break
    if len(chances) == 1 or chances[-1] < LEAST_CHANCE:
        return text
    why = f"# {LABEL_GOALS[0]} is too high for {number:,} test rows: a model that is right 95 % of"
    passes = f"# the time would meet it in {int(100 * chances[0])} % of runs."
    return text.replace(GOAL_OF_LABELS, f"{why}\n  {passes}\n  {lowered}")


def _is_asked(guess: DataGuess) -> bool:
    is_small = guess.is_whole and guess.num_rows <= MAX_FITTED_ROWS
    return is_small and has_modules(DATA_MODULES)


def _look(text: str, file: Path) -> dict[str, Any]:
    """Return prepare's result for a job, as far as it is known without its model."""
    from finetune_cli.local.inspection import inspect_run

    return inspect_run(_plan(text, file), with_model=False)


def _check_template(text: str, file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return why the model's chat template was not read, and why it drops the rows' tools."""
    from finetune_cli.local.inspection import inspect_run

    try:
        refusals = inspect_run(_plan(text, file), with_model=True)["refusals"]
        unread = [each["message"] for each in refusals if each["reason"] == "ModelNotFound"]
    except CliError as error:
        refusals, unread = [], [error.message]
    if unread:
        words = (
            f"the rows have tools, and the model's chat template was not read: {unread[0]}\n"
            f"finetune validate --data --with-model {file} tells whether it writes them"
        )
        return [words], []
    return [], [each for each in refusals if each["reason"].startswith(TEMPLATE)]


def _plan(text: str, file: Path) -> LocalRun:
    from finetune_cli.local.job import plan_run

    (document,) = parse_documents(text, str(file))
    return plan_run(document, namespace="default")


def _is_too_few(found: dict[str, Any]) -> bool:
    return any(each["reason"] in TOO_FEW for each in found["refusals"])


def _may_hold_out_enough(found: dict[str, Any]) -> bool:
    """Whether too few prompts are held out, and a larger share of the rows may change that."""
    if not _is_too_few(found) or found["report"] is None:
        return False
    return bool(found["report"]["split"]["groups"] >= _least_groups())


def _least_groups() -> int:
    return -(-100 * Evaluation().min_prompts // TEST_PERCENTS[-1])


def _format_refusals(found: dict[str, Any]) -> list[str]:
    lines = [_word(each) for each in found["refusals"]]
    if _is_too_few(found) and found["report"] is not None:
        lines.append(
            f"the rows form {found['report']['split']['groups']:,} groups that must stay on one "
            "side (equal and near prompts, and columns.group). At least "
            f"{_least_groups():,} groups are needed to hold out {Evaluation().min_prompts} prompts"
        )
    return lines


def _word(refusal: dict[str, str]) -> str:
    words = f"prepare would refuse this job: {refusal['message']} ({refusal['reason']})"
    if not refusal["reason"].startswith(TEMPLATE):
        return words
    return f"{words}; or take a model that knows tools: --model {TOOL_MODEL}"
