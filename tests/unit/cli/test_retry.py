"""What ``finetune retry`` makes of a failed job."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from finetune_cli.cluster.retry import (
    check_failed,
    choose_name,
    find_weights,
    make_retry,
    names_after,
)
from finetune_cli.errors import CliError
from finetune_trainer.storage import StorageAccess, open_store
from kit.cases.spec_cases import minimal_job

ACCESS = StorageAccess()


def failed(output: str = "s3://models", **status: Any) -> dict[str, Any]:
    body = minimal_job("headlines")
    body["metadata"] |= {
        "namespace": "team-a",
        "uid": "u1",
        "resourceVersion": "7",
        "labels": {"team": "a"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
    }
    body["spec"] = {**body["spec"], "output": {"uri": output}, "suspend": False}
    body["status"] = {"conditions": [{"type": "Failed", "status": "True"}], **status}
    return body


TRAINED = [{"name": "train", "job": "headlines-train", "startTime": "2026-01-01T00:00:00Z"}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("headlines", ["headlines-2", "headlines-3"]),
        ("headlines-9", ["headlines-10", "headlines-11"]),
        ("a" * 52, ["a" * 50 + "-2", "a" * 50 + "-3"]),
        ("a" * 49 + "-bc", ["a" * 49 + "-2", "a" * 49 + "-3"]),
    ],
)
def test_the_next_names_count_on(name, expected):
    assert list(islice(names_after(name), 2)) == expected


def test_a_name_that_is_taken_is_passed_over_or_refused():
    assert choose_name("a", ["a", "a-2"]) == "a-3"
    assert choose_name("a", ["a"], "b") == "b"
    with pytest.raises(CliError, match="there is a FineTuneJob b already"):
        choose_name("a", ["a", "b"], "b")


def test_only_a_failed_job_is_begun_again():
    check_failed(failed())
    with pytest.raises(CliError, match="has not failed, it is Training"):
        check_failed({**failed(), "status": {"phase": "Training"}})


def test_the_new_job_is_the_old_one_with_its_weights():
    origin = "s3://models/runs/team-a/headlines/u1/checkpoints/step-40"
    body = make_retry(
        failed(), name="headlines-2", weights=origin, overrides=["hyperparameters.epochs=1"]
    )
    assert body["metadata"] == {
        "name": "headlines-2",
        "namespace": "team-a",
        "labels": {"team": "a"},
    }
    assert body["spec"]["initFrom"] == {"uri": origin}
    assert body["spec"]["hyperparameters"]["epochs"] == "1"
    assert body["spec"]["dataset"] == failed()["spec"]["dataset"]
    assert "status" not in body
    assert "suspend" not in body["spec"]


def test_a_pruned_job_is_begun_again_and_not_pruned_at_once():
    told = [{"type": "Pruned", "status": "True", "reason": "PruneRequested"}]
    job = failed()
    job["spec"] |= {"prune": True, "holdAfter": "Train"}
    job["status"] = {"phase": "Pruned", "conditions": told}
    check_failed(job)
    spec = make_retry(job, name="headlines-2", weights=None)["spec"]
    assert ("prune" in spec, spec["holdAfter"]) == (False, "Train")


def test_the_retry_of_a_trial_is_no_trial_and_goes_to_its_end():
    job = failed()
    job["metadata"]["labels"] |= {
        "finetune.dev/sweep": "banking",
        "finetune.dev/trial": "3",
        "app.kubernetes.io/managed-by": "finetune-operator",
    }
    job["spec"]["holdAfter"] = "Train"
    body = make_retry(job, name="banking-t3-2", weights=None)
    assert body["metadata"]["labels"] == {"team": "a"}
    assert "holdAfter" not in body["spec"]


def test_an_override_that_is_not_valid_is_told():
    with pytest.raises(CliError, match="the retry of headlines is not a valid FineTuneJob"):
        make_retry(failed(), name="x", weights=None, overrides=["method.adapter.rank=0"])


def test_a_job_that_never_trained_begins_as_it_began():
    assert find_weights(failed(), ACCESS) is None


def test_the_adapter_comes_before_checkpoints():
    uri = "s3://models/runs/team-a/headlines/u1/adapter"
    assert find_weights(failed(stages=TRAINED, artifact={"uri": uri}), ACCESS) == uri


def test_a_volume_cannot_be_looked_into_from_here():
    with pytest.raises(CliError, match=r"in a pod only.*--from.*--fresh"):
        find_weights(failed("pvc://models/x", stages=TRAINED), ACCESS)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder that answers in the place of ``s3://models``."""
    import finetune_trainer.storage as storage

    def open_folder(uri: str, access: StorageAccess) -> Any:
        return open_store(f"file://{tmp_path}/{uri.removeprefix('s3://models/')}", access)

    monkeypatch.setattr(storage, "open_store", open_folder)
    return open_store(f"file://{tmp_path}/runs/team-a/headlines/u1/checkpoints", ACCESS)


def test_the_newest_checkpoint_with_a_manifest_is_taken(bucket):
    for key in ("step-20/manifest.json", "step-100/manifest.json", "step-120/model.safetensors"):
        bucket.write_bytes(key, b"x")
    found = find_weights(failed(stages=TRAINED), ACCESS)
    assert found == "s3://models/runs/team-a/headlines/u1/checkpoints/step-100"


def test_a_run_without_a_complete_checkpoint_begins_afresh(bucket):
    bucket.write_bytes("step-20/model.safetensors", b"x")
    assert find_weights(failed(stages=TRAINED), ACCESS) is None


def test_a_store_that_cannot_be_read_leaves_the_choice_to_the_user(monkeypatch):
    import finetune_trainer.storage as storage
    from finetune_trainer.errors import UserError

    def refuse(uri: str, access: StorageAccess) -> Any:
        raise UserError("CredentialsMissing", "no key.")

    monkeypatch.setattr(storage, "open_store", refuse)
    with pytest.raises(CliError, match=r"no key\. Name what .* --from .* --fresh") as told:
        find_weights(failed(stages=TRAINED), ACCESS)
    assert told.value.exit_code == 64
