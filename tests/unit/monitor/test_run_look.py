"""A whole look, from a version and its traffic in storage to the words for the operator."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from finetune_api.protocol.monitoring import REPORT_PAGE, TASK, LookReport
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.monitor import running
from finetune_trainer.monitor.__main__ import main
from finetune_trainer.monitor.running import HISTORY_KEY, REPORT_KEY, STATE_KEY, run_look
from kit.serving.monitored import MonitoredVersion


def signal(report: LookReport, name: str) -> str | None:
    (found,) = (each.since for each in report.signals if each.name == name)
    return found


@pytest.fixture
def world(tmp_path: Path) -> MonitoredVersion:
    return MonitoredVersion(tmp_path)


def test_a_look_tells_what_has_changed_and_since_when(world: MonitoredVersion) -> None:
    for hour in range(8):
        world.capture(hour, answer="" if hour < 3 else "bad")
    reports = [world.look(hour + 1) for hour in range(8)]
    assert [each.num_looks for each in reports] == list(range(8))
    assert not any(each.since for each in reports[2].signals)
    assert signal(reports[-1], "Labels") == "2026-01-01T04:00:00.000Z"
    assert signal(reports[-1], "PromptLength") is None
    assert list(world.scratch.iterdir()) == []


def test_a_look_tells_the_smallest_change_and_when_the_first_comparison_is(
    world: MonitoredVersion,
) -> None:
    world.capture(0)
    first = world.look(1)
    assert (first.compares_from, first.num_users) == ("2026-01-01T02:00:00.000Z", 100)
    world.capture(1)
    smallest = {each.name: float(each.smallest or 0) for each in world.look(2).signals}
    assert 0 < smallest["Refusals"] < smallest["Labels"] < 1


def test_the_page_does_not_call_unchanged_what_it_could_not_find(world: MonitoredVersion) -> None:
    for hour in range(2):
        world.capture(hour)
        world.look(hour + 1)
    page = world.traffic.read_bytes(REPORT_PAGE).decode()
    assert "Labels/bad" in orjson.loads(world.traffic.read_bytes(REPORT_KEY))["unseen"]
    assert 'class="verdict met"' not in page


def test_a_change_ends_when_traffic_is_as_it_was(world: MonitoredVersion) -> None:
    for hour in range(6):
        world.capture(hour, answer="bad" if 2 <= hour < 5 else "")
        report = world.look(hour + 1)
        assert (signal(report, "Labels") is not None) == (2 <= hour < 5) if hour else True


def test_personal_data_of_training_counts_as_it_does_in_the_traffic(
    world: MonitoredVersion,
) -> None:
    """Addresses of training rows stay out of the reference, as they do of captured answers."""
    for hour in range(16):
        world.capture(hour)
        report = world.look(hour + 1, signals=["PromptLength"])
    assert report.num_looks == 15
    assert not any(each.since for each in report.signals)


def test_an_endpoint_without_answers_has_no_looks(world: MonitoredVersion) -> None:
    report = world.look(5)
    assert (report.num_looks, report.num_answers, report.num_users) == (0, 0, 0)
    assert report.signals == []


def test_a_look_that_comes_too_early_tells_what_is_known(world: MonitoredVersion) -> None:
    world.capture(0)
    assert world.look(1).num_answers == 100
    assert world.look(1).num_answers == 100


def test_signals_that_the_data_do_not_have_are_refused(world: MonitoredVersion) -> None:
    world.capture(0)
    with pytest.raises(UserError) as error:
        world.look(1, signals=["InvalidJson"])
    assert error.value.reason == "NothingToWatch"


def test_another_manifest_than_that_of_the_version_is_refused(world: MonitoredVersion) -> None:
    task = world.task(1)
    active = task.active.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StorageError) as error:
        run_look(task.model_copy(update={"active": active}), folder=world.scratch)
    assert error.value.reason == "OtherVersion"


def test_a_clock_that_went_back_by_days_is_told(world: MonitoredVersion) -> None:
    world.capture(0)
    world.look(24 * 300)
    with pytest.raises(StorageError) as error:
        world.look(24)
    assert error.value.reason == "ClockMovedBack"
    assert STATE_KEY in error.value.message


def test_the_process_leaves_its_report_or_why_there_is_none(
    world: MonitoredVersion, tmp_path: Path
) -> None:
    world.capture(0)
    log = tmp_path / "words"
    task = world.task(1)
    environment = {
        TASK: task.model_dump_json(by_alias=True, exclude_none=True),
        "FINETUNE_WORK_DIR": str(world.scratch),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_TERMINATION_LOG", str(log))
        assert main(environment) == 0
        assert LookReport.model_validate_json(log.read_text()).num_answers == 100
        world.manifest.unlink()
        assert main(environment) == 73
    told = LookReport.model_validate_json(log.read_text())
    assert (told.reason, told.num_looks) == ("ObjectNotFound", 0)
    assert str(world.manifest) in told.message


def test_the_page_shows_each_signal_then_and_now_and_over_time(world: MonitoredVersion) -> None:
    for hour in range(8):
        world.capture(hour, answer="" if hour < 3 else "bad")
        world.look(hour + 1)
    page = world.traffic.read_bytes(REPORT_PAGE).decode()
    assert "Labels has changed: found 2026-01-01 04:00" in page
    assert "Traffic of shop/copy" in page
    assert 'aria-label="Labels/bad over time, from 2026-01-01 02:00 to 2026-01-01 08:00"' in page
    assert 'aria-label="PromptLength then and now' in page
    assert page.index("<h3>Labels/bad</h3>") < page.index("<h3>Errors</h3>")
    assert "<script" not in page
    assert "example.com" not in page
    history = orjson.loads(world.traffic.read_bytes(HISTORY_KEY))["looks"]
    assert [round(look["means"]["Labels/bad"], 1) for look in history][2:] == [1.0] * 5
    world.traffic.write_bytes(HISTORY_KEY, b"{")
    world.look(9)
    assert world.traffic.read_bytes(REPORT_PAGE)


def test_the_page_names_the_answers_that_moved_most(world: MonitoredVersion) -> None:
    for hour in range(8):
        world.capture(hour, answer="bad" if hour else "")
        world.look(hour + 1, signals=["Labels"])
    report = orjson.loads(world.traffic.read_bytes(REPORT_KEY))
    assert report["exampleOf"].startswith("Labels/")
    assert len(report["examples"]) == 5
    assert report["examples"][0] in world.traffic.read_bytes(REPORT_PAGE).decode()


def test_answers_that_people_mark_as_bad_are_counted_by_the_users_who_got_them(
    world: MonitoredVersion,
) -> None:
    for hour in range(4):
        world.capture(hour)
        for number in range(80):
            world.rate(hour, number, "down" if number < (60 if hour > 1 else 8) else "up")
        report = world.look(hour + 1, signals=["ThumbsDown", "Errors"])
    assert signal(report, "ThumbsDown") == "2026-01-01T03:00:00.000Z"
    part = orjson.loads(world.traffic.read_bytes(REPORT_KEY))["parts"][1]
    assert (part["name"], part["referenceMean"], part["mean"]) == ("ThumbsDown", 0.08, 0.6)


def test_signals_that_are_added_or_left_out_later_keep_the_reference_of_the_others(
    world: MonitoredVersion,
) -> None:
    for hour in range(4):
        world.capture(hour, answer="bad" if hour else "")
        report = world.look(hour + 1, signals=["Labels", "Errors"])
    assert signal(report, "Labels")
    world.capture(4, answer="bad")
    report = world.look(5, signals=["Labels", "Refusals"])
    assert [each.name for each in report.signals] == ["Labels"]
    assert signal(report, "Labels")
    assert report.num_looks == 4


@pytest.mark.parametrize("what", ["window", "share", "measures"])
def test_a_reference_is_gathered_anew_where_it_is_no_longer_comparable(
    world: MonitoredVersion, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    for hour in range(9):
        world.capture(hour)
    assert [world.look(hour).num_looks for hour in (1, 2)] == [0, 1]
    window = "2h" if what == "window" else "1h"
    if what == "measures":
        monkeypatch.setattr(running, "MEASURES", running.MEASURES + 1)

    def look(hour: int) -> LookReport:
        task = world.task(hour, window=window).model_copy(
            update={"share": "0.5" if what == "share" else ""}
        )
        return run_look(task, folder=world.scratch)

    found = [look(hour) for hour in (3, 4, 5, 6, 7)]
    expected = [0, 0, 0, 0, 1] if what == "window" else [0, 0, 1, 2, 3]
    assert [each.num_looks for each in found] == expected
    assert all("new reference" in each.note for each in found)


def test_storage_that_is_away_is_told_and_the_next_look_makes_up_for_it(
    world: MonitoredVersion, tmp_path: Path
) -> None:
    world.capture(0)
    world.capture(1)
    task = world.task(1)
    away = tmp_path / "away"
    away.write_text("no folder")
    traffic = task.traffic.model_copy(update={"uri": away.as_uri()})
    with pytest.raises(StorageError):
        run_look(task.model_copy(update={"traffic": traffic}), folder=world.scratch)
    assert list(world.scratch.iterdir()) == []
    report = world.look(2)
    assert (report.num_looks, report.num_answers) == (0, 100)
