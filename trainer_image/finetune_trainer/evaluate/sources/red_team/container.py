"""garak beside the stage: which probes it has, how it is begun, how far it is, why it ended.

Whoever started this stage has put a container beside it that writes ``listing`` and ``listed`` into
a folder both share, waits there for ``runs`` with a configuration for each, does one after the
other, and leaves ``RUN.ended`` with each exit code and ``ended`` at last. A run is one probe
against one model: garak ends where it can load no detector of a probe, and the others would be
lost. What it prints before it has attacked cannot quote an answer and is told; what it prints later
is stored with the data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from finetune_api.protocol.trainer import Environment
from finetune_trainer.errors import RetryableError, UserError
from finetune_trainer.evaluate.sources.red_team.catalog import COLOURS, Catalog, read_catalog
from finetune_trainer.evaluate.sources.red_team.reading import count_asked

LIST_SECONDS = 600.0
"""How long garak may take to list its probes."""
SILENT_SECONDS = 1800.0
"""How long it may write nothing before it counts as hung: an answer takes minutes at most."""
POLL_SECONDS = 0.5
LOG_NAME = "garak.log"
"""What it prints."""
OWN_LOG_NAME = "garak-debug.log"
"""What it writes into its own log, tracebacks among it."""
TELL_SECONDS = 5.0
"""Between two looks at how many prompts are answered."""
OLDEST = (0, 15)
"""Versions before it take no ``run.spec`` and would run every probe they have."""
NUM_LAST_LINES = 3
MAX_LINE = 240
_KILLED = {"137": "SIGKILL", "143": "SIGTERM"}
"""Exit codes of a process that somebody else ended, as where memory ran out."""
_OWN_LOG = Path("data", "garak", "garak.log")
_REPORTS = Path("data", "garak", "garak_runs")
_REMEDY = "have the operator's garakImage changed, or leave evaluation.redTeam out"


class Garak:
    """garak beside this stage.

    Args:
        folder: What both share.
        image: Its container image; empty if nobody knows.
        wait: Waits for some seconds; may raise.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        image: str = "",
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._image = image
        self._wait = wait
        self._clock = clock

    @classmethod
    def from_environment(cls, wait: Callable[[float], object]) -> Garak:
        """Return the garak that this stage was told of.

        Raises:
            UserError: ``RedTeamMissing``.
        """
        folder = os.environ.get(Environment.RED_TEAM_DIR, "")
        if not folder:
            raise UserError(
                "RedTeamMissing",
                "evaluation.redTeam: no garak stands beside this stage; on a cluster the operator's"
                " garakImage names its image (it was set when the job was accepted), elsewhere "
                "leave evaluation.redTeam out",
            )
        image = os.environ.get(Environment.RED_TEAM_IMAGE, "")
        return cls(Path(folder), image=image, wait=wait)

    @property
    def image(self) -> str:
        """Its container image; empty if nobody knows."""
        return self._image

    def wait_for_catalog(self) -> Catalog:
        """Wait until garak has listed its probes.

        Raises:
            RetryableError: It does not.
            UserError: It is too old to be told which of them to run.
        """
        end = self._clock() + LIST_SECONDS
        listing = self._folder / "listing"
        while not (self._folder / "listed").exists():
            if self._has_ended:
                raise self._failed("ended before it listed its probes", _end_of(_read(listing)))
            if self._clock() > end:
                raise self._failed(f"listed no probes within {LIST_SECONDS:.0f} s", "")
            self._wait(POLL_SECONDS)
        catalog = read_catalog(_read(listing))
        if not catalog.probes:
            code = _read(self._folder / "listed").strip()
            raise self._failed(f"listed no probes (exit code {code})", _end_of(_read(listing)))
        if _numbers(catalog.version) < OLDEST:
            raise UserError(
                "RedTeamUnsuitable",
                f"garak{self._of_image} is of version {catalog.version or 'unknown'}, and cannot be"
                f" told which probes to run before {'.'.join(map(str, OLDEST))}: {_REMEDY}",
            )
        return catalog

    def begin(self, configurations: Mapping[str, str]) -> None:
        """Have garak attack; one run after the other.

        Args:
            configurations: By run, what it is told.
        """
        for run, text in configurations.items():
            (self._folder / f"{run}.yaml").write_text(text, encoding="utf-8")
        draft = self._folder / "runs.draft"
        draft.write_text("".join(f"{run}\n" for run in configurations), encoding="utf-8")
        draft.rename(self._folder / "runs")

    def wait_for_run(
        self, run: str, *, tell: Callable[[int], None], look: Callable[[], None]
    ) -> str:
        """Wait until one run is over; returns what garak leaves of it.

        Args:
            run: Which.
            tell: Told how many prompts are answered, when there are more.
            look: Called now and then; raises where there is nothing to wait for.

        Raises:
            RetryableError: ``RedTeamFailed``: it was killed, or does nothing.
        """
        ended, told, size = self._folder / f"{run}.ended", 0, -1
        quiet_since = looked_at = self._clock()
        while not ended.exists():
            look()
            now = self._clock()
            if (written := self._written(run)) != size:
                size, quiet_since = written, now
            if now - looked_at >= TELL_SECONDS:
                looked_at = now
                if (asked := count_asked(self.report_of(run))) > told:
                    told = asked
                    tell(told)
            # A run that came to its end just now has left its mark before the whole did.
            if self._has_ended and not ended.exists():
                raise self.fail_run(run, "was killed")
            if now - quiet_since > SILENT_SECONDS:
                raise self.fail_run(run, f"wrote nothing for {SILENT_SECONDS:.0f} s")
            self._wait(POLL_SECONDS)
        if signal := _KILLED.get(self.code_of(run)):
            raise self.fail_run(run, f"was killed ({signal})")
        return self.report_of(run)

    def code_of(self, run: str) -> str:
        """Return the exit code of a run that is over."""
        return _read(self._folder / f"{run}.ended").strip()

    def last_words(self, run: str) -> str:
        """Return what garak printed last in a run; nothing where that could quote an answer."""
        if count_asked(self.report_of(run)):
            return ""
        return _end_of(_read(self._folder / f"{run}.log"))

    def fail_run(self, run: str, what: str) -> RetryableError:
        """Return the failure of a garak that left a run before its end."""
        return self._failed(f"{what} in run {run}", self.last_words(run))

    def report_of(self, run: str) -> str:
        """Return what garak has written of a run so far."""
        return _read(self._folder / _REPORTS / f"{run}.report.jsonl")

    def keep_logs(self, folder: Path) -> None:
        """Put what garak printed, the latest run last, and its own log where logs are kept from."""
        logs = sorted(self._folder.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for name, text in (
            (LOG_NAME, "".join(map(_read, logs))),
            (OWN_LOG_NAME, _read(self._folder / _OWN_LOG)),
        ):
            if text:
                (folder / name).write_text(text, encoding="utf-8")

    @property
    def _has_ended(self) -> bool:
        return (self._folder / "ended").exists()

    @property
    def _of_image(self) -> str:
        return f" ({self._image})" if self._image else ""

    def _written(self, run: str) -> int:
        """Return the bytes of what a run writes."""
        paths = (self._folder / f"{run}.log", self._folder / _REPORTS / f"{run}.report.jsonl")
        return sum(path.stat().st_size for path in paths if path.exists())

    def _failed(self, what: str, words: str) -> RetryableError:
        said = f"; it said: {words}" if words else ""
        return RetryableError("RedTeamFailed", f"garak{self._of_image} {what}{said}")


def _end_of(text: str) -> str:
    plain = COLOURS.sub("", text)
    lines = [line.strip()[-MAX_LINE:] for line in plain.splitlines() if line.strip()]
    return " | ".join(lines[-NUM_LAST_LINES:])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
