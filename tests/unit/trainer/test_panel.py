"""Publishing believes a panel's result as far as storage shows it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import UserError
from finetune_trainer.publish.panel import require_panel
from finetune_trainer.storage.local import FileStore
from kit.cases.spec_cases import changed, minimal_job

EVALUATION = "e" * 64
GOOD = {"kind": "ReviewPanel", "evaluation": EVALUATION, "reviewers": ["Ann", "Ben"]}


def storage_over(folder: Path) -> Any:
    body = changed(minimal_job(), {"spec.evaluation.review": {"required": True}})
    job = ResolvedJob.model_validate(
        {"namespace": "team-a", "name": "example", "uid": "u", "spec": body["spec"]}
    )
    return SimpleNamespace(job=job, output=FileStore(folder), uri_of=lambda key: f"file:///{key}")


def store(folder: Path, content: bytes, digest: str | None = None) -> str:
    name = digest or hashlib.sha256(content).hexdigest()
    FileStore(folder).write_bytes(f"runs/team-a/example/u/review/{name}.json", content)
    return name


def test_a_whole_panel_on_this_evaluation_is_believed(tmp_path: Path) -> None:
    digest = store(tmp_path, json.dumps(GOOD).encode())
    require_panel(storage_over(tmp_path), digest, evaluation=EVALUATION)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({**GOOD, "evaluation": "f" * 64}).encode(), "this run's is eeee"),
        (json.dumps({**GOOD, "kind": "ReviewVerdicts"}).encode(), "is about evaluation"),
        (json.dumps({**GOOD, "reviewers": ["Ann", "ann"]}).encode(), "is of 1 reviewer"),
        (json.dumps({**GOOD, "reviewers": 2}).encode(), "is no panel's result"),
        (b"{", "is no panel's result"),
        (b"[]", "is no panel's result"),
    ],
)
def test_anything_else_publishes_nothing(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        require_panel(storage_over(tmp_path), store(tmp_path, content), evaluation=EVALUATION)
    assert caught.value.reason == "PanelUnusable"


def test_a_result_that_is_not_there_or_was_changed_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no panel's result"):
        require_panel(storage_over(tmp_path), "a" * 64, evaluation=EVALUATION)
    store(tmp_path, json.dumps(GOOD).encode(), digest="a" * 64)
    with pytest.raises(UserError, match="is not what its name says"):
        require_panel(storage_over(tmp_path), "a" * 64, evaluation=EVALUATION)
