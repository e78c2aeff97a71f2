"""What ``finetune evaluate`` makes of a step of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.app import app
from finetune_cli.cluster.retry import make_retry, name_of_step
from finetune_cli.errors import CliError
from finetune_cli.files.documents import read_single
from finetune_cli.local.job import plan_run
from finetune_cli.local.plan import describe as describe_plan
from finetune_cli.reports.checkpoints import Step, find_weights
from finetune_cli.views.job import describe
from finetune_trainer.storage import StorageAccess, open_store
from kit.cases.spec_cases import minimal_job
from kit.processes.clock import START

STEPS = [
    Step(step=10, validation_loss=0.9),
    Step(step=20, stored="checkpoint", uri="x/checkpoints/step-20"),
    Step(step=20, stored="weights", uri="x/checkpoints/best-20"),
    Step(step=30, stored="checkpoint", uri="x/checkpoints/step-30"),
]


@pytest.mark.parametrize(
    ("step", "more", "uri"),
    [
        (30, [], "x/checkpoints/step-30"),
        (20, [], "x/checkpoints/best-20"),
        (20, [Step(step=20, stored="adapter", uri="x/adapter")], "x/adapter"),
    ],
)
def test_of_several_places_the_one_that_stays_is_taken(
    step: int, more: list[Step], uri: str
) -> None:
    assert find_weights([*STEPS, *more], step, of="headlines").uri == uri


@pytest.mark.parametrize(
    ("steps", "step", "said"),
    [
        (STEPS, 25, r"headlines has no such step that is known; stored are 20, 30"),
        (STEPS, 10, r"has measured it, .* stored are 20, 30\. .* checkpoint\.afterTraining"),
        ([], 10, r"no such step that is known; nothing is stored of it"),
    ],
)
def test_a_step_without_weights_is_refused_with_those_that_have_some(
    steps: list[Step], step: int, said: str
) -> None:
    with pytest.raises(CliError, match=said):
        find_weights(steps, step, of="headlines")


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("a", 200, "a-step-200"),
        ("b" * 50, 7, "b" * 45 + "-step-7"),
        ("c" * 44 + "-x", 7, "c" * 44 + "-step-7"),
    ],
)
def test_the_new_job_is_named_after_the_step(name: str, step: int, expected: str) -> None:
    assert name_of_step(name, step) == expected
    assert len(expected) <= 52


def trained() -> dict[str, Any]:
    body = minimal_job("headlines")
    body["metadata"] |= {"namespace": "team-a", "uid": "u1"}
    body["spec"] |= {"holdAfter": "Train", "prune": True, "resources": {"nodes": 4}}
    return body


def test_the_new_job_trains_nothing_and_takes_one_node() -> None:
    uri = "s3://models/runs/team-a/headlines/u1/checkpoints/best-20"
    body = make_retry(trained(), name="headlines-step-20", weights=uri, trains=False)
    assert body["metadata"] == {"name": "headlines-step-20", "namespace": "team-a"}
    spec = body["spec"]
    assert spec["initFrom"] == {"uri": uri, "train": False}
    assert spec["resources"] == {"nodes": 1}
    assert not {"holdAfter", "prune"} & spec.keys()
    assert spec["dataset"] == trained()["spec"]["dataset"]
    with pytest.raises(CliError, match="the evaluation of a step of headlines is not a valid"):
        make_retry(
            trained(), name="x", weights=uri, trains=False, overrides=["method.adapter.rank=0"]
        )


def test_the_retry_of_a_job_that_trained_nothing_trains_nothing() -> None:
    job = trained()
    job["spec"]["initFrom"] = {"uri": "s3://m/checkpoints/step-20", "train": False}
    spec = make_retry(job, name="x", weights="s3://models/adapter")["spec"]
    assert spec["initFrom"] == {"uri": "s3://models/adapter", "train": False}


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls the command on a file whose run has stored the best weights of step 20."""
    monkeypatch.chdir(tmp_path)
    body = minimal_job("headlines")
    body["spec"]["output"] = {"uri": "file://./out"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))
    run = plan_run(read_single("job.yaml"), namespace="default").job.run_prefix
    store = open_store(f"file://{tmp_path}/out", StorageAccess())
    store.write_bytes(f"{run}/checkpoints/best-20/manifest.json", b"{}")

    def call(*arguments: str) -> None:
        app(["evaluate", *arguments], standalone_mode=False)

    return call


def test_the_run_of_a_file_keeps_its_name(
    local: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local("job.yaml", "--step", "20", "--print")
    printed = tmp_path / "step-20.yaml"
    printed.write_text(capsys.readouterr().out)
    made = plan_run(read_single(str(printed)), namespace="default").job
    trained = plan_run(read_single("job.yaml"), namespace="default").job
    origin = made.spec.init_from
    assert origin is not None
    assert origin.uri == f"file://{tmp_path}/out/{trained.run_prefix}/checkpoints/best-20"
    assert made.spec.trains_nothing
    assert (made.versions_prefix, made.uid == trained.uid) == (trained.versions_prefix, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job.yaml",), "give --step, as finetune checkpoints lists it, or --from"),
        (("job.yaml", "--step", "20", "--from", "x"), "give --step"),
        (("job.yaml", "--step", "30"), "job.yaml has no such step that is known; stored are 20"),
        (("job.yaml", "--step", "20", "--name", "b"), "--name goes with a FineTuneJob"),
        (
            ("headlines", "--step", "20", "--output-dir", "out"),
            "go with a file; headlines is a name",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    local: Callable[..., None], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(CliError, match=said):
        local(*arguments)


def test_what_trains_nothing_says_so() -> None:
    job = trained()
    job["spec"]["initFrom"] = {"uri": "s3://m/checkpoints/step-20", "train": False}
    reason = "train is false: nothing is trained, the adapter is the weights of s3://m"
    job["status"] = {
        "plan": {"totalSteps": 0, "reasons": [{"name": "initFrom", "reason": reason}]},
        "artifact": {"uri": "s3://m/adapter", "originStep": 20},
    }
    lines = [" ".join(line.split()) for line in describe(job, [], START)]
    assert "Trains nothing, takes: s3://m/checkpoints/step-20" in lines
    assert {"Steps: none", f"Why: {reason}", "Taken after step: 20"} <= set(lines)


def test_a_plan_without_steps_estimates_no_training() -> None:
    memory = {"total": 1, "onEach": 1, "available": 2}
    evaluation = {"workers": 1, "gpusPerWorker": 0, "memory": memory, "decidedBy": "the weights"}
    told = {"rows": 5, "tokens": 50, "parameters": 9, "totalSteps": 0, "precision": "Float32"}
    reasons = [{"name": "initFrom", "reason": "nothing is trained"}]
    text = describe_plan(
        {
            "plan": {**told, "reasons": reasons},
            "device": "CPU",
            "podMemory": 0,
            "time": {"tokens": 0, "tokensPerSecond": 0.0, "seconds": 0},
            "evaluation": evaluation,
            "warnings": [],
        }
    )
    assert "none, Float32 in the evaluation" in text
    assert "initFrom: nothing is trained" in text
    assert "learning rate" not in text
    assert "training time" not in text
