"""An evaluation whose models are attacked: by the container's own loop, with what garak wrote.

The garak that it runs writes what a real one wrote; a real one asks a real server in tests/serving.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluate.redteam.reading import read_report
from support.engine_server import engine_stub
from support.eventually import eventually
from support.garak_container import stand_beside
from support.garak_files import FOLDER, PROBES, REPORTS
from support.stages import Workbench
from trainer.test_engine import fork_served, reader_of, report_of

GARAK = f"""\
#!{sys.executable} -I
import json, os, sys, time
from pathlib import Path
recorded, here = Path({str(FOLDER)!r}), Path.cwd()
if sys.argv[1] == "--list_probes":
    print((recorded / "listing.txt").read_text(encoding="utf-8"))
    sys.exit()
run = sys.argv[2].removesuffix(".yaml")
side, probe = run.split("-")[0], json.loads(Path(sys.argv[2]).read_text())["run"]["spec"]["include"]
out = Path(os.environ["XDG_DATA_HOME"], "garak", "garak_runs")
out.mkdir(parents=True, exist_ok=True)
(here / f"{{run}}.begun").touch()
if (here / f"{{run}}.stuck").exists():
    time.sleep(600)
if (here / f"{{run}}.unable").exists():
    print("detector load failed: x.Y")
    print("No detectors, nothing to do")
    sys.exit()
lines = []
for line in (recorded / f"{{side}}.report.jsonl").read_text(encoding="utf-8").splitlines(True):
    of = json.loads(line)
    if of.get("probe_classname", of.get("probe", probe[0][7:])) == probe[0][7:]:
        lines.append(line)
if (here / f"{{run}}.broken").exists():
    lines = lines[:3]
    print("ValueError: what a model said")
(out / f"{{run}}.report.jsonl").write_text("".join(lines), encoding="utf-8")
"""


@contextmanager
def beside(workbench: Workbench, folder: Path) -> Iterator[Path]:
    """Run garak's container beside a stage; yields the folder that both share."""
    program = folder.with_name("programs") / "garak"
    program.parent.mkdir(exist_ok=True)
    program.write_text(GARAK)
    program.chmod(0o755)
    with stand_beside(program.parent, folder, image="garak:v9") as told:
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


def test_a_garak_that_breaks_fails_the_attempt_and_its_log_lies_with_the_run(
    attacked: Workbench, tmp_path: Path
) -> None:
    with serving(attacked), beside(attacked, tmp_path / "garak") as folder:
        (folder / "tuned-2.broken").touch()
        ended = attacked.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (75, "RedTeamFailed"), ended.messages
    message = ended.failure["message"]
    assert f"ended before its end at {PROBES[2]} against the tuned model" in message
    assert "what a model said" not in message
    assert "evaluate-garak.log" in message
    log = (attacked.run_folder / "logs" / "evaluate-garak.log").read_text()
    assert "ValueError: what a model said" in log
    assert not (attacked.run_folder / "evaluation").exists()


def test_where_a_red_team_only_warns_the_job_goes_on_without_and_says_so(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = make_attacked(undisturbed[0], tmp_path, severity="Warn")
    with serving(workbench), beside(workbench, tmp_path / "garak") as folder:
        (folder / "tuned-2.broken").touch()
        ended = workbench.run_to("evaluate")
    assert "goes on without" in ended.messages
    result = report_of(workbench)["result"]
    assert "ended before its end" in result["redTeam"]["failure"]
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
        (Path(attacked.env["FINETUNE_ENGINE_DIR"]) / "ended").touch()
        ended = attacked.finish(process)
    assert (ended.exit_code, ended.failure["reason"]) == (75, "EngineFailed"), ended.messages


def test_a_stage_that_was_told_of_no_garak_says_so(attacked: Workbench) -> None:
    ended = attacked.run("evaluate")
    assert (ended.exit_code, ended.failure["reason"]) == (64, "RedTeamMissing")
