"""Divides rows into train, validation and test by content and seed alone.

Rows of one group never lie on two sides. Groups are taken in the order of a hash of seed and group,
so row order does not matter and new rows move few old ones. Only digests are used, never text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.data.rows import Side
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.rows.spool import DIGEST_BYTES, LOOSE, SIDES, RowKeys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A group bound to several sides by the user's sources takes its loose rows to the one where a
# leak does least harm: rows of the test side must never be trained on.
_PURITY = (Side.TEST, Side.VALIDATION, Side.TRAIN)


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which row lies on which side.

    Attributes:
        positions: Places in the spool, ascending.
        sides: Code of each row's side, as in :data:`finetune_trainer.prepare.rows.spool.SIDES`.
        num_groups: Distinct groups over all rows.
        num_groups_on_two_sides: Groups that the sources' sides divide.
        num_labels: Labels whose shares were kept; None without labels, or with too many.
        largest_deviation: Largest difference between a label's share of a side and of all rows.
        num_test_groups: Groups on the test side.
    """

    positions: NDArray[np.int64]
    sides: NDArray[np.uint8]
    num_groups: int
    num_groups_on_two_sides: int
    num_labels: int | None = None
    largest_deviation: float | None = None
    num_test_groups: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of all sides."""
        return len(self.sides)

    def count(self, side: Side) -> int:
        """Return the number of rows of a side; 0 for a side that was not requested."""
        return int((self.sides == SIDES.index(side)).sum())


def draw_rows(keys: RowKeys, max_rows: int | None, *, seed: int) -> RowKeys:
    """Draw at most ``max_rows`` rows, the same ones in any order; None keeps all.

    Returns:
        The drawn rows in their original order.
    """
    import numpy as np

    if max_rows is None or len(keys) <= max_rows:
        return keys
    # A count distinguishes identical rows; else they would be drawn together.
    repeats = _count_earlier(keys.contents)
    contents = _hex_digests(keys.contents)
    hashes = _hash_all(
        seed, (f"{content}:{n}" for content, n in zip(contents, repeats, strict=True))
    )
    return keys.take(np.sort(np.argsort(hashes, kind="stable")[:max_rows]))


def divide_rows(
    keys: RowKeys,
    *,
    test_percent: int,
    validation_percent: int,
    seed: int,
    strata: NDArray[np.int64] | None = None,
    times: NDArray[np.int64] | None = None,
    by_threshold: bool = False,
) -> Division:
    """Put every row on a side.

    Rows of sources bound to a side go there. Loose rows whose group is bound follow it; the
    percentages apply to the other loose rows.

    Args:
        keys: All rows.
        test_percent: Held-out share of the loose rows, in percent.
        validation_percent: Validation share of the loose rows, in percent.
        seed: Seed of the division.
        strata: Number of each row's label, to keep shares equal; a group counts for the label of
            most of its rows.
        times: Time of each row, to hold out the latest; a group counts as its latest row. Not
            together with ``strata``.
        by_threshold: The side of a free group depends on its own hash alone, not on the others: the
            shares are met on average. There are rows bound to the test side. Without ``times``.

    Raises:
        DataError: There are fewer groups than sides.
    """
    import numpy as np

    groups, group_of = np.unique(keys.groups, return_inverse=True)
    is_bound = {side: np.zeros(len(groups), dtype=bool) for side in Side}
    for side, bound in is_bound.items():
        bound[group_of[keys.sides == SIDES.index(side)]] = True
    num_bound = np.sum(list(is_bound.values()), axis=0)
    side_of = np.full(len(groups), LOOSE, dtype=np.uint8)
    for side in reversed(_PURITY):
        side_of[is_bound[side]] = SIDES.index(side)
    free = np.flatnonzero(num_bound == 0)
    if len(free) and by_threshold and times is None:
        hashes = _hash_all(seed, _hex_digests(groups[free]))
        side_of[free] = _divide_by_threshold(
            hashes, test_percent=test_percent, validation_percent=validation_percent
        )
    elif len(free):
        free = _order_groups(groups, free, group_of, times, seed=seed)
        sizes = np.bincount(group_of, minlength=len(groups))[free]
        stratum_of = None
        if strata is not None:
            stratum_of = _main_strata(group_of, strata, len(groups))[free].tolist()
        side_of[free] = _divide_groups(
            sizes.tolist(),
            stratum_of,
            test_percent=test_percent,
            validation_percent=validation_percent,
            in_order=times is not None,
        )
    side_codes = np.where(keys.sides == LOOSE, side_of[group_of], keys.sides)
    return Division(
        positions=keys.positions,
        sides=side_codes,
        num_groups=len(groups),
        num_groups_on_two_sides=int((num_bound > 1).sum()),
        num_test_groups=len(np.unique(group_of[side_codes == SIDES.index(Side.TEST)])),
    )


def _order_groups(
    groups: NDArray[np.bytes_],
    free: NDArray[np.int64],
    group_of: NDArray[np.int64],
    times: NDArray[np.int64] | None,
    *,
    seed: int,
) -> NDArray[np.int64]:
    """Return the free groups in the order of their hashes, or the latest ones first."""
    import numpy as np

    hashes = _hash_all(seed, _hex_digests(groups[free]))
    free = free[np.argsort(hashes, kind="stable")]
    if times is None:
        return free
    return free[np.argsort(-_latest(group_of, times, len(groups))[free], kind="stable")]


def _latest(
    group_of: NDArray[np.int64], times: NDArray[np.int64], num_groups: int
) -> NDArray[np.int64]:
    import numpy as np

    latest = np.full(num_groups, np.iinfo(np.int64).min + 1, dtype=np.int64)
    np.maximum.at(latest, group_of, times)
    return latest


def _main_strata(
    group_of: NDArray[np.int64], strata: NDArray[np.int64], num_groups: int
) -> NDArray[np.int64]:
    """Return the stratum that most rows of each group have; of equals the smallest."""
    import numpy as np

    num_strata = int(strata.max()) + 1
    cells, counts = np.unique(group_of * num_strata + strata, return_counts=True)
    groups, numbers = np.divmod(cells, num_strata)
    main = np.zeros(num_groups, dtype=np.int64)
    order = np.lexsort((-numbers, counts))  # the last one written stays
    main[groups[order]] = numbers[order]
    return main


def _divide_groups(
    sizes: Sequence[int],
    stratum_of: Sequence[int] | None = None,
    *,
    test_percent: int,
    validation_percent: int,
    in_order: bool = False,
) -> NDArray[np.uint8]:
    """Assign groups to sides as near to the percentages as whole groups allow.

    Every requested side gets at least one group. A side is off its share by at most half the size
    of the largest group, over all rows and within each stratum by that and the error of the stratum
    before.

    Args:
        sizes: Rows of each group, in the order in which groups are taken.
        stratum_of: Stratum of each group; None puts all in one.
        in_order: Stop at the first group that does not fit.
        test_percent: Share of the rows for the test side.
        validation_percent: Share of the rows for the validation side.

    Returns:
        Code of each group's side.

    Raises:
        DataError: There are fewer groups than requested sides.
    """
    import numpy as np

    wanted = [
        (side, percent)
        for side, percent in ((Side.TEST, test_percent), (Side.VALIDATION, validation_percent))
        if percent > 0
    ]
    _check_enough(sizes, wanted)
    strata: dict[int, list[int]] = {}
    for group, stratum in enumerate(stratum_of or [0] * len(sizes)):
        strata.setdefault(stratum, []).append(group)
    rows_of = {stratum: sum(sizes[g] for g in groups) for stratum, groups in strata.items()}
    side_of = np.full(len(sizes), SIDES.index(Side.TRAIN), dtype=np.uint8)
    num_free = len(sizes)
    for index, (side, percent) in enumerate(wanted):
        most = num_free - (len(wanted) - index)  # leave a group for each side still to come
        taken: set[int] = set()
        missing = 0
        for stratum, groups in strata.items():
            # The next stratum balances the error of the one before.
            missing += percent * rows_of[stratum]
            missing = _take(groups, sizes, taken, missing, most=most, in_order=in_order)
        free = [group for groups in strata.values() for group in groups]
        if not taken:
            taken.add(free[0] if in_order else min(free, key=lambda group: (sizes[group], group)))
        num_free -= len(taken)
        side_of[list(taken)] = SIDES.index(side)
        strata = {
            stratum: [group for group in groups if group not in taken]
            for stratum, groups in strata.items()
        }
    return side_of


def _divide_by_threshold(
    hashes: NDArray[np.bytes_], *, test_percent: int, validation_percent: int
) -> NDArray[np.uint8]:
    """Return the code of each group's side, by where its hash lies between 0 and 100 percent."""
    import numpy as np

    raw = np.frombuffer(hashes.tobytes(), np.uint8).reshape(-1, DIGEST_BYTES)
    number = np.ascontiguousarray(raw[:, :8]).view(">u8").ravel()
    percent = number.astype(np.float64) / 2**64 * 100
    side_of = np.full(len(percent), SIDES.index(Side.TRAIN), dtype=np.uint8)
    side_of[percent < test_percent + validation_percent] = SIDES.index(Side.VALIDATION)
    side_of[percent < test_percent] = SIDES.index(Side.TEST)
    train = np.flatnonzero(side_of == SIDES.index(Side.TRAIN))
    if validation_percent and len(train) > 1 and SIDES.index(Side.VALIDATION) not in side_of:
        side_of[train[np.argmin(percent[train])]] = SIDES.index(Side.VALIDATION)
    return side_of


def _check_enough(sizes: Sequence[int], wanted: Sequence[tuple[Side, int]]) -> None:
    num_sides = len(wanted) + 1
    if len(sizes) >= num_sides:
        return
    asked = ", ".join(f"{side} {percent} %" for side, percent in wanted)
    raise DataError(
        "TooFewRows",
        f"the split asks for {num_sides} sides (train, {asked}), but the {sum(sizes)} rows form "
        f"only {len(sizes)} group(s) of rows that belong together (same group column, or same "
        f"prompt); at least {num_sides} are needed: add rows with other prompts, or set "
        "dataset.split.validationPercent to 0",
    )


def _take(
    free: Sequence[int],
    sizes: Sequence[int],
    taken: set[int],
    missing: int,
    *,
    most: int,
    in_order: bool,
) -> int:
    """Take groups until none brings the side nearer to its share (in rows x 100).

    Fitting groups are taken in order, then the smallest larger one if it brings the side nearer.
    ``in_order`` takes groups in order alone.

    Returns:
        The remainder; negative for an excess.
    """
    too_large = []
    for group in free:
        if len(taken) == most:
            return missing
        size = 100 * sizes[group]
        if size <= missing or (in_order and abs(missing - size) < abs(missing)):
            taken.add(group)
            missing -= size
        elif in_order:
            return missing
        else:
            too_large.append(group)
    if too_large and len(taken) < most:
        smallest = min(too_large, key=lambda group: (sizes[group], group))
        if abs(missing - 100 * sizes[smallest]) < abs(missing):
            taken.add(smallest)
            missing -= 100 * sizes[smallest]
    return missing


def _count_earlier(values: NDArray[np.bytes_]) -> list[int]:
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(is_first)
    lengths = np.diff(np.append(starts, len(values)))
    earlier = np.empty(len(values), dtype=np.int64)
    earlier[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return earlier.tolist()


def _hex_digests(values: NDArray[np.bytes_]) -> Iterable[str]:
    # Not the array's items: numpy takes zero bytes at the end of an item for padding.
    raw = values.tobytes()
    return (raw[start : start + DIGEST_BYTES].hex() for start in range(0, len(raw), DIGEST_BYTES))


def _hash_all(seed: int, keys: Iterable[str]) -> NDArray[np.bytes_]:
    import numpy as np

    hashes = bytearray()
    for key in keys:
        hashes += hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.frombuffer(hashes, dtype=f"S{DIGEST_BYTES}")
