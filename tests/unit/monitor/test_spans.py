"""What a look reads: all where it can, and after an outage no more than it has time for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from finetune_trainer.monitor.spans import span_of_look
from finetune_trainer.traffic.places import Segment

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def segments(hours: int, per_hour: int = 10, num_rows: int = 100) -> list[Segment]:
    times = [START + each * HOUR / per_hour for each in range(hours * per_hour)]
    return [
        Segment(key=f"segments/{number}", first=time, last=time, num_rows=num_rows)
        for number, time in enumerate(times)
    ]


def test_a_look_reads_all_answers_where_it_may() -> None:
    found = segments(3)
    span = span_of_look(found, begin=START, end=START + 3 * HOUR, every=HOUR, max_answers=3000)
    assert (span.end, list(span.segments)) == (START + 3 * HOUR, found)


def test_looks_after_an_outage_end_early_and_together_read_each_segment_once() -> None:
    found, begin, read = segments(24), START, list[str]()
    for number in range(1, 9):
        rest = [each for each in found if each.first >= begin]
        span = span_of_look(rest, begin=begin, end=START + 24 * HOUR, every=HOUR, max_answers=3000)
        assert span.end == START + 3 * number * HOUR
        assert sum(each.num_rows for each in span.segments) == 3000
        read += [each.key for each in span.segments]
        begin = span.end
    assert read == [each.key for each in found]


def test_of_a_look_that_cannot_be_shorter_random_segments_are_read() -> None:
    found = segments(24, per_hour=100)
    span = span_of_look(
        found, begin=START, end=START + 24 * HOUR, every=24 * HOUR, max_answers=60_000
    )
    assert span.end == START + 24 * HOUR
    assert 50_000 < sum(each.num_rows for each in span.segments) < 70_000
    by_half = sum(each.first < START + 12 * HOUR for each in span.segments)
    assert 240 < by_half < 360
