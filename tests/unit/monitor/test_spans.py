"""What a look reads: all where it can, and random segments where these are too many answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from finetune_trainer.monitor.spans import choose_segments
from finetune_trainer.traffic.places import Segment

START = datetime(2026, 1, 1, tzinfo=UTC)


def segments(number: int, num_rows: int = 100) -> list[Segment]:
    times = [START + each * timedelta(minutes=6) for each in range(number)]
    return [
        Segment(key=f"segments/{each}", first=time, last=time, num_rows=num_rows)
        for each, time in enumerate(times)
    ]


def test_a_look_reads_all_answers_where_it_may() -> None:
    assert choose_segments(segments(30), 3000) == (segments(30), 1.0)


def test_of_too_many_answers_the_same_random_segments_are_read() -> None:
    found, share = choose_segments(segments(1000), 20_000)
    assert share == 0.2
    assert len(found) == pytest.approx(200, rel=0.2)
    assert choose_segments(segments(1000)[::-1], 20_000)[0] == found[::-1]
