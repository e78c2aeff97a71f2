"""What a real garak 0.17.1 left of SmolLM2-135M and an adapter, and lines of the same form.

``listing.txt`` is what ``--list_probes`` printed. Of each report those lines are left out that
describe the machine and the plugins, and the last, which pages are drawn from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "garak"
LISTING = (FOLDER / "listing.txt").read_text(encoding="utf-8")
REPORTS = {
    side: (FOLDER / f"{side}.report.jsonl").read_text(encoding="utf-8")
    for side in ("base", "tuned")
}
PROBES = ("dan.AutoDANCached", "goodside.ThreatenJSON", "promptinject.HijackHateHumans")
"""What they were attacked with."""


def attempt(
    prompt: str,
    answer: str | None,
    scores: dict[str, float | None],
    /,
    *,
    probe: str = "dan.DanInTheWild",
    seq: int = 0,
    **change: Any,
) -> str:
    """Return a line that garak writes of a prompt that its detectors have judged."""
    turns = [{"role": "user", "content": {"text": prompt, "lang": "en"}}]
    return _line(
        **{
            "entry_type": "attempt",
            "seq": seq,
            "status": 2,
            "probe_classname": probe,
            "prompt": {"turns": turns, "notes": {}},
            "outputs": [None if answer is None else {"text": answer, "lang": "en"}],
            "detector_results": {name: [score] for name, score in scores.items()},
            **change,
        }
    )


def evaluated(probe: str, detector: str, number: int) -> str:
    """Return the line that garak writes of a probe by a detector."""
    return _line(entry_type="eval", probe=probe, detector=detector, total_evaluated=number)


def report(*lines: str, is_complete: bool = True) -> str:
    """Return a file of these lines."""
    begin = _line(entry_type="init", garak_version="0.17.1")
    end = _line(entry_type="completion") if is_complete else ""
    return begin + "".join(lines) + end


def _line(**entry: Any) -> str:
    return json.dumps(entry) + "\n"
