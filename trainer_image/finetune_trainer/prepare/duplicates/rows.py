"""Rows while they are compared: which are there, which were left out and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.rows.spool import BENCHMARK, SIDES, RowKeys, RowMarks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAIN = SIDES.index(Side.TRAIN)
TEST = SIDES.index(Side.TEST)
VALIDATION = SIDES.index(Side.VALIDATION)


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Rows that one comparison left out.

    Attributes:
        check: Name of the comparison, as in the report.
        positions: The rows, ascending.
        because_of: For each the row that it equals, is near to, or contradicts; that row was kept
            unless the check is about contradictions.
    """

    check: str
    positions: NDArray[np.int64]
    because_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(kw_only=True)
class Comparison:
    """The rows of a data set while they are compared with each other.

    Attributes:
        keys: The rows that are left.
        marks: What tells rows apart, by position.
        benchmarks: Positions of the rows of ``dataset.contamination.against``.
        removed: What was left out, in the order in which it was.
    """

    keys: RowKeys
    marks: RowMarks
    benchmarks: NDArray[np.int64]
    removed: list[Removed] = field(default_factory=list)

    def remove(
        self, check: str, indexes: NDArray[np.int64], because_of: NDArray[np.int64]
    ) -> Removed:
        """Leave rows out.

        Args:
            check: Name of the comparison.
            indexes: Their indexes in :attr:`keys`, ascending.
            because_of: Positions of the rows that they repeat or contradict.
        """
        import numpy as np

        removed = Removed(
            check=check, positions=self.keys.positions[indexes], because_of=because_of
        )
        self.removed.append(removed)
        left = np.ones(len(self.keys), dtype=bool)
        left[indexes] = False
        self.keys = self.keys.take(np.flatnonzero(left))
        return removed

    @property
    def is_held_out(self) -> NDArray[np.bool_]:
        """Which rows their source binds to the test or the validation side."""
        import numpy as np

        return np.isin(self.keys.sides, (TEST, VALIDATION))


def start_comparison(keys: RowKeys, marks: RowMarks) -> Comparison:
    """Set the rows of benchmarks apart from those of the data set."""
    import numpy as np

    is_benchmark = keys.sides == BENCHMARK
    return Comparison(
        keys=keys.take(np.flatnonzero(~is_benchmark)) if is_benchmark.any() else keys,
        marks=marks,
        benchmarks=keys.positions[is_benchmark],
    )
