"""What is fetched of a version, and which versions are refused before anything is loaded."""

import hashlib
import json
import shutil

import pytest

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.errors import StorageError, TrainerError
from finetune_trainer.serve.agent.bounds import MAX_FILE_BYTES, Refusal
from finetune_trainer.serve.agent.fetching import fetch_version, to_file_uri
from finetune_trainer.serve.agent.wanted import Finder
from finetune_trainer.storage.manifest import parse_manifest
from kit.builders.versions import endpoint_with, publish_version


def wanted_of(version, **changes):
    body = endpoint_with(version.job, active=version.served(**changes))
    finder = Finder(namespace="team", server=version.served(**changes)["server"])
    (wanted,) = finder.find({"x": body}).values()
    return wanted


def fetch(version, tmp_path, *, room=None, **changes):
    wanted, folder = wanted_of(version, **changes), tmp_path / "fetched"
    return fetch_version(wanted, folder, credentials_dir=None, scratch_bytes=room)


def refused(version, tmp_path, **changes):
    with pytest.raises(Refusal) as caught:
        fetch(version, tmp_path, **changes)
    return caught.value


@pytest.fixture
def version(tmp_path):
    return publish_version(tmp_path / "out")


def run_folder(version):
    return version.root / version.manifest.inputs["run"]


def replace_manifest(version, **inputs):
    """Write another manifest in place of the version's; return what changed in its status."""
    path = version.root / f"versions/team/{version.job}/{version.number}/manifest.json"
    body = json.loads(path.read_text())
    body["inputs"] |= inputs.pop("inputs", {})
    body |= inputs
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_version_comes_with_what_its_evaluation_recorded(version, tmp_path):
    fetched = fetch(version, tmp_path)
    assert (fetched.folder / "adapter_model.safetensors").read_bytes() == b"weights 0"
    asked = {each.prompt[0]["content"]: each.tuned for each in fetched.questions}
    assert len(asked) == 60
    assert asked.items() <= version.tuned.items()
    assert [path.name for path in fetched.folder.parent.glob("*evaluation*")] == []
    assert fetched.metrics == ("exactMatch", "loss")
    assert (fetched.engine, fetched.answer_tokens, fetched.revision) == (
        "Transformers 5.0.0",
        7,
        "c0ffee",
    )


def test_the_limit_of_answers_comes_from_the_job_where_the_report_has_none(tmp_path):
    version = publish_version(tmp_path / "out", report={"answerTokens": None})
    job = run_folder(version) / "job.json"
    assert fetch(version, tmp_path).answer_tokens is None
    job.write_text(json.dumps({"spec": {"evaluation": {"maxNewTokens": 9}}}))
    assert fetch(version, tmp_path).answer_tokens == 9
    job.write_text(json.dumps({"spec": {"evaluation": {"maxNewTokens": "auto"}}}))
    assert fetch(version, tmp_path).answer_tokens is None
    job.write_text("{")
    assert fetch(version, tmp_path).answer_tokens is None


@pytest.mark.parametrize(
    "name",
    ["adapter/adapter_model.safetensors", "adapter/answers.json", "evaluation/samples.jsonl"],
)
def test_a_file_that_was_changed_or_deleted_is_damage(version, tmp_path, name):
    path = run_folder(version) / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"x")
    assert refused(version, tmp_path).reason == "FilesDamaged"
    path.unlink()
    assert refused(version, tmp_path).reason == "FilesDamaged"
    path.write_bytes(data)
    assert fetch(version, tmp_path).questions


def test_a_manifest_that_is_no_json_is_damage_and_an_empty_folder_is_waited_for(version, tmp_path):
    path = version.root / "versions/team/tickets/1/manifest.json"
    path.write_text("{")
    assert refused(version, tmp_path).reason == "FilesDamaged"
    path.unlink()
    with pytest.raises(StorageError) as caught:
        fetch(version, tmp_path)
    assert caught.value.reason == "VersionNotFound"


def test_a_version_without_its_evaluation_has_nothing_to_compare(version, tmp_path):
    shutil.rmtree(run_folder(version) / "evaluation")
    assert refused(version, tmp_path).reason == "NothingToCompare"


def test_the_manifest_that_the_status_pins_is_the_only_one_that_is_taken(version, tmp_path):
    assert fetch(version, tmp_path).sha256 == version.sha256
    for digest in ("0" * 64, version.weights, version.manifest.digest):
        refusal = refused(version, tmp_path, sha256=digest)
        assert (refusal.reason, refusal.sha256) == ("FilesDamaged", version.sha256)
        assert "replaced after it was verified" in refusal.message


def test_a_manifest_of_other_inputs_is_another_manifest(version, tmp_path):
    before = version.sha256
    replace_manifest(version, inputs={"evaluation": "0" * 64})
    assert refused(version, tmp_path, sha256=before).reason == "FilesDamaged"


def test_before_the_first_verification_the_weights_are_pinned(version, tmp_path):
    assert fetch(version, tmp_path, sha256="", weightsSha256=version.weights).questions
    refusal = refused(version, tmp_path, sha256="", weightsSha256="0" * 64)
    assert refusal.reason == "FilesDamaged"
    assert "replaced after it was published" in refusal.message
    assert fetch(version, tmp_path, sha256="").sha256 == version.sha256


def test_a_manifest_at_another_place_is_refused(version, tmp_path):
    other = publish_version(tmp_path / "others" / "out")
    uri = other.served()["manifestUri"]
    assert refused(version, tmp_path, manifestUri=uri).reason == "FilesDamaged"


@pytest.mark.parametrize(
    "run", ["runs/others/tickets/uid-tickets-1", "runs/team/other/uid", "runs/team/tickets/../x"]
)
def test_a_manifest_that_names_the_run_of_another_job_is_refused(version, tmp_path, run):
    pinned = replace_manifest(version, inputs={"run": run, "uid": run.rpartition("/")[2]})
    refusal = refused(version, tmp_path, **pinned)
    assert refusal.reason == "FilesDamaged"
    assert run in refusal.message


def published_by_a_schedule(version):
    """Let a job of another name publish the version; return what is pinned, and its job.json."""
    run = "runs/team/weekly-29612345/uid-of-the-other"
    shutil.copytree(run_folder(version), version.root / run)
    files = [file.to_json_object() for file in version.manifest.files]
    for file in files:
        file["key"] = file["key"].replace(version.manifest.inputs["run"], run)
    pinned = replace_manifest(version, inputs={"run": run, "uid": "uid-of-the-other"}, files=files)
    return pinned, version.root / run / "job.json"


def test_the_run_of_a_job_that_publishes_under_another_name_is_taken_if_its_uid_is_pinned(
    version, tmp_path
):
    pinned, _ = published_by_a_schedule(version)
    assert fetch(version, tmp_path, **pinned, jobUid="uid-of-the-other").questions
    for uid in ("", "uid-tickets-1"):
        assert refused(version, tmp_path, **pinned, jobUid=uid).reason == "FilesDamaged"


def test_the_run_of_a_job_that_is_gone_is_taken_if_that_job_was_to_publish_under_the_name(
    version, tmp_path
):
    pinned, job = published_by_a_schedule(version)
    told = {"namespace": "team", "name": "weekly-29612345", "uid": "uid-of-the-other"}
    body = {**told, "spec": {"output": {"publishAs": "tickets"}}}
    job.write_text(json.dumps(body))
    assert fetch(version, tmp_path, **pinned).questions
    assert refused(version, tmp_path, **pinned, jobUid="another").reason == "FilesDamaged"
    for changed in (
        {**body, "spec": {"output": {"publishAs": "others"}}},
        {**body, "spec": {"output": {}}},
        {**body, "namespace": "others"},
        {**body, "name": "monthly"},
        {**body, "uid": "another"},
        [],
    ):
        job.write_text(json.dumps(changed))
        assert refused(version, tmp_path, **pinned).reason == "FilesDamaged"
    job.write_text("{")
    assert refused(version, tmp_path, **pinned).reason == "FilesDamaged"


def test_a_manifest_that_names_files_of_another_tenant_is_refused(version, tmp_path):
    stolen = version.root / "runs/others/secret/uid/adapter/adapter_model.safetensors"
    stolen.parent.mkdir(parents=True)
    stolen.write_bytes(b"weights 0")
    files = [file.to_json_object() for file in version.manifest.files]
    for file in files:
        if file["path"] == "adapter_model.safetensors":
            file["key"] = str(stolen.relative_to(version.root))
    pinned = replace_manifest(version, files=files)
    refusal = refused(version, tmp_path, **pinned)
    assert "runs/others/secret" in refusal.message


def test_another_job_uid_than_the_status_names_is_refused(version, tmp_path):
    assert refused(version, tmp_path, jobUid="another").reason == "FilesDamaged"
    assert fetch(version, tmp_path, jobUid="uid-tickets-1").questions


def test_a_version_of_another_base_model_is_refused(version, tmp_path):
    assert refused(version, tmp_path, baseModel="hf://org/other").reason == "OtherBaseModel"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.pt", "code.py", "weights"])
def test_files_that_may_run_code_are_not_downloaded(version, tmp_path, name):
    file = version.manifest.files[0].to_json_object()
    files = [each.to_json_object() for each in version.manifest.files]
    key = f"{version.manifest.inputs['run']}/adapter/{name}"
    changed = replace_manifest(version, files=[*files, file | {"path": name, "key": key}])
    refusal = refused(version, tmp_path, **changed)
    assert refusal.reason == "FilesDamaged"
    assert name in refusal.message
    assert not (tmp_path / "fetched").exists()


def test_a_version_that_does_not_fit_is_not_downloaded(version, tmp_path):
    total = version.manifest.num_bytes
    refusal = refused(version, tmp_path, room=total - 1)
    assert f"{total} bytes" in refusal.message
    assert not (tmp_path / "fetched").exists()
    assert fetch(version, tmp_path, room=total).questions


@pytest.mark.parametrize("name", ["samples.jsonl", "report.json"])
def test_an_evaluation_that_is_too_long_for_memory_is_not_downloaded(version, tmp_path, name):
    path = run_folder(version) / "evaluation/manifest.json"
    body = json.loads(path.read_text())
    for file in body["files"]:
        file["bytes"] = 65 * 1024**2 if file["path"] == name else file["bytes"]
    path.write_text(json.dumps(body))
    changed = replace_manifest(
        version, inputs={"evaluation": parse_manifest(path.read_bytes(), where="x").digest}
    )
    refusal = refused(version, tmp_path, **changed)
    assert refusal.message == (f"{name} has {65 * 1024**2} bytes, more than {MAX_FILE_BYTES[name]}")


@pytest.mark.parametrize(
    "folder", ["versions/team/tickets/1", "runs/team/tickets/{uid}/evaluation"]
)
def test_an_endless_manifest_is_refused_and_not_read_to_its_end(version, tmp_path, folder):
    path = version.root / folder.format(uid=version.manifest.inputs["uid"]) / "manifest.json"
    with path.open("r+b") as file:
        file.truncate(1024**4)
    refusal = refused(version, tmp_path)
    assert refusal.reason == "FilesDamaged"
    assert "longer than" in refusal.message


def test_storage_that_is_away_is_no_refusal(version, tmp_path):
    storage = {"uri": "s3://bucket/x", "endpoint": "http://127.0.0.1:9", "region": "x"}
    uri = "s3://bucket/x/versions/team/tickets/1/manifest.json"
    with pytest.raises(TrainerError):
        fetch(version, tmp_path, storage=storage, manifestUri=uri)


def test_a_claim_is_a_mounted_folder():
    uri = ServedStorage(uri="pvc://models/team").uri
    assert to_file_uri(uri) == "file:///var/lib/finetune/claims/models/team"
    assert to_file_uri("s3://b/c") == "s3://b/c"
