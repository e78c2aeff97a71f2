"""All nodes resume from the same checkpoint, or none does.

Each node fetches the newest checkpoint that it sees, and nodes may see different ones. Rank 0's
node proposes a step; every node verifies that it holds it; if one does not, all fall back to an
older step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist

from finetune_trainer.errors import StorageError
from finetune_trainer.train.checkpoint import is_damage


def agree_on_step(
    found: int, *, is_local_first: bool, fetch: Callable[[int], None], older: Callable[[int], int]
) -> int:
    """Agree with all ranks on the step to resume from; all ranks must call it.

    Args:
        found: The step this node has fetched, 0 for none.
        is_local_first: Whether this rank fetches for its node.
        fetch: Fetches a step to this node's disk and verifies it.
        older: Fetches the newest whole step before one, on rank 0's node; 0 for none.

    Returns:
        The step that every node holds, 0 to begin anew.

    Raises:
        StorageError: A node could not read the store.
    """
    wanted = _from_first(found)
    while wanted:
        holds = not is_local_first or found == wanted or _try_to_fetch(fetch, wanted)
        if _holds_for_all(holds):
            return wanted
        wanted = _from_first(older(wanted) if dist.get_rank() == 0 else 0)
    return 0


def agree_on_fault(fault: str) -> str:
    """Return what any rank has found, so that all compute alike; all ranks must call it."""
    faults = [""] * dist.get_world_size()
    dist.all_gather_object(faults, fault)
    return next(filter(None, faults), "")


def _try_to_fetch(fetch: Callable[[int], None], step: int) -> bool:
    try:
        fetch(step)
    except StorageError as error:
        if not is_damage(error):
            raise
        return False
    return True


def _from_first(step: int) -> int:
    """Return rank 0's value."""
    values = [step]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _holds_for_all(value: bool) -> bool:
    values: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(values)
