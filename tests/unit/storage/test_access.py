"""Credentials come from mounted Secrets and never show."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage import StorageAccess
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
