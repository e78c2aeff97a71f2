"""Row steps: check or change every row between reading and the spool, one row at a time.

A step takes one :class:`Example` and returns a :class:`Judgement`: the row, a :class:`RowError`
that counts against ``dataset.maxInvalidRows``, or a :class:`Removal`. Later steps do not see a
refused or removed row. Rules: a step is deterministic and keeps no state between rows; it is a
picklable, hashable frozen dataclass, and expensive objects are cached once a process;
:func:`replace_row` changes a row; no message quotes the row; a change of its effect raises
:data:`finetune_trainer.prepare.version.RECIPE_VERSION`. Register a new step in
:func:`finetune_trainer.prepare.steps.choose_steps`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from finetune_trainer.data.rows import Example, RowError
from finetune_trainer.prepare.checks.checks import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """A usable row that a step leaves out; ``maxInvalidRows`` does not count it.

    ``reason`` is a stable CamelCase cause; the report totals rows by it.
    """

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The result of one step for one row.

    ``counts`` has camelCase names, never values from the row. They are summed over all rows,
    refused and removed ones too.
    """

    verdict: Example | RowError | Removal
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Tally:
    """The sums of one step over all rows; independent of the pieces.

    Attributes:
        num_rows: Rows it was shown.
        num_changed: Of these, rows it changed.
        num_refused: Rows it found invalid.
        removed: Rows it removed, by reason.
        counts: Sums of the counts of its judgements.
    """

    num_rows: int = 0
    num_changed: int = 0
    num_refused: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, before: Example, judgement: Judgement) -> None:
        """Count one more row."""
        self.num_rows += 1
        self.counts.update(judgement.counts)
        if isinstance(judgement.verdict, Removal):
            self.removed[judgement.verdict.reason] += 1
        elif isinstance(judgement.verdict, RowError):
            self.num_refused += 1
        else:
            self.num_changed += judgement.verdict.row is not before.row

    def add_tally(self, other: Tally) -> None:
        """Count the rows of another piece as well."""
        self.num_rows += other.num_rows
        self.num_changed += other.num_changed
        self.num_refused += other.num_refused
        self.removed.update(other.removed)
        self.counts.update(other.counts)


class RowStep(Protocol):
    """One step; see the rules at the top of this module."""

    def judge(self, example: Example) -> Judgement:
        """Look at one row."""
        ...

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        """Return the findings over all rows, for report and events.

        Raises:
            DataError: Too many rows have the fault: the job is refused.
        """
        ...


class Screening:
    """Takes rows through all steps in order and counts their findings."""

    def __init__(self, steps: Sequence[RowStep]) -> None:
        self.steps = tuple(steps)
        self.tallies = [Tally() for _ in self.steps]

    def screen(self, example: Example) -> Example | RowError | None:
        """Take one row through the steps, up to the first that refuses or removes it.

        Returns:
            The row, its error, or None for a removed row.
        """
        current = example
        for step, tally in zip(self.steps, self.tallies, strict=True):
            judgement = step.judge(current)
            tally.add(current, judgement)
            if isinstance(judgement.verdict, Removal):
                return None
            if isinstance(judgement.verdict, RowError):
                return judgement.verdict
            current = judgement.verdict
        return current

    def add_tallies(self, tallies: Iterable[Tally]) -> None:
        """Add the counts of another screening by the same steps."""
        for own, other in zip(self.tallies, tallies, strict=True):
            own.add_tally(other)

    def summarise(self) -> list[Finding]:
        """Return the findings of all steps, in order.

        Raise ``DataError`` if one refuses the job.
        """
        return [
            finding
            for step, tally in zip(self.steps, self.tallies, strict=True)
            for finding in step.summarise(tally)
        ]
