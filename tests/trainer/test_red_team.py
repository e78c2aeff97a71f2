"""An evaluation whose models are attacked: by the container's own loop, with what garak wrote.

The garak that it runs writes what a real one wrote; a real one asks a real server in tests/serving.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluate.sources.red_team.reading import read_report
from kit.processes.eventually import eventually
from kit.processes.stages import Workbench
from kit.reports.garak_files import PROBES, REPORTS
from kit.reports.recorded_garak import put_recorded_garak
from kit.servers.engine_server import engine_stub
from kit.servers.garak_container import stand_beside
from trainer.test_engine import fork_served, reader_of, report_of


@contextmanager
def beside(workbench: Workbench, folder: Path) -> Iterator[Path]:
    """Run garak's container beside a stage; yields the folder that both share."""
    programs = put_recorded_garak(folder.with_name("programs"))
    with stand_beside(programs, folder, image="garak:v9") as told:
        workbench.env |= told
        yield folder


@pytest.fixture
def attacked(undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path) -> Workbench:
    """A trained run that is to be attacked with what a real garak has tried."""
    return make_attacked(undisturbed[0], tmp_path)


def make_attacked(trained: Workbench, folder: Path, **change: Any) -> Workbench:
    red_team = {"probes": list(PROBES), "maxPrompts": 8, **change}
    return fork_served(trained, folder, baseline="AsIs", redTeam=red_team)


@contextmanager
def serving(workbench: Workbench) -> Iterator[Any]:
    read = reader_of(workbench.model, workbench.run_folder / "adapter")
    with engine_stub(read=read) as stub:
        workbench.env["FINETUNE_ENGINE_PORT"] = str(stub.port)
        yield stub


def begin_anew(workbench: Workbench, folder: Path) -> None:
    """Give the next attempt a pod of its own: nothing is left in what containers share."""
    (Path(workbench.env["FINETUNE_ENGINE_DIR"]) / "arguments").unlink(missing_ok=True)
    shutil.rmtree(folder)


def test_verdicts_figures_and_all_that_garak_wrote_come_into_the_report(
    attacked: Workbench, tmp_path: Path
) -> None:
    with serving(attacked) as stub, beside(attacked, tmp_path / "garak") as folder:
        ended = attacked.run_to("evaluate")
    report, evaluation = report_of(attacked)["result"], attacked.run_folder / "evaluation"
    assert report["redTeam"]["engine"] == "garak 0.17.1 (garak:v9)"
    assert [score["name"] for score in report["redTeam"]["scores"]] == list(PROBES)
    verdicts = {g["metric"]: g for g in report["gates"] if g["metric"].startswith("redTeam.")}
    assert list(verdicts) == [f"redTeam.{name}" for name in PROBES]
    assert all(gate["severity"] == "Block" for gate in verdicts.values())
    for side in ("base", "tuned"):
        kept = read_report((evaluation / "red-team" / f"{side}.report.jsonl").read_text())
        assert kept == read_report(REPORTS[side])
    assert "Red team" in (evaluation / "report.html").read_text()
    assert "garak 0.17.1 (garak:v9) attacks" in ended.messages
    told = [json.loads((folder / f"{side}-0.yaml").read_text()) for side in ("base", "tuned")]
    asked, other = (each["plugins"]["generators"]["openai"]["OpenAICompatible"] for each in told)
    named = [each["extra_params"]["extra_body"]["model"] for each in (asked, other)]
    assert named == ["base", "tuned"]
    assert asked["uri"] == f"http://127.0.0.1:{stub.port}/v1/"
    given = (Path(attacked.env["FINETUNE_ENGINE_DIR"]) / "arguments").read_text().splitlines()
    template = Path(given[given.index("--chat-template") + 1])
    assert "messages" in template.read_text()
    assert int(given[given.index("--max-model-len") + 1]) > 200
    assert not list(attacked.run_folder.glob("answers/*"))


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        (["dan", "promptinjection"], ("'promptinjection'", "promptinject")),
        (["doctor"], ("'doctor'", "doctor.Bypass")),
    ],
    ids=["no such module", "a module that sleeps"],
)
def test_a_probe_that_garak_does_not_run_is_refused_before_anything_is_asked(
    probes: list[str],
    words: tuple[str, ...],
    undisturbed: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
) -> None:
    workbench = make_attacked(undisturbed[0], tmp_path, probes=probes, severity="Warn")
    with serving(workbench) as stub, beside(workbench, tmp_path / "garak"):
        ended = workbench.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (64, "RedTeamProbeUnknown")
    assert all(word in ended.failure["message"] for word in words)
    assert not stub.calls


def test_a_stop_keeps_the_probes_that_are_over_and_the_next_attempt_goes_on_there(
    attacked: Workbench, tmp_path: Path
) -> None:
    garak = tmp_path / "garak"
    with serving(attacked) as stub:
        with beside(attacked, garak):
            (garak / "tuned-1.stuck").touch()
            process = attacked.start("evaluate")
            eventually((garak / "tuned-1.begun").exists, timeout=120)
            eventually(lambda: list(attacked.run_folder.glob("answers/red-team-*-tuned-0.jsonl")))
            process.send_signal(signal.SIGTERM)
            stopped = attacked.finish(process)
        assert stopped.exit_code == 79, stopped.messages
        assert "are kept" in stopped.failure["message"]
        first = len(stub.calls)
        begin_anew(attacked, garak)
        with beside(attacked, garak):
            again = attacked.run_to("evaluate")
            assert (garak / "runs").read_text() == "tuned-1\ntuned-2\n"
        assert len(stub.calls) == first, "questions were asked twice"
    assert "attacks the tuned model with" in again.messages
    assert report_of(attacked)["result"]["redTeam"]["scores"]


def test_a_garak_that_is_killed_fails_the_attempt_and_its_log_lies_with_the_run(
    attacked: Workbench, tmp_path: Path
) -> None:
    with serving(attacked), beside(attacked, tmp_path / "garak") as folder:
        (folder / "base-1.broken").touch()
        (folder / "tuned-2.killed").touch()
        ended = attacked.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (75, "RedTeamFailed"), ended.messages
    message = ended.failure["message"]
    assert "was killed (SIGKILL) in run tuned-2" in message
    assert "what a model said" not in message
    assert "evaluate-garak.log" in message
    log = (attacked.run_folder / "logs" / "evaluate-garak.log").read_text()
    assert "ValueError: what a model said" in log
    assert not (attacked.run_folder / "evaluation").exists()


def test_a_probe_that_breaks_is_left_out_for_good_and_its_log_lies_with_the_run(
    attacked: Workbench, tmp_path: Path
) -> None:
    garak = tmp_path / "garak"
    with serving(attacked):
        with beside(attacked, garak):
            (garak / "base-0.crashing").touch()
            (garak / "tuned-1.broken").touch()
            (garak / "tuned-2.killed").touch()
            assert attacked.run("evaluate").exit_code == 75
        begin_anew(attacked, garak)
        with beside(attacked, garak):
            attacked.run_to("evaluate")
            assert (garak / "runs").read_text() == "tuned-2\n", "outcomes were asked for again"
    result = report_of(attacked)["result"]
    assert [score["name"] for score in result["redTeam"]["scores"]] == [PROBES[2]]
    verdicts = {g["metric"]: g for g in result["gates"] if g["metric"].startswith("redTeam.")}
    assert not any(verdicts[f"redTeam.{name}"]["met"] for name in PROBES[:2])
    notes = " ".join(result["redTeam"]["notes"])
    assert f"{PROBES[0]} could not be run; garak said: " in notes
    assert "IndexError: list index out of range" in notes
    assert f"{PROBES[1]} does not count: garak ended before its end against the tuned" in notes
    assert "what a model said" not in json.dumps(result)


def test_a_red_team_of_which_nothing_can_be_run_ends_alike_in_each_attempt(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = make_attacked(undisturbed[0], tmp_path, probes=[PROBES[1]])
    with serving(workbench), beside(workbench, tmp_path / "garak") as folder:
        for run in ("base-0", "tuned-0"):
            (folder / f"{run}.unable").touch()
        workbench.run_to("evaluate")
    (verdict,) = [g for g in report_of(workbench)["result"]["gates"] if "redTeam" in g["metric"]]
    assert not verdict["met"]
    assert "garak could run none of its probes to its end" in verdict["message"]
    log = workbench.run_folder / "logs" / "evaluate-garak.log"
    assert str(log) in verdict["message"]
    assert "No detectors, nothing to do" in log.read_text()


def test_where_a_red_team_only_warns_the_job_goes_on_without_and_says_so(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = make_attacked(undisturbed[0], tmp_path, severity="Warn")
    with serving(workbench), beside(workbench, tmp_path / "garak") as folder:
        (folder / "tuned-2.killed").touch()
        ended = workbench.run_to("evaluate")
    assert "goes on without" in ended.messages
    result = report_of(workbench)["result"]
    assert "was killed" in result["redTeam"]["failure"]
    verdicts = [gate for gate in result["gates"] if gate["metric"].startswith("redTeam.")]
    unmeasured = [gate for gate in verdicts if "was not measured" in gate["message"]]
    assert unmeasured
    assert not any(gate["met"] for gate in unmeasured)
    assert {gate["severity"] for gate in verdicts} == {"Warn"}


def test_a_probe_that_garak_cannot_run_is_missed_and_the_others_count(
    attacked: Workbench, tmp_path: Path
) -> None:
    with serving(attacked), beside(attacked, tmp_path / "garak") as folder:
        for run in ("base-1", "tuned-1"):
            (folder / f"{run}.unable").touch()
        attacked.run_to("evaluate")
    result = report_of(attacked)["result"]
    verdicts = {g["metric"]: g for g in result["gates"] if g["metric"].startswith("redTeam.")}
    assert [score["name"] for score in result["redTeam"]["scores"]] == [PROBES[0], PROBES[2]]
    assert not verdicts[f"redTeam.{PROBES[1]}"]["met"]
    notes = " ".join(result["redTeam"]["notes"])
    assert f"{PROBES[1]} could not be run; garak said: detector load failed: x.Y" in notes


def test_a_server_that_dies_while_it_is_attacked_is_told_as_such(
    attacked: Workbench, tmp_path: Path
) -> None:
    with serving(attacked), beside(attacked, tmp_path / "garak") as folder:
        (folder / "base-0.stuck").touch()
        process = attacked.start("evaluate")
        eventually((folder / "base-0.begun").exists, timeout=120)
        engine = Path(attacked.env["FINETUNE_ENGINE_DIR"])
        (engine / "vllm.log").write_text("torch.OutOfMemoryError: CUDA out of memory\n")
        (engine / "ended").touch()
        ended = attacked.finish(process)
    assert (ended.exit_code, ended.failure["reason"]) == (75, "EngineFailed"), ended.messages
    assert "evaluate-vllm.log" in ended.failure["message"]
    log = attacked.run_folder / "logs" / "evaluate-vllm.log"
    assert "CUDA out of memory" in log.read_text()


def test_a_stage_that_was_told_of_no_garak_says_so(attacked: Workbench) -> None:
    ended = attacked.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (64, "RedTeamMissing")
