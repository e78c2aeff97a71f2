"""How a stage begins: from which job file, and with or without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import JOB_DIGEST_ARGUMENT, Environment, ExitCode, Stage
from finetune_trainer import stage as stages
from finetune_trainer import stopping
from finetune_trainer.__main__ import main
from kit.processes.stages import Workbench

CUSTOM = {"evaluation": {"customMetric": {"path": "/metrics/score.py"}}}
OWN_CODE = {"model": {"trustRemoteCode": True}}


@pytest.mark.parametrize(
    ("stage", "change", "has_gpus", "expected"),
    [
        (Stage.PREPARE, {}, False, True),
        (Stage.PREPARE, {}, True, True),
        (Stage.PREPARE, CUSTOM, False, True),
        (Stage.PREPARE, OWN_CODE, False, False),
        (Stage.TRAIN, {}, False, False),
        (Stage.EVALUATE, {}, False, True),
        (Stage.EVALUATE, {}, True, False),
        (Stage.EVALUATE, CUSTOM, False, False),
        (Stage.EVALUATE, OWN_CODE, False, False),
    ],
)
def test_torch_is_left_out_where_nothing_of_the_stage_itself_may_want_it(
    stage: Stage,
    change: dict[str, Any],
    has_gpus: bool,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stages, "has_gpu_driver", lambda: has_gpus)
    job = Workbench(folder=tmp_path, model=tmp_path, data=tmp_path, change=change).job()
    assert stages.does_without_torch(stage, job) is expected


@pytest.mark.parametrize("stage", list(Stage))
def test_another_job_file_than_the_one_it_was_created_with_ends_a_stage_before_it_is_read(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "listen", lambda stage: None)
    last_words, work = tmp_path / "termination", tmp_path / "work"
    monkeypatch.setenv(Environment.TERMINATION_LOG, str(last_words))
    monkeypatch.setenv(Environment.WORK_DIR, str(work))
    text = Workbench(folder=tmp_path, model=tmp_path, data=tmp_path).job().to_json()
    path = tmp_path / "job.json"
    path.write_text(text.replace('"seed": ', '"seed": 1'))
    digest = hashlib.sha256(text.encode()).hexdigest()
    code = main([stage.value, "--job", str(path), JOB_DIGEST_ARGUMENT, digest])
    told = json.loads(last_words.read_text())
    assert (code, told["reason"]) == (ExitCode.USER_ERROR, "JobFileChanged")
    assert digest in told["message"]
    assert not work.exists()
