"""Long questions show on standard error how far they are; short ones say nothing."""

from __future__ import annotations

import io

import pytest

from finetune_api.protocol.trainer import Event, Stage
from finetune_cli.views.progress_line import ProgressLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, steps: list[tuple[float, int]]) -> str:
    """Show steps at their times, in seconds from the start."""
    times = iter([0.0, *(at for at, _ in steps)])
    with ProgressLine(stream, clock=lambda: next(times)) as line:
        for _, step in steps:
            event = Event(
                event="progress", stage=Stage.PREPARE, message="reading", step=step,
                total_steps=40_000,
            )  # fmt: skip
            line.show(event)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        (io.StringIO(), "reading: 20,000 of 40,000\nreading: 40,000 of 40,000\n"),
        (
            Terminal(),
            "\rreading: 10,000 of 40,000\rreading: 20,000 of 40,000"
            "\rreading: 40,000 of 40,000\r" + " " * 25 + "\r",
        ),
    ],
)
def test_a_log_gets_a_line_every_five_seconds_and_a_terminal_one_that_goes(
    stream: io.StringIO, told: str
) -> None:
    steps = [(0.1, 1), (1.0, 10_000), (6.0, 20_000), (6.2, 30_000), (11.5, 40_000)]
    assert show(stream, steps) == told


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_what_is_done_at_once_says_nothing(stream: io.StringIO) -> None:
    assert show(stream, [(0.1, 10_000), (0.2, 20_000)]) == ""
