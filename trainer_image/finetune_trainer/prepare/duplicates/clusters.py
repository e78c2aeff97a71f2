"""Which rows stay together: the closure of group column, equal prompts and near prompts.

Near questions can chain into one group. A group of more than a twentieth of the rows is taken
apart, the weakest ties first: near prompts by score, then common beginnings of conversations, then
equal prompts across groups. The user's own groups are never taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finetune_trainer.prepare.duplicates.near import NearPairs

_LARGEST_SHARE = 20
"""A group of more than one in so many rows is taken apart."""
_LARGEST_ROWS = 10
"""Groups of so many rows are never taken apart."""
_STRICTER = (0.9, 0.95)
"""Scores that ties of a group that is too large must have, weakest first."""


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Rows that stay together.

    Attributes:
        groups: Digest of each row's group, dtype ``S32``: the smallest of its rows' own groups.
        num_near_groups: Groups that near prompts enlarge.
        num_near_rows: Rows of these.
        largest_rows: Rows of the largest of them.
        num_cut_rows: Rows of groups that were taken apart.
    """

    groups: NDArray[np.bytes_]
    num_near_groups: int
    num_near_rows: int
    largest_rows: int
    num_cut_rows: int


def cluster_rows(
    groups: NDArray[np.bytes_],
    prompt_of: NDArray[np.int64],
    near: NearPairs,
    beginnings: NDArray[np.int64],
) -> Clusters:
    """Find which rows stay together.

    Args:
        groups: Digest of each row's own group: its group column, else its exact prompt.
        prompt_of: Number of each row's normalised prompt.
        near: Pairs of near prompts, by these numbers.
        beginnings: Pairs of indexes of rows: the first goes on after the prompt of the second. A
            beginning of more rows than a group may have, such as a greeting, ties nothing.
    """
    import numpy as np

    own, own_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(own_of, minlength=len(own))
    levels = [np.arange(len(own))]
    levels.append(join_pairs(levels[0], _equal_prompts(own_of, prompt_of)))
    most = max(_LARGEST_ROWS, len(groups) // _LARGEST_SHARE)
    num_longer = np.bincount(beginnings[:, 1], minlength=len(groups))
    beginnings = beginnings[num_longer[beginnings[:, 1]] <= most]
    levels.append(join_pairs(levels[1], own_of[beginnings].tolist()))
    num_prompts = max(int(prompt_of.max(initial=-1)), int(near.pairs.max(initial=-1))) + 1
    first_of = np.full(num_prompts, -1, dtype=np.int64)
    first_of[prompt_of[::-1]] = own_of[::-1]
    ends = first_of[near.pairs]
    # A pair with a prompt that is no longer in any row ties nothing.
    is_there = (ends >= 0).all(axis=1)
    for least in (*reversed(_STRICTER), 0.0):
        levels.append(join_pairs(levels[2], ends[is_there & (near.scores >= least)].tolist()))
    chosen, num_cut = _choose_levels(
        levels, sizes, most, _of_one_prompt(levels[1], own_of, prompt_of)
    )
    numbers = np.bincount(chosen, weights=sizes, minlength=len(own)).astype(np.int64)
    by_text = np.bincount(levels[2], weights=sizes, minlength=len(own)).astype(np.int64)
    near_sizes = numbers[(numbers > 0) & (numbers > by_text)]
    return Clusters(
        groups=own[chosen][own_of],
        num_near_groups=len(near_sizes),
        num_near_rows=int(near_sizes.sum()),
        largest_rows=int(near_sizes.max(initial=0)),
        num_cut_rows=num_cut,
    )


def _choose_levels(
    levels: Sequence[NDArray[np.int64]],
    sizes: NDArray[np.int64],
    most: int,
    one_prompt: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], int]:
    """Give each own group the loosest cluster that is not too large.

    Args:
        levels: Cluster of each own group, from the strictest ties to the loosest.
        sizes: Rows of each own group.
        most: Most rows of a cluster.
        one_prompt: Own groups whose cluster by equal prompts has one prompt.

    Returns:
        The smallest own group of each one's cluster, and the rows of clusters taken apart.
    """
    import numpy as np

    chosen = np.full(len(sizes), -1, dtype=np.int64)
    num_cut = 0
    for number, level in reversed(list(enumerate(levels))):
        rows = np.bincount(level, weights=sizes, minlength=len(sizes))[level]
        fits = rows <= most
        if number == 0:
            fits[:] = True
        elif number == 1:
            fits |= one_prompt
        if number == len(levels) - 1:
            is_tied = rows > np.bincount(levels[1], weights=sizes, minlength=len(sizes))[levels[1]]
            num_cut = int(sizes[~fits & (is_tied | ~one_prompt)].sum())
        chosen[fits & (chosen < 0)] = level[fits & (chosen < 0)]
    return chosen, num_cut


def _of_one_prompt(
    level: NDArray[np.int64], own_of: NDArray[np.int64], prompt_of: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return for each own group whether its cluster has one prompt, or is one own group."""
    import numpy as np

    base = int(prompt_of.max(initial=0)) + 1
    prompts = np.unique(level[own_of] * base + prompt_of) // base
    groups = np.bincount(level, minlength=len(level))
    is_one = (np.bincount(prompts, minlength=len(level)) == 1) | (groups == 1)
    return np.asarray(is_one[level])


def _equal_prompts(
    own_of: NDArray[np.int64], prompt_of: NDArray[np.int64]
) -> list[tuple[int, int]]:
    import numpy as np

    order = np.lexsort((own_of, prompt_of))
    prompts, owners = prompt_of[order], own_of[order]
    same = (prompts[1:] == prompts[:-1]) & (owners[1:] != owners[:-1])
    at = np.flatnonzero(same)
    return list(zip(owners[at].tolist(), owners[at + 1].tolist(), strict=True))


def join_pairs(start: NDArray[np.int64], pairs: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Join clusters; a cluster is named by its smallest member."""
    import numpy as np

    if not len(pairs):
        return start
    root = start.tolist()

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for a, b in pairs:
        a, b = find(a), find(b)
        if a != b:
            root[max(a, b)] = min(a, b)
    return np.array([find(item) for item in range(len(root))], dtype=np.int64)
