"""Rows that are longer than the job allows."""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune_api.protocol.stage_results import MAX_INVALID_ROWS_REPORTED
from finetune_trainer.data.report import place_row
from finetune_trainer.data.rows import Side
from finetune_trainer.errors import RowsRefused

NUM_PLACES_SHOWN = 5
"""Places of rows that a message names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LongRow:
    """A row whose answer exceeds the limit; ``position`` counts from 0 on its side.

    ``is_left_out`` says that it is not used, also for another ``reason`` than its length.
    """

    file: str
    line: int
    side: Side
    position: int
    num_tokens: int
    is_left_out: bool = False
    reason: str = "TooLong"


@dataclass(kw_only=True, slots=True)
class LongRows:
    """Rows with a cut answer: all counted, the first ones named.

    ``longest`` is in tokens.
    """

    first: list[LongRow] = field(default_factory=list)
    number: int = 0
    longest: int = 0

    def add(self, row: LongRow) -> None:
        """Count one."""
        self.number += 1
        self.longest = max(self.longest, row.num_tokens)
        if len(self.first) < MAX_INVALID_ROWS_REPORTED:
            self.first.append(row)

    def refuse(self, total: int, max_sequence_length: int, *, most_need: int) -> None:
        """Refuse these rows, if there are any.

        Args:
            total: All rows.
            max_sequence_length: The limit, in tokens.
            most_need: Length that 95 % of the rows of each side stay below.

        Raises:
            RowsRefused: ``RowsTooLong``.
        """
        if not self.number:
            return
        named = self.first[:NUM_PLACES_SHOWN]
        shown = ", ".join(f"{row.file}:{row.line} ({row.num_tokens} tokens)" for row in named)
        more = ", ..." if self.number > len(named) else ""
        raise RowsRefused(
            "RowsTooLong",
            f"{self.number} of {total} rows are longer than hyperparameters.maxSequenceLength "
            f"{max_sequence_length}, so their answer or a part of it would be cut away: {shown}"
            f"{more}. Set it to {self.longest} to train on all rows whole ({most_need} is enough "
            "for 95 % of each side), or set dataset.onTooLong to Drop to leave those rows out, or "
            "to Truncate to train on their beginnings",
            [place_row(row.file, row.line, "TooLong").to_wire() for row in self.first],
        )
