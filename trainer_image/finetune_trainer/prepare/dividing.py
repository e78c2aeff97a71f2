"""Divide rows into train, validation and test by content and seed alone.

Rows of one group (equal group column, else equal prompt) never lie on two sides: the test side
would measure memory. Groups are taken in the order of a hash of seed and group, so the order of the
rows does not matter and new rows move few of the old ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_trainer.data.rows import Example, Side
from finetune_trainer.errors import DataError

# A group bound to several sides by the user's sources takes its loose rows to the one where a
# leak does least harm: rows of the test side must never be trained on.
_PURITY = (Side.TEST, Side.VALIDATION, Side.TRAIN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """The rows by side, in their original order.

    Attributes:
        sides: Rows of each side; a side nobody asked for is empty.
        num_groups: Distinct groups over all rows.
        num_groups_on_two_sides: Groups that the user's own choice of sides put on two sides.
    """

    sides: dict[Side, list[Example]]
    num_groups: int
    num_groups_on_two_sides: int


def draw_rows(examples: Sequence[Example], max_rows: int | None, *, seed: int) -> list[Example]:
    """Draw at most ``max_rows`` rows, the same ones whatever their order.

    Args:
        examples: All rows.
        max_rows: How many to keep; None keeps all.
        seed: Seed of the draw.

    Returns:
        The drawn rows in their original order.
    """
    if max_rows is None or len(examples) <= max_rows:
        return list(examples)
    seen: Counter[str] = Counter()
    order = []
    for index, example in enumerate(examples):
        # Identical rows are told apart by their count, else they would come or go together.
        key = f"{example.content}:{seen[example.content]}"
        seen[example.content] += 1
        order.append((_hash(seed, key), index))
    drawn = sorted(index for _, index in sorted(order)[:max_rows])
    return [examples[index] for index in drawn]


def divide_examples(
    examples: Sequence[Example], *, test_percent: int, validation_percent: int, seed: int
) -> Division:
    """Put every row on a side.

    Rows of sources bound to a side go there. Loose rows whose group is bound follow it; the
    percentages apply to the other loose rows.

    Args:
        examples: All rows.
        test_percent: Share of the loose rows to hold out, in percent.
        validation_percent: Share of the loose rows to watch the loss on, in percent.
        seed: Seed of the division.

    Raises:
        DataError: There are fewer groups than sides.
    """
    bound: dict[str, set[Side]] = {}
    for example in examples:
        if example.side is not None:
            bound.setdefault(example.group, set()).add(example.side)
    sizes = Counter(e.group for e in examples if e.side is None and e.group not in bound)
    side_of = {
        group: next(side for side in _PURITY if side in sides) for group, sides in bound.items()
    }
    if sizes:
        side_of |= divide_groups(
            sizes, test_percent=test_percent, validation_percent=validation_percent, seed=seed
        )
    sides: dict[Side, list[Example]] = {side: [] for side in Side}
    for example in examples:
        sides[example.side or side_of[example.group]].append(example)
    return Division(
        sides=sides,
        num_groups=len(side_of),
        num_groups_on_two_sides=sum(1 for chosen in bound.values() if len(chosen) > 1),
    )


def divide_groups(
    sizes: Mapping[str, int], *, test_percent: int, validation_percent: int, seed: int
) -> dict[str, Side]:
    """Assign groups to sides as near to the percentages as whole groups allow.

    Every side asked for gets at least one group. Beyond that, a side is off its share by at most
    half the size of the largest group.

    Args:
        sizes: Rows per group.
        test_percent: Share of the rows for the test side.
        validation_percent: Share of the rows for the validation side.
        seed: Seed of the order in which groups are taken.

    Raises:
        DataError: There are fewer groups than sides asked for.
    """
    wanted = [
        (side, percent)
        for side, percent in ((Side.TEST, test_percent), (Side.VALIDATION, validation_percent))
        if percent > 0
    ]
    num_sides = len(wanted) + 1
    num_rows = sum(sizes.values())
    if len(sizes) < num_sides:
        asked = ", ".join(f"{side} {percent} %" for side, percent in wanted)
        raise DataError(
            "TooFewRows",
            f"the split asks for {num_sides} sides (train, {asked}), but the {num_rows} rows form "
            f"only {len(sizes)} group(s) of rows that belong together (same group column, or same "
            f"prompt); at least {num_sides} are needed: add rows with other prompts, or set "
            "dataset.split.validationPercent to 0",
        )
    free = sorted(sizes, key=lambda group: _hash(seed, group))
    side_of: dict[str, Side] = {}
    for index, (side, percent) in enumerate(wanted):
        most = len(free) - (len(wanted) - index)  # leave a group for each side still to come
        taken = _take(free, sizes, hundredfold=percent * num_rows, most=most)
        side_of |= dict.fromkeys(taken, side)
        free = [group for group in free if group not in taken]
    return side_of | dict.fromkeys(free, Side.TRAIN)


def _take(
    free: Sequence[str], sizes: Mapping[str, int], *, hundredfold: int, most: int
) -> dict[str, None]:
    """Take groups in order while each brings the side nearer to its share (in rows x 100)."""
    taken: dict[str, None] = {}
    missing = hundredfold
    for group in free:
        if len(taken) == most:
            break
        if abs(missing - 100 * sizes[group]) < abs(missing):
            taken[group] = None
            missing -= 100 * sizes[group]
    if not taken:
        taken[min(free, key=lambda group: sizes[group])] = None
    return taken


def _hash(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
