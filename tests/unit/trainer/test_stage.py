"""Which stages start without torch: those whose own process has no use for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.trainer import Stage
from finetune_trainer import stage as stages
from support.stages import Workbench

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
