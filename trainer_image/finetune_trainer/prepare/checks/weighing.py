"""How often the train rows of a source are seen. Pure. Other sides keep every row once."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.rows.spool import SIDES, RowKeys
from finetune_trainer.prepare.splits.dividing import Division, draw_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def count_repeats(
    division: Division, keys: RowKeys, *, weights: Sequence[str], ends: Sequence[int], seed: int
) -> NDArray[np.uint8]:
    """Return how often each row of a division is written to its side.

    A weight of 2 writes each train row twice, 0.5 writes half of them. Content and seed choose the
    half.

    Args:
        division: The divided rows.
        keys: All rows of the spool, in their order.
        weights: Weight of each source, a decimal from above 0 to 100.
        ends: End of each source's rows in the spool.
        seed: Seed of the draw.
    """
    import numpy as np

    repeats = np.ones(division.num_rows, dtype=np.uint8)
    is_train = division.sides == SIDES.index(Side.TRAIN)
    start = 0
    for weight, end in zip(map(Decimal, weights), ends, strict=True):
        inside = (division.positions >= start) & (division.positions < end)
        indexes = np.flatnonzero(is_train & inside)
        start = end
        if weight == 1:
            continue
        whole = int(weight)
        num_more = int(((weight - whole) * len(indexes)).to_integral_value(ROUND_HALF_UP))
        positions = division.positions[indexes]
        drawn = draw_rows(keys.take(positions), num_more, seed=seed).positions
        repeats[indexes] = whole + np.isin(positions, drawn)
    return repeats


def check_weights(
    division: Division, repeats: NDArray[np.uint8], weights: Sequence[str]
) -> list[Finding]:
    """Report the effect of weights on the train side; nothing where all are 1."""
    if all(Decimal(weight) == 1 for weight in weights):
        return []
    train = repeats[division.sides == SIDES.index(Side.TRAIN)]
    changed, left_out = int((train != 1).sum()), int((train == 0).sum())
    message = (
        f"by the weights of the sources ({', '.join(weights)}), {len(train)} train rows are "
        f"written as {int(train.sum())}; {left_out} of them are left out"
    )
    return [
        Finding(name="sourceWeights", num_flagged=changed, num_removed=left_out, message=message)
    ]
