"""Credentials come from mounted Secrets and never show."""

from __future__ import annotations

import os

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage import StorageAccess, open_store
from finetune_trainer.storage.access import mask


def access_to(folder, name="s3-rw"):
    return StorageAccess(credentials_dir=folder, credentials_name=name)


def test_a_key_is_read_without_its_trailing_newline(tmp_path):
    (tmp_path / "s3-rw").mkdir()
    (tmp_path / "s3-rw" / "AWS_ACCESS_KEY_ID").write_text("AKIA123\n")
    assert access_to(tmp_path).read_credential("AWS_ACCESS_KEY_ID") == "AKIA123"


@pytest.mark.parametrize("content", [None, "", " \n"])
def test_a_missing_or_empty_key_names_secret_and_key(tmp_path, content):
    (tmp_path / "s3-rw").mkdir()
    if content is not None:
        (tmp_path / "s3-rw" / "AWS_SECRET_ACCESS_KEY").write_text(content)
    with pytest.raises(UserError) as caught:
        access_to(tmp_path).read_credential("AWS_SECRET_ACCESS_KEY")
    assert caught.value.reason == "CredentialsMissing"
    assert "'s3-rw'" in caught.value.message
    assert "'AWS_SECRET_ACCESS_KEY'" in caught.value.message


def test_a_secret_that_is_not_mounted_is_named(tmp_path):
    with pytest.raises(UserError, match="'absent'"):
        access_to(tmp_path, "absent").read_credential("AWS_ACCESS_KEY_ID")


def test_without_a_mount_the_default_chain_is_used():
    local = StorageAccess(credentials_name="s3-rw")
    assert not local.has_secret
    assert local.read_optional_credential("HF_TOKEN") is None
    assert "default credential chain" in local.describe_credentials()


@pytest.mark.parametrize("identifier", ["AKIAIOSFODNN7EXAMPLE", "short", ""])
def test_a_masked_identifier_does_not_give_it_away(identifier):
    assert len(mask(identifier).rstrip("*")) <= max(2, len(identifier) // 2)


@pytest.mark.parametrize(("has_secrets", "remedy"), [(False, "on this machine"), (True, "Secret")])
def test_missing_s3_keys_are_told_with_what_to_do_where_it_runs(
    tmp_path, monkeypatch, has_secrets, remedy
):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    access = StorageAccess(credentials_dir=tmp_path if has_secrets else None)
    with pytest.raises(UserError) as caught:
        open_store("s3://bucket/out", access).exists("a")
    assert caught.value.reason == "CredentialsMissing"
    assert "s3://bucket/out" in caught.value.message
    assert remedy in caught.value.message
