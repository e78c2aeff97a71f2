"""What is asked of every row between reading and the spool, one row at a time: the row steps.

A step looks at one :class:`Example` and gives a :class:`Judgement`: the row as it was or changed, a
:class:`RowError` (the row cannot be used: it counts against ``dataset.maxInvalidRows``), or a
:class:`Removal` (a good row that the step's own policy leaves out), with a few named counts. It is
where rows are checked and where personal data is redacted; whatever compares rows with each other
comes later, in ``checks``.

The rules of a step:

- It is deterministic and keeps nothing between two rows: rows are screened in several processes,
  in pieces of any size, and the result must be the same bytes whatever their number.
- It is picklable and hashable: a frozen dataclass of settings. What is dear to build (a compiled
  pattern, a matcher) is built once a process, on first use, for example behind
  ``functools.cache``.
- A row is changed by :func:`replace_row`, which derives its digests anew.
- What it says, in a :class:`RowError` or a finding, never quotes the row.
- A change of what it does to a row raises :data:`finetune_trainer.prepare.version.RECIPE_VERSION`.

To add one, write it in a module of its own and put it in the list of
:func:`finetune_trainer.prepare.steps.choose_steps`, in the order in which steps shall see rows. A
row that is refused or removed is not shown to later steps.
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
    """A usable row that a step leaves out by its own policy; ``maxInvalidRows`` does not count it.

    Attributes:
        reason: CamelCase cause, stable; rows are totalled by it.
    """

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one step makes of one row.

    Attributes:
        verdict: The row to go on with, or why there is none.
        counts: What was met in the row, by a camelCase name (never by a value from the row);
            summed up over all rows, also of a row that is refused or removed.
    """

    verdict: Example | RowError | Removal
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Tally:
    """What one step met in all rows that it was shown; the same in whatever pieces they came.

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
        """Say what was found in all rows, for report and events.

        Raises:
            DataError: So many rows are as they must not be that the job is refused.
        """
        ...


class Screening:
    """Takes rows through all steps and counts what they met.

    Args:
        steps: The steps, in their order.
    """

    def __init__(self, steps: Sequence[RowStep]) -> None:
        self.steps = tuple(steps)
        self.tallies = [Tally() for _ in self.steps]

    def screen(self, example: Example) -> Example | RowError | None:
        """Take one row through the steps, up to the first that refuses or removes it.

        Returns:
            The row to keep, why it cannot be used, or None for one that a step removed.
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
        """Count what another screening by the same steps met."""
        for own, other in zip(self.tallies, tallies, strict=True):
            own.add_tally(other)

    def summarise(self) -> list[Finding]:
        """Return what all steps have to say, in their order.

        Raises:
            DataError: A step refuses the job.
        """
        return [
            finding
            for step, tally in zip(self.steps, self.tallies, strict=True)
            for finding in step.summarise(tally)
        ]
