"""Faults of a stage's processes: hangs and lack of memory, in the process that they belong to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

PLUG = Path(__file__).parents[1] / "processes" / "fault_plug"


def fault(kind: str, mark: Path, **details: Any) -> dict[str, str]:
    """Return the environment of a stage in which something goes wrong.

    Args:
        kind: ``import`` (``module``), ``loader`` or ``collective`` (``rank``, ``step``),
            ``trained`` (``rank``: hangs when its last checkpoint is stored), ``memory``
            (``fits``: examples per forward pass), ``not-finite`` (``rank``, ``steps``: steps done
            before those whose loss is NaN), ``answers`` (``answers``: batches before it
            hangs), ``impatience`` (``meeting``: seconds that a node waits for the others).
        mark: File that is written to when it hangs.
        details: See ``kind``. With ``until``, a path, it goes on when there is a file.
    """
    paths = [str(PLUG), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TEST_FAULT": json.dumps({"kind": kind, "mark": str(mark), **details}),
    }
