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

    ``because_of`` is for each the kept row that it equals, or the row it contradicts.
    """

    check: str
    positions: NDArray[np.int64]
    because_of: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(kw_only=True)
class Comparison:
    """The rows of a data set during the comparison.

    Attributes:
        keys: The remaining rows.
        marks: Digests of the rows, by position.
        benchmarks: Positions of the rows of ``dataset.contamination.against``.
        removed: The rows left out, in order.
        sealed_from: Position from which on rows are those of ``dataset.anchor``; None without any.
    """

    keys: RowKeys
    marks: RowMarks
    benchmarks: NDArray[np.int64]
    removed: list[Removed] = field(default_factory=list)
    sealed_from: int | None = None

    def remove(
        self, check: str, indexes: NDArray[np.int64], because_of: NDArray[np.int64]
    ) -> Removed:
        """Leave out the rows at ``indexes`` of :attr:`keys`, ascending."""
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

    @property
    def is_sealed(self) -> NDArray[np.bool_]:
        """Which rows are those of ``dataset.anchor``."""
        import numpy as np

        if self.sealed_from is None:
            return np.zeros(len(self.keys), dtype=bool)
        return np.asarray(self.keys.positions >= self.sealed_from)


def start_comparison(keys: RowKeys, marks: RowMarks, sealed_from: int | None = None) -> Comparison:
    """Set the rows of benchmarks apart from those of the data set."""
    import numpy as np

    is_benchmark = keys.sides == BENCHMARK
    return Comparison(
        keys=keys.take(np.flatnonzero(~is_benchmark)) if is_benchmark.any() else keys,
        marks=marks,
        benchmarks=keys.positions[is_benchmark],
        sealed_from=sealed_from,
    )
