"""Findings, and the checks of the divided rows.

Rows are checked one by one while they are read (:mod:`finetune_trainer.prepare.checks.screening`),
then against each other (:mod:`finetune_trainer.prepare.duplicates`), then by side
(``DIVISION_CHECKS``). A check is deterministic; a change of its removals needs a new
:data:`finetune_trainer.prepare.version.RECIPE_VERSION`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from finetune_trainer.data.responses import FEEDBACK_CHECK, RESPONSES_NAME
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.splits.dividing import Division

NUM_PAIRS_SHOWN = 20
"""Pairs of rows that a finding lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowPair:
    """File and line of a row, and of the row that it repeats or contradicts; never text."""

    file: str
    line: int
    other_file: str
    other_line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} and {self.other_file}:{self.other_line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCount:
    """Affected rows of one side.

    ``kinds`` counts them by kind; a row may have several.
    """

    side: Side
    num_rows: int
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: The check, camelCase, as in the report.
        num_flagged: Affected rows (or groups).
        num_removed: Rows it took out.
        message: The finding in words for the user; may be empty.
        counts: Occurrences by kind.
        files: Affected rows by file, if known.
        pairs: The first pairs of rows, at most :data:`NUM_PAIRS_SHOWN`.
        sides: Remaining affected rows by side, if known.
    """

    name: str
    num_flagged: int
    num_removed: int = 0
    message: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)
    pairs: tuple[RowPair, ...] = ()
    sides: tuple[SplitCount, ...] = ()


DivisionCheck = Callable[[Division], Finding]


def count_groups_on_two_splits(division: Division) -> Finding:
    """Count groups that the sources' own sides spread over two sides."""
    number = division.num_groups_on_two_sides
    message = ""
    if number:
        message = (
            f"{number} of {division.num_groups} groups of rows (same group column, or same prompt) "
            "are on two sides, because sources with a fixed side share them; held-out scores are "
            "too good by what the model remembers"
        )
    return Finding(name="groupsOnTwoSides", num_flagged=number, message=message)


DIVISION_CHECKS: tuple[DivisionCheck, ...] = (count_groups_on_two_splits,)


def check_division(division: Division) -> list[Finding]:
    """Run all checks of the divided rows."""
    return [check(division) for check in DIVISION_CHECKS]


def check_held_out_turns(silenced: Mapping[int, Collection[int]]) -> list[Finding]:
    """Report the conversations with an earlier answer to a held-out question."""
    if not silenced:
        return []
    message = (
        f"{len(silenced)} conversations of train or validation have "
        f"{sum(map(len, silenced.values()))} earlier answers to a held-out question; these answers "
        "have weight 0, so that they are not learned, and the other ones are"
    )
    return [Finding(name="heldOutTurns", num_flagged=len(silenced), message=message)]


FEW_ROWS, MANY_ROWS = 500, 5000
"""Most fine-tunes take good examples of this number; fewer teach little, more rarely help."""


def check_size(num_rows: int) -> list[Finding]:
    """Report a data set that is smaller or larger than usual."""
    if FEW_ROWS <= num_rows <= MANY_ROWS:
        return []
    words = (
        f"{FEW_ROWS} to {MANY_ROWS:,} good examples are what most tasks need; with fewer, look at "
        "the interval of the scores before you trust them"
        if num_rows < FEW_ROWS
        else f"{FEW_ROWS} to {MANY_ROWS:,} good examples are enough for most tasks: "
        "dataset.maxRows draws some of them, and training takes less time in proportion"
    )
    message = f"there are {num_rows:,} rows; {words}"
    return [Finding(name="numRows", num_flagged=num_rows, message=message)]


def check_reasoning(num_rows: int, num_all: int) -> list[Finding]:
    """Say in how many of all rows reasoning of an answer is not learned, if in any."""
    if not num_rows:
        return []
    message = (
        f"{num_rows} of {num_all} rows have answers whose reasoning (`reasoning_content`) the chat "
        "template does not write, so it is not learned; give a template that writes it in "
        "model.chatTemplate, or put it into the content, between <think> and </think>"
    )
    return [Finding(name="reasoningNotWritten", num_flagged=num_rows, message=message)]


def describe_responses(num_rows: int, num_answers: int) -> Finding:
    """Say which rows come from captured answers."""
    return Finding(
        name=FEEDBACK_CHECK,
        num_flagged=num_rows,
        message=(
            f"{num_rows} rows come from what people said of {num_answers} captured answers; "
            f"{RESPONSES_NAME} names the answer of each"
        ),
        counts={"answers": num_answers},
    )


def describe_people(message: str, num_left_out: int) -> Finding:
    """Say how many people have given feedback, and how many answers of one are left out."""
    return Finding(
        name="people", num_flagged=num_left_out, num_removed=num_left_out, message=message
    )


def check_dropped_rows(reasons: Counter[str], on_too_long: str) -> list[Finding]:
    """Say how many rows are left out because they are too long, or cannot be encoded.

    ``dataset.onTooLong: Drop`` leaves out all that are too long. ``Refuse`` leaves out those of
    captured answers. Only of these the encoder leaves out any.
    """
    num_long = reasons["TooLong"]
    whose = "" if on_too_long == "Drop" else ", and they come from captured answers"
    refused = {name: number for name, number in reasons.items() if name != "TooLong"}
    shown = ", ".join(f"{name} {number}" for name, number in refused.items())
    messages = {
        "tooLongRows": (
            num_long,
            f"left out {num_long} rows that are longer than hyperparameters.maxSequenceLength "
            f"(dataset.onTooLong is {on_too_long}{whose})",
        ),
        "untrainableRows": (
            sum(refused.values()),
            f"left out {sum(refused.values())} rows of captured answers that the model's chat "
            f"template cannot write ({shown})",
        ),
    }
    return [
        Finding(name=name, num_flagged=number, num_removed=number, message=message)
        for name, (number, message) in messages.items()
        if number
    ]
