"""garak beside the stage: what is waited for, and what is said when it does not come to its end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.errors import RetryableError, UserError
from finetune_trainer.evaluate.sources.red_team.container import LIST_SECONDS, SILENT_SECONDS, Garak
from kit.reports.garak_files import LISTING, attempt, report


class Clock:
    """Time that passes only where somebody waits; things happen at their moments.

    Attributes:
        now: Seconds that have passed.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._then: list[tuple[float, Callable[[], object]]] = []

    def at(self, seconds: float, act: Callable[[], object]) -> None:
        self._then.append((seconds, act))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = [act for at, act in self._then if at <= self.now]
        self._then = [each for each in self._then if each[0] > self.now]
        for act in due:
            act()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def garak(tmp_path: Path, clock: Clock) -> Garak:
    return Garak(tmp_path, image="garak:v9", wait=clock.wait, clock=lambda: clock.now)


def list_probes(folder: Path, text: str, code: int = 0) -> None:
    (folder / "listing").write_text(text)
    (folder / "listed").write_text(f"{code}\n")


def write_report(folder: Path, side: str, text: str) -> None:
    path = folder / "data" / "garak" / "garak_runs" / f"{side}.report.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def asked(number: int) -> str:
    return report(*(attempt(str(n), "x", {}, status=1) for n in range(number)), is_complete=False)


def wait(garak: Garak, told: list[int] | None = None) -> str:
    return garak.wait_for_run(
        "base-0", tell=(told if told is not None else []).append, look=lambda: None
    )


def test_probes_are_waited_for(garak: Garak, clock: Clock, tmp_path: Path) -> None:
    clock.at(30, lambda: list_probes(tmp_path, LISTING))
    catalog = garak.wait_for_catalog()
    assert catalog.expand("dan")
    assert clock.now >= 30


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda folder: list_probes(folder, "sh: garak: not found\n", 127), "code 127"),
        (lambda folder: (folder / "ended").touch(), "ended before it listed"),
        (lambda folder: None, f"within {LIST_SECONDS:.0f} s"),
    ],
    ids=["no garak", "killed", "never"],
)
def test_a_garak_that_lists_nothing_is_a_failure(
    happens: Callable[[Path], None], words: str, garak: Garak, clock: Clock, tmp_path: Path
) -> None:
    clock.at(5, lambda: happens(tmp_path))
    with pytest.raises(RetryableError) as raised:
        garak.wait_for_catalog()
    assert raised.value.reason == "RedTeamFailed"
    assert words in raised.value.message
    assert "garak:v9" in raised.value.message


def test_what_it_said_instead_is_told(garak: Garak, tmp_path: Path) -> None:
    list_probes(tmp_path, "one\ntwo\nModuleNotFoundError: no torch\n", 1)
    with pytest.raises(RetryableError, match="ModuleNotFoundError: no torch"):
        garak.wait_for_catalog()


@pytest.mark.parametrize("version", ["0.9.0.4", "0.14.1", ""])
def test_a_garak_that_would_run_all_it_has_is_refused(
    version: str, garak: Garak, tmp_path: Path
) -> None:
    list_probes(tmp_path, LISTING.replace("v0.17.1", f"v{version}"))
    with pytest.raises(UserError) as raised:
        garak.wait_for_catalog()
    assert raised.value.reason == "RedTeamUnsuitable"
    assert (version or "unknown") in raised.value.message
    assert "garakImage" in raised.value.message


@pytest.mark.parametrize("version", ["0.15.1", "0.18.0", "1.0.0"])
def test_another_version_is_taken_as_it_is(version: str, garak: Garak, tmp_path: Path) -> None:
    list_probes(tmp_path, LISTING.replace("v0.17.1", f"v{version}"))
    assert garak.wait_for_catalog().version == version


def test_runs_are_begun_whole(garak: Garak, tmp_path: Path) -> None:
    garak.begin({"base-0": "{}", "tuned-0": "[]"})
    assert (tmp_path / "runs").read_text() == "base-0\ntuned-0\n"
    assert (tmp_path / "tuned-0.yaml").read_text() == "[]"


def test_a_run_is_waited_for_and_how_far_it_is_is_told(
    garak: Garak, clock: Clock, tmp_path: Path
) -> None:
    told: list[int] = []
    for number in (1, 2, 3):
        clock.at(100 * number, lambda n=number: write_report(tmp_path, "base-0", asked(n)))  # type: ignore[misc]
    clock.at(400, lambda: (tmp_path / "base-0.ended").write_text("0\n"))
    assert wait(garak, told) == asked(3)
    assert told == [1, 2, 3]


def test_a_garak_that_writes_nothing_for_long_counts_as_hung(
    garak: Garak, clock: Clock, tmp_path: Path
) -> None:
    clock.at(1000, lambda: (tmp_path / "base-0.log").write_text("loading"))
    with pytest.raises(RetryableError, match=f"wrote nothing for {SILENT_SECONDS:.0f} s"):
        wait(garak)
    assert 1000 + SILENT_SECONDS <= clock.now < 1010 + SILENT_SECONDS


def test_a_container_that_was_killed_is_waited_for_no_longer(
    garak: Garak, clock: Clock, tmp_path: Path
) -> None:
    clock.at(7, (tmp_path / "ended").touch)
    with pytest.raises(RetryableError, match="was killed in run base-0"):
        wait(garak)
    assert clock.now < 10


@pytest.mark.parametrize(("code", "words"), [("137", "SIGKILL"), ("143", "SIGTERM")])
def test_a_run_that_was_killed_is_no_outcome(
    code: str, words: str, garak: Garak, tmp_path: Path
) -> None:
    (tmp_path / "base-0.ended").write_text(f"{code}\n")
    with pytest.raises(RetryableError, match=f"was killed .{words}. in run base-0"):
        wait(garak)


def test_whoever_looks_may_end_the_wait(garak: Garak, clock: Clock) -> None:
    def look() -> None:
        if clock.now > 3:
            raise RetryableError("EngineFailed", "the server is gone")

    with pytest.raises(RetryableError, match="the server is gone"):
        garak.wait_for_run("base-0", tell=print, look=look)


def test_its_last_words_are_told_only_while_they_can_quote_no_answer(
    garak: Garak, tmp_path: Path
) -> None:
    (tmp_path / "base-0.ended").write_text("1\n")
    (tmp_path / "base-0.log").write_text("\x1b[1mBad\x1b[0m: URI is not reachable\n")
    assert garak.code_of("base-0") == "1"
    assert "it said: Bad: URI is not reachable" in garak.fail_run("base-0", "ended").message
    write_report(tmp_path, "base-0", asked(1))
    (tmp_path / "base-0.log").write_text("ValueError: a row of somebody\n")
    assert "a row" not in garak.fail_run("base-0", "ended").message
    (tmp_path / "data" / "garak" / "garak.log").write_text("the whole traceback\n")
    (tmp_path / "kept").mkdir()
    garak.keep_logs(tmp_path / "kept")
    assert "a row of somebody" in (tmp_path / "kept" / "garak.log").read_text()
    assert "traceback" in (tmp_path / "kept" / "garak-debug.log").read_text()


def test_a_stage_that_was_told_of_no_garak_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_RED_TEAM_DIR", raising=False)
    with pytest.raises(UserError) as raised:
        Garak.from_environment(print)
    assert raised.value.reason == "RedTeamMissing"
    assert "garakImage" in raised.value.message
