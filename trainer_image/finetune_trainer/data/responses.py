"""``responses.jsonl`` of a prepared data set: which row comes from which captured answer.

So it can be read back from an adapter, by its data set, to what people said of which answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.data.rows import RESPONSE_ID, RowFile, Side

RESPONSES_NAME = "responses.jsonl"
FEEDBACK_CHECK = "feedback"
"""Name of the check in a data set's report that counts these rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A row of a prepared data set, and the captured answer that it comes from.

    Attributes:
        side: The row's side.
        row: Its position in the side's file, from 0.
        response_id: Of the answer.
        user: Keyed hash of the user who got the answer; None if the request named none.
        time: When the answer was asked for.
    """

    side: Side
    row: int
    response_id: str
    user: str | None
    time: str


def write_responses(
    folder: Path, sides: Mapping[Side, RowFile], answers: Mapping[str, Mapping[str, str | None]]
) -> tuple[int, int]:
    """Write the list; return the numbers of rows and of answers in it.

    ``answers`` has ``user`` and ``time`` of each answer by its response id.
    """
    num_rows, seen = 0, set()
    with (folder / RESPONSES_NAME).open("w", encoding="utf-8") as stream:
        for side, rows in sides.items():
            for position, row in enumerate(rows):
                response_id = row["metadata"].get(RESPONSE_ID)
                if response_id is not None:
                    entry = {"side": side, "row": position, RESPONSE_ID: response_id}
                    stream.write(json.dumps({**entry, **answers[response_id]}) + "\n")
                    num_rows += 1
                    seen.add(response_id)
    return num_rows, len(seen)


def read_responses(folder: Path) -> Iterator[Origin]:
    """Yield the list of a data set's folder; nothing for one without captured answers."""
    path = folder / RESPONSES_NAME
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            entry = json.loads(line)
            yield Origin(
                side=Side(entry["side"]),
                row=entry["row"],
                response_id=entry[RESPONSE_ID],
                user=entry["user"],
                time=entry["time"],
            )
