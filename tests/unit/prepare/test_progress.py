"""Progress is told by rows done, not by the pieces they come in."""

from __future__ import annotations

import io
import json

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_trainer.prepare.progress import RowProgress
from finetune_trainer.report.events import EventEmitter


@pytest.mark.parametrize("piece", [1000, 1300, 7])
def test_one_event_for_every_ten_thousand_rows_and_one_at_the_end(piece: int) -> None:
    stream = io.StringIO()
    progress = RowProgress(EventEmitter(Stage.PREPARE, stream=stream), "reading")
    for done in [*range(piece, 31_234, piece), 31_234]:
        progress.tell(done, 31_234)
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {event["unit"] for event in told} == {"rows"}
    steps = [event["step"] for event in told]
    assert len(steps) == 4
    assert all(0 <= step - n * 10_000 < piece for n, step in enumerate(steps[:3], start=1))
    assert steps[-1] == 31_234
