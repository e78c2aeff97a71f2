"""Where a judge's key comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_trainer.data.judge_key import read_judge_key
from finetune_trainer.errors import UserError
from finetune_trainer.storage import StorageAccess

OURS = {"OPENAI_API_KEY": "sk-of-this-machine"}


def judge(secret: str | None) -> Judge:
    wire = {"endpoint": "https://judge.example/v1", "model": "m"}
    return Judge.model_validate(wire | ({"credentialsRef": {"name": secret}} if secret else {}))


def mounted(folder: Path, key: str | None) -> StorageAccess:
    (folder / "judge-key").mkdir()
    if key is not None:
        (folder / "judge-key" / "OPENAI_API_KEY").write_text(key)
    return StorageAccess(credentials_dir=folder, credentials_name="judge-key")


def test_no_key_is_sent_that_the_job_does_not_name() -> None:
    assert read_judge_key(judge(None), StorageAccess(), OURS) is None


def test_a_mounted_secret_counts_above_the_environment(tmp_path: Path) -> None:
    access = mounted(tmp_path, "sk-of-the-secret\n")
    assert read_judge_key(judge("judge-key"), access, OURS) == "sk-of-the-secret"


def test_on_one_machine_the_environment_stands_in() -> None:
    access = StorageAccess(credentials_name="judge-key")
    assert read_judge_key(judge("judge-key"), access, OURS) == "sk-of-this-machine"
    with pytest.raises(UserError, match="set OPENAI_API_KEY") as caught:
        read_judge_key(judge("judge-key"), access, {})
    assert caught.value.reason == "CredentialsMissing"


def test_a_secret_without_the_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'judge-key' has no key 'OPENAI_API_KEY'"):
        read_judge_key(judge("judge-key"), mounted(tmp_path, None), OURS)
