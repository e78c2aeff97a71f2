"""``responses.jsonl`` of a prepared data set: which row comes from which captured answer.

So it can be read back from an adapter, by its data set, to what people said of which answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune_trainer.data.rows import ORIGIN, RESPONSE_ID, RowFile, Side

RESPONSES_NAME = "responses.jsonl"
FEEDBACK_CHECK = "feedback"
"""Name of the check in a data set's report that counts these rows."""


def write_responses(folder: Path, sides: Mapping[Side, RowFile]) -> tuple[int, int]:
    """Write the list; return the numbers of rows and of answers in it."""
    num_rows, answers = 0, set()
    with (folder / RESPONSES_NAME).open("w", encoding="utf-8") as stream:
        for side, rows in sides.items():
            for position, row in enumerate(rows):
                metadata = row["metadata"]
                if RESPONSE_ID in metadata:
                    place = {"side": side, "row": position}
                    origin = {name: metadata[name] for name in ORIGIN}
                    stream.write(json.dumps({**place, **origin}) + "\n")
                    num_rows += 1
                    answers.add(metadata[RESPONSE_ID])
    return num_rows, len(answers)


def read_responses(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the list of a data set's folder; nothing for one without captured answers.

    An entry has ``side``, ``row`` (its position in the side's file, from 0), and :data:`ORIGIN`.
    """
    path = folder / RESPONSES_NAME
    if path.exists():
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
