"""`finetune run` with a scripted trainer: order, exit codes, retries, stopping, resuming."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from kit.cases.spec_cases import changed, minimal_job
from kit.cluster.devcluster import start_ticks
from kit.models.tiny_models import make_model
from kit.processes.cli import Cli, Finished
from kit.processes.disks import needs_root, small_disk
from kit.processes.eventually import eventually
from kit.processes.stages import write_rows


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    body = changed(
        minimal_job(),
        {
            "spec.goal": {"metric": "exactMatch", "atLeast": "0.80", "overBase": "0.30"},
            "spec.dataset.sources.0.uri": "file://./data.jsonl",
            "spec.output.uri": "file://./out",
        },
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    return Cli(tmp_path)


def work_dir(cli: Cli) -> Path:
    (folder,) = (cli.cache / "finetune" / "runs").iterdir()
    return folder


def test_three_stages_run_and_the_result_is_shown(cli: Cli) -> None:
    done = cli("run", "job.yaml")
    assert done.code == 0, done.err
    starts = [line for line in done.out.splitlines() if line.endswith(": started")]
    assert all(re.match(r"[0-2]\d:[0-5]\d:[0-5]\d ", line) for line in starts)
    order = [line.split()[1].split(":")[0] for line in starts]
    assert order == ["prepare", "train", "evaluate"]
    assert "step 2/2, loss 1.5" in done.out
    assert _row(done.out, "exactMatch")[:4] == ["exactMatch", "0.3300", "0.9100", "+0.5800"]
    assert "[0.8600, 0.9500]" in done.out
    assert "[0.5000, 0.6600]" in done.out
    assert ">= 0.80, +0.30" in done.out
    assert "120 held-out samples" in done.out
    assert "ab" * 32 in done.out
    assert "version  3" in done.out


def test_a_job_that_needs_a_server_is_refused_before_it_trains(cli: Cli) -> None:
    refused = cli("run", "job.yaml", "--set", "evaluation.engine=VLLM")
    assert refused.code == 64
    assert "evaluation.engine VLLM" in refused.err
    assert "--set evaluation.engine=Transformers" in refused.err
    assert "started" not in refused.out
    until = cli("run", "job.yaml", "--set", "evaluation.engine=VLLM", "--until", "train")
    assert until.code == 0, until.err


def test_a_job_that_needs_a_red_team_is_refused_before_it_trains(cli: Cli, tmp_path: Path) -> None:
    body = yaml.safe_load((tmp_path / "job.yaml").read_text())
    body["spec"]["evaluation"] = {"engine": "VLLM", "redTeam": {"probes": ["dan"]}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    cli.environment["FINETUNE_ENGINE_DIR"] = str(tmp_path)
    refused = cli("run", "job.yaml")
    assert refused.code == 64
    assert "evaluation.redTeam" in refused.err
    assert "take redTeam out" in refused.err
    assert "started" not in refused.out
    until = cli("run", "job.yaml", "--until", "train")
    assert until.code == 0, until.err


def test_a_run_goes_no_further_than_it_is_asked_and_then_on_from_there(cli: Cli) -> None:
    first = cli("run", "job.yaml", "--until", "train")
    assert first.code == 0, first.err
    assert "train: done" in first.out
    assert "evaluate" not in first.out
    assert "adapter  " in first.out
    results = json.loads(cli("run", "job.yaml", "--until", "evaluate", "-o", "json").out)["results"]
    assert list(results) == ["prepare", "train", "evaluate"]


def _row(text: str, metric: str) -> list[str]:
    return next(line.split() for line in text.splitlines() if line.strip().startswith(metric))


@pytest.mark.parametrize("columns", ["80", "60"])
def test_tables_keep_their_content_in_a_narrow_window(cli: Cli, columns: str) -> None:
    cli.environment["COLUMNS"] = columns
    text = cli("run", "job.yaml").out
    assert _row(text, "exactMatch")[1] == "0.3300"
    assert columns == "60" or "\N{HORIZONTAL ELLIPSIS}" not in text


def test_stages_get_the_job_with_absolute_paths_and_a_stable_uid(cli: Cli) -> None:
    cli("run", "job.yaml")
    first = json.loads((work_dir(cli) / "job.json").read_text())
    assert first["uid"].startswith("local-")
    assert first["spec"]["output"]["uri"] == f"file://{cli.folder}/out"
    assert first["spec"]["dataset"]["sources"][0]["uri"] == f"file://{cli.folder}/data.jsonl"
    cli("run", "job.yaml")
    assert json.loads((work_dir(cli) / "job.json").read_text()) == first


def test_fresh_run_gets_another_uid(cli: Cli) -> None:
    cli("run", "job.yaml")
    cli("run", "job.yaml", "--fresh")
    assert len(list((cli.cache / "finetune" / "runs").iterdir())) == 2


def test_options_change_the_job(cli: Cli) -> None:
    done = cli(
        "run",
        "job.yaml",
        *("--set", "hyperparameters.epochs=1", "--set", "spec.method.adapter.rank=8"),
        *("--set", "dataset.sources.0.uri=file://./other.jsonl"),
        *("--output-dir", "elsewhere", "--namespace", "team-a", "--work-dir", "scratch"),
    )
    assert done.code == 0, done.err
    job = json.loads((cli.folder / "scratch" / "job.json").read_text())
    assert job["namespace"] == "team-a"
    assert job["spec"]["hyperparameters"]["epochs"] == "1"
    assert job["spec"]["method"]["adapter"]["rank"] == 8
    assert job["spec"]["output"]["uri"] == f"file://{cli.folder}/elsewhere"
    assert job["spec"]["dataset"]["sources"][0]["uri"] == f"file://{cli.folder}/other.jsonl"


@pytest.mark.parametrize("code", [64, 65, 73, 77])
def test_exit_code_of_a_failed_stage_passes_through(cli: Cli, code: int) -> None:
    cli.script(train=[f"fail:{code}"])
    done = cli("run", "job.yaml")
    assert done.code == code
    assert f"stage train failed (Scripted): told to fail with {code}" in done.err
    assert "evaluate: started" not in done.out
    assert ("run again" in done.err) == (code not in (64, 65))


def test_crash_shows_the_end_of_the_log(cli: Cli) -> None:
    cli.script(prepare=["crash"])
    done = cli("run", "job.yaml")
    assert done.code == 70
    assert "Traceback: something nobody foresaw" in done.err
    assert "logs/prepare.log" in done.err


def test_stage_killed_from_outside_is_told(cli: Cli) -> None:
    cli.script(train=["kill"])
    done = cli("run", "job.yaml")
    assert done.code == 137
    assert "killed by signal 9, most likely for lack of memory" in done.err


def test_end_without_result_is_a_failure(cli: Cli) -> None:
    cli.script(train=["garbage"])
    done = cli("run", "job.yaml")
    assert done.code == 70
    assert "a library prints to stdout" in (work_dir(cli) / "logs" / "train.log").read_text()


def test_missed_goal_ends_with_one(cli: Cli) -> None:
    cli.script(evaluate=["missed"])
    done = cli("run", "job.yaml")
    assert done.code == 1
    assert "GOAL MISSED, nothing was published: exactMatch 0.5 is below 0.8" in done.out
    assert "version " not in done.out


def test_a_data_set_that_needs_an_approval_is_not_trained_on_before(cli: Cli) -> None:
    asking = ("run", "job.yaml", "--set", "dataset.approval=Required")
    held = cli(*asking)
    assert held.code == 1
    assert "train: started" not in held.out
    assert "480 training, 0 validation, 120" in held.err
    assert "report: file:///out/datasets/d1/report.html" in held.err
    told = held.err.rstrip().splitlines()[-1].split()
    assert told[0] == "finetune"
    assert told[-2:] == ["--approve-data", "d1"]
    other = cli(*asking, "--approve-data", "d2", "-o", "json")
    assert other.code == 1
    assert json.loads(other.out)["unapprovedData"] == "d1"
    assert "nobody has approved data set d1; what was approved is d2" in other.err
    assert "--approve-data d2" not in other.err
    done = cli(*told[1:])  # the fake trainer takes d1 alone
    assert (done.code, "evaluate: started" in done.out) == (0, True)
    assert "--data-digest d1" in (work_dir(cli) / "logs" / "train.log").read_text()


def test_an_approval_is_kept_to_also_where_the_job_does_not_ask_for_one(cli: Cli) -> None:
    held = cli("run", "job.yaml", "--approve-data=d2")
    assert held.code == 1
    assert held.err.rstrip().endswith("finetune run job.yaml --approve-data d1")


def test_json_is_alone_on_stdout(cli: Cli) -> None:
    done = cli("run", "job.yaml", "-o", "json")
    body = json.loads(done.out)
    assert body["exitCode"] == 0
    assert body["results"]["train"]["sha256"] == "ab" * 32
    assert "train: started" in done.err
    cli.script(train=["ok", "fail:65"])
    failed = json.loads(cli("run", "job.yaml", "-o", "json", "--result", "result.json").out)
    assert json.loads((cli.folder / "result.json").read_text()) == failed
    assert failed["failure"]["reason"] == "Scripted"
    assert failed["failure"]["stage"] == "train"


@pytest.mark.parametrize("stages", [{}, {"train": ["fail:65"]}])
def test_result_that_cannot_be_written_costs_nothing_else(cli: Cli, stages: dict) -> None:
    cli.script(**stages)
    done = cli("run", "job.yaml", "--result", "/dev/full")
    assert "cannot write the result to /dev/full: No space left on device" in done.err
    assert "Traceback" not in done.err
    if stages:
        assert done.code == 65
        assert "stage train failed" in done.err
    else:
        assert done.code == 73
        assert _row(done.out, "exactMatch")[2] == "0.9100"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_saves_and_the_same_command_resumes(cli: Cli, number: signal.Signals) -> None:
    cli.script(train=["hang", "ok"])
    with cli.start("run", "job.yaml") as process:
        eventually(lambda: list(cli.cache.glob("finetune/runs/*/hanging")), timeout=60)
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()  # else what hangs here fails tests that come later
    assert process.returncode == 79, out + err
    assert "stopped in stage train after saving step 1" in err
    assert "finetune run job.yaml" in err
    assert cli("run", "job.yaml").code == 0


def stop_at(process: subprocess.Popen[str], line: str, number: signal.Signals) -> Finished:
    """Send a signal once a line is printed, and return how the command ended."""
    seen: list[str] = []
    assert process.stdout is not None
    for text in process.stdout:
        seen.append(text)
        if line in text:
            break
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    return Finished(code=process.returncode, out="".join(seen) + out, err=err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("script", "line", "where"),
    [
        ({"train": ["fail:75", "ok"]}, "trying again in", "before stage train ran; what is stored"),
        ({"prepare": ["hang", "ok"]}, "prepare: started", ""),
        ({"prepare": ["late"]}, "prepare of example begins", "before stage train ran; what is"),
    ],
    ids=["between attempts", "as a stage starts", "as a stage ends"],
)
def test_a_stop_at_any_moment_is_one_line_and_the_run_goes_on_later(
    cli: Cli, script: dict[str, list[str]], line: str, where: str, number: signal.Signals
) -> None:
    cli.script(**script)
    done = stop_at(cli.start("run", "job.yaml"), line, number)
    assert done.code == 79, done.out + done.err
    (told,) = done.err.splitlines()
    assert told.startswith(f"error: stopped {where}")
    assert told.endswith("To go on: finetune run job.yaml")
    cli.script()
    assert cli("run", "job.yaml").code == 0


def test_ctrl_c_ends_any_command_with_a_line(cli: Cli) -> None:
    with cli.start("validate", "job.yaml", "-") as process:
        done = stop_at(process, "is valid", signal.SIGINT)  # it waits for its standard input
    assert (done.code, done.err) == (79, "error: stopped by Ctrl-C\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cli, str]:
    """A folder with a job for a tiny model, and the digest of what an undisturbed run trains."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "model")
    write_rows(folder / "rows.jsonl")
    body = changed(
        minimal_job(),
        {
            "spec.model": {"uri": "file://./model"},
            "spec.dataset": {"sources": [{"uri": "file://./rows.jsonl"}]},
            "spec.hyperparameters": {
                "maxSteps": 8,
                "maxSequenceLength": 128,
                "globalBatchSize": 4,
            },
            "spec.checkpoint": {"everySteps": 2},
            "spec.evaluation": {"minPrompts": 5},
            "spec.output.uri": "file://./out",
            "spec.resources": {"gpusPerNode": 0},
        },
    )
    (folder / "job.yaml").write_text(yaml.safe_dump(body))
    cli = Cli(folder, use_fake_trainer=False)
    cli.environment["OMP_NUM_THREADS"] = "1"
    done = cli("run", "job.yaml", "--fresh", "--until", "train", "-o", "json")
    assert done.code == 0, done.err
    return cli, json.loads(done.out)["results"]["train"]["sha256"]


@pytest.mark.slow
def test_a_training_stopped_by_ctrl_c_goes_on_to_the_same_adapter(trained: tuple[Cli, str]) -> None:
    cli, undisturbed = trained
    old = set(cli.folder.glob("out/runs/*/*/*/checkpoints/step-*"))
    with cli.start("run", "job.yaml", "--until", "train") as process:
        steps = "out/runs/*/*/*/checkpoints/step-*"
        eventually(lambda: set(cli.folder.glob(steps)) - old, timeout=120)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 79
    (told,) = err.splitlines()
    assert told.startswith("error: stopped in stage train ")
    assert told.endswith("To go on: finetune run job.yaml --until train")
    again = cli("run", "job.yaml", "--until", "train", "-o", "json")
    result = json.loads(again.out)["results"]["train"]
    assert result["resumedFromStep"] >= 2
    assert result["sha256"] == undisturbed


def test_a_second_run_into_the_same_output_is_refused_whatever_its_work_folder(cli: Cli) -> None:
    cli.script(train=["hang", "ok"])
    with cli.start("run", "job.yaml") as process:
        eventually(lambda: list(cli.cache.glob("finetune/runs/*/hanging")), timeout=60)
        second = cli("run", "job.yaml", "--work-dir", "elsewhere")
        process.terminate()
        process.communicate(timeout=60)
    assert second.code == 64
    (told,) = second.err.splitlines()
    assert told.startswith(f"error: another run writes to {cli.folder}/out/runs/default/example/")
    assert f"(process {process.pid} on " in told
    assert told.endswith("--output-dir")
    assert "started" not in second.out
    cli.script()
    assert cli("run", "job.yaml", "--work-dir", "elsewhere").code == 0
    assert not list(cli.folder.glob("out/runs/*/*/*/.run.lock"))


@needs_root
@pytest.mark.parametrize(
    ("option", "code", "is_read_only", "words"),
    [
        ("--output-dir", 73, False, "No space left on device; free space there, or name another"),
        ("--output-dir", 73, True, "Read-only file system; name another folder with --output-dir"),
        ("--work-dir", 73, False, "No space left on device; free space there, or name another"),
        ("--work-dir", 64, True, "Read-only file system; name another folder with --work-dir"),
    ],
)
def test_a_folder_that_takes_nothing_is_told_before_any_work(
    cli: Cli, option: str, code: int, is_read_only: bool, words: str
) -> None:
    disk = cli.folder / "disk"
    with small_disk(disk, "64k", is_read_only=is_read_only):
        if not is_read_only:
            _fill(disk / "filling")
        done = cli("run", "job.yaml", option, str(disk))
    assert done.code == code
    (told,) = done.err.splitlines()
    assert told.startswith("error: ")
    assert str(disk) in told
    assert words in told
    assert "started" not in done.out


def _fill(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


def test_second_run_of_the_same_job_is_refused_while_the_first_works(cli: Cli) -> None:
    cli.script(train=["hang"])
    process = cli.start("run", "job.yaml")
    eventually(lambda: list(cli.cache.glob("finetune/runs/*/hanging")), timeout=60)
    second = cli("run", "job.yaml")
    assert second.code == 64
    assert f"running already (process {process.pid}" in second.err
    process.terminate()
    process.communicate(timeout=60)


def test_stage_stops_when_the_cli_is_killed(cli: Cli) -> None:
    cli.script(train=["hang"])
    process = cli.start("run", "job.yaml")
    (mark,) = eventually(lambda: list(cli.cache.glob("finetune/runs/*/hanging")), timeout=60)
    stage = int(eventually(mark.read_text, timeout=10))
    process.kill()
    process.communicate()
    eventually(lambda: start_ticks(stage) is None, timeout=20)


def test_machine_without_gpu_is_told_and_allowed(cli: Cli) -> None:
    cli.environment["CUDA_VISIBLE_DEVICES"] = ""
    done = cli("run", "job.yaml")
    assert "no GPU on this machine: running on CPU, with 1 process" in done.out
    done = cli("run", "job.yaml", "--set", "resources.gpusPerNode=0")
    assert "no GPU" not in done.out
