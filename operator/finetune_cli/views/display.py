"""Shows a run while it runs: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from finetune_api.protocol.trainer import Event, Stage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_SECONDS = 10.0
"""Least time between two progress lines of a stage when the output is no terminal."""

TITLES = {stage: stage.value for stage in Stage}


class Display(Protocol):
    """What the runner tells."""

    def start_stage(self, stage: Stage) -> None:
        """A stage begins."""

    def show_event(self, event: Event) -> None:
        """A stage tells something."""

    def end_stage(self, stage: Stage, *, is_ok: bool, summary: str) -> None:
        """A stage has ended."""

    def note(self, text: str) -> None:
        """Anything else worth a line."""

    def close(self) -> None:
        """The run is over."""


def make_display(console: Console) -> Display:
    """Choose by where the console writes to."""
    if console.is_terminal:
        return LiveDisplay(console)
    return PlainDisplay(
        lambda text: console.print(
            f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True
        )
    )


class PlainDisplay:
    """Lines for logs and pipes."""

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock = clock
        self._last = float("-inf")
        self._last_step: int | None = None

    def start_stage(self, stage: Stage) -> None:
        """A stage begins."""
        self._last = float("-inf")
        self._last_step = None
        self._write(f"{TITLES[stage]}: started")

    def show_event(self, event: Event) -> None:
        """A stage tells something."""
        if event.message and _is_line(event):
            self._write(f"{TITLES[event.stage]}: {event.message}")
        if event.event != "progress" or event.step is None or event.step == self._last_step:
            return
        now = self._clock()
        is_last = event.total_steps is not None and event.step >= event.total_steps
        if now - self._last >= PLAIN_INTERVAL_SECONDS or is_last:
            self._last, self._last_step = now, event.step
            self._write(f"{TITLES[event.stage]}: {progress_text(event)}")

    def end_stage(self, stage: Stage, *, is_ok: bool, summary: str) -> None:
        """A stage has ended."""
        self._write(f"{TITLES[stage]}: {'done' if is_ok else 'ended'}, {summary}")

    def note(self, text: str) -> None:
        """Anything else worth a line."""
        self._write(text)

    def close(self) -> None:
        """The run is over."""


class LiveDisplay:
    """A bar per stage on a terminal, messages scrolling above."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._console = console
        self._progress: Progress = Progress(
            TextColumn("[bold]{task.description}", table_column=Column(min_width=8, no_wrap=True)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=5,
        )
        self._tasks: dict[Stage, TaskID] = {}
        self._progress.start()

    def start_stage(self, stage: Stage) -> None:
        """A stage begins."""
        if stage in self._tasks:
            self._progress.reset(self._tasks[stage], total=None, detail="starting again")
        else:
            self._tasks[stage] = self._progress.add_task(
                TITLES[stage], total=None, detail="starting"
            )

    def show_event(self, event: Event) -> None:
        """A stage tells something."""
        task = self._tasks[event.stage]
        if event.message and _is_line(event):
            self._print(f"{TITLES[event.stage]}: {event.message}", style="dim")
        if event.event == "progress" and event.step is not None:
            self._progress.update(
                task,
                total=event.total_steps,
                completed=event.step,
                detail=progress_text(event),
            )

    def end_stage(self, stage: Stage, *, is_ok: bool, summary: str) -> None:
        """A stage has ended."""
        task = self._tasks[stage]
        if is_ok:
            self._progress.update(task, total=1, completed=1)
        self._progress.update(task, detail=summary)
        self._progress.stop_task(task)

    def note(self, text: str) -> None:
        """Anything else worth a line."""
        self._print(text)

    def close(self) -> None:
        """The run is over."""
        self._progress.stop()

    def _print(self, text: str, style: str | None = None) -> None:
        text = f"{time.strftime('%H:%M:%S')} {text}"
        self._console.print(text, style=style, markup=False, highlight=False)


def _is_line(event: Event) -> bool:
    """Whether the message of an event is a line of its own, not the heading of a count."""
    return event.event == "message" or (event.event == "progress" and not event.unit)


def progress_text(event: Event) -> str:
    """Return the numbers of a progress event in one line: ``step 3/9`` or ``38 of 76 answers``."""
    if event.unit:
        total = f" of {event.total_steps:,}" if event.total_steps else ""
        heading = f"{event.message}: " if event.message else ""
        parts = [f"{heading}{event.step:,}{total} {event.unit}"]
    else:
        parts = [f"step {event.step}" + (f"/{event.total_steps}" if event.total_steps else "")]
    if "loss" in event.metrics:
        parts.append(f"loss {event.metrics['loss']:.4g}")
    if "tokens_per_second" in event.metrics:
        parts.append(f"{event.metrics['tokens_per_second']:,.0f} tokens/s")
    if event.eta_seconds is not None:
        parts.append(f"{duration_text(event.eta_seconds)} left")
    return ", ".join(parts)


def duration_text(seconds: float) -> str:
    """Return a duration as people say it: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def printable(text: str) -> str:
    """Return text that cannot steer a terminal, whatever stands in rows and names."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
