"""Kueue's Workloads in every state that the operator tells of, as a real Kueue 0.17 wrote them.

``tools/record_workloads.py`` records them; run it again after a new Kueue is pinned.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "workloads.json"


@cache
def _states() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def kueue_workload(state: str) -> dict[str, Any]:
    """Return a Workload in a state, to be changed at will."""
    found: dict[str, Any] = copy.deepcopy(_states()[state])
    return found
