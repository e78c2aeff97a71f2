"""Keeps the rows of ``dataset.anchor`` as they are, and all others away from them."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from finetune_trainer.data.rows import GROUP_DIGITS
from finetune_trainer.prepare.duplicates.close import read_held_out
from finetune_trainer.prepare.duplicates.prompts import Prompts
from finetune_trainer.prepare.duplicates.removal import witness_of
from finetune_trainer.prepare.duplicates.rows import Comparison, Removed
from finetune_trainer.prepare.rows.spool import DIGEST_BYTES, RowKeys, Spool
from finetune_trainer.prepare.splits.dividing import draw_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEALED = "sealedRows"
_STORED_BYTES = GROUP_DIGITS // 2


def remove_equal_to_sealed(rows: Comparison) -> Removed:
    """Leave out the rows with the prompt of a sealed row, whatever they answer.

    Rows of a sealed row's own group share its group from then on.
    """
    import numpy as np

    _tie_groups(rows)
    is_sealed, prompts = rows.is_sealed, rows.marks.prompts[rows.keys.positions]
    known, first = np.unique(prompts[is_sealed], return_index=True)
    out = np.flatnonzero(~is_sealed & np.isin(prompts, known))
    because = rows.keys.positions[is_sealed][first][np.searchsorted(known, prompts[out])]
    return rows.remove(SEALED, out, because)


def remove_near_sealed(
    rows: Comparison, prompts: Prompts, spool: Spool, *, threshold: float
) -> Removed:
    """Leave out the rows that ask a sealed row's question again, whatever they answer.

    The rule is wider than for near prompts: each cycle is judged by the sealed rows, and users
    repeat what they asked.
    """
    import numpy as np

    is_sealed, positions = rows.is_sealed, rows.keys.positions
    prompt_of = prompts.of(positions)
    found, because = witness_of(prompts, prompt_of[is_sealed], positions[is_sealed])
    asked, first_of = read_held_out(
        spool, positions, positions[is_sealed], threshold=threshold, sealed_from=rows.sealed_from
    )
    open_prompts = np.setdiff1d(prompt_of[~is_sealed], np.flatnonzero(found))
    with TemporaryDirectory(dir=spool.folder) as folder:
        read = spool.prompt_file(prompts.first[open_prompts], Path(folder)).open()
        for place, number in enumerate(open_prompts.tolist()):
            question = asked.find([read(place).decode()])
            if question is not None:
                found[number], because[number] = True, first_of[question]
    out = np.flatnonzero(~is_sealed & found[prompt_of])
    return rows.remove(SEALED, out, because[prompt_of[out]])


def count_corrections(rows: Comparison, equal: Removed) -> int:
    """Count the removed rows that answer the prompt of a sealed row in another way."""
    import numpy as np

    sealed = rows.marks.rows[rows.keys.positions[rows.is_sealed]]
    return int((~np.isin(rows.marks.rows[equal.positions], sealed)).sum())


def draw_beside_sealed(rows: Comparison, max_rows: int | None, *, seed: int) -> None:
    """Draw at most ``max_rows`` rows beside the sealed ones, which all stay."""
    import numpy as np

    is_sealed = rows.is_sealed
    if not is_sealed.any():
        rows.keys = draw_rows(rows.keys, max_rows, seed=seed)
        return
    drawn = draw_rows(rows.keys.take(np.flatnonzero(~is_sealed)), max_rows, seed=seed)
    is_kept: NDArray[np.bool_] = is_sealed | np.isin(rows.keys.positions, drawn.positions)
    rows.keys = rows.keys.take(np.flatnonzero(is_kept))


def _tie_groups(rows: Comparison) -> None:
    """Put rows into the group of a sealed row whose stored digits of the group are the same.

    They then share its side: of a user or conversation that is held out nothing is trained on.
    """
    import numpy as np

    is_sealed = rows.is_sealed
    raw = np.frombuffer(rows.keys.groups.tobytes(), np.uint8).reshape(-1, DIGEST_BYTES).copy()
    stored = np.ascontiguousarray(raw[:, :_STORED_BYTES]).view(np.uint64).ravel()
    raw[np.isin(stored, stored[is_sealed]), _STORED_BYTES:] = 0
    keys = rows.keys
    rows.keys = RowKeys(
        positions=keys.positions,
        groups=raw.reshape(-1).view(f"S{DIGEST_BYTES}"),
        contents=keys.contents,
        sides=keys.sides,
    )
