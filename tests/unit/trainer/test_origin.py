"""Weights of another run are taken over only where they fit, and stay the same for a retry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import UserError
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import ManifestFile, make_manifest
from finetune_trainer.train.origin import (
    check_adapter,
    check_base,
    choose_files,
    fetch_origin,
    pin_digest,
    split_uri,
)

ALL = {"targetModules": ["all-linear"]}
URI = "s3://b/runs/default/a/1/adapter"
CONFIG: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": ["v_proj", "q_proj"]}


@pytest.mark.parametrize(
    ("uri", "root", "prefix"),
    [
        ("s3://b/p/versions/ns/name/12", "s3://b/p", "versions/ns/name/12"),
        ("s3://b/versions/ns/name/12/", "s3://b", "versions/ns/name/12"),
        ("s3://b/p/runs/ns/n/u/adapter/", "s3://b/p/runs/ns/n/u/adapter", ""),
        (
            "file:///o/runs/ns/n/u/checkpoints/step-5",
            "file:///o/runs/ns/n/u/checkpoints/step-5",
            "",
        ),
    ],
)
def test_only_a_version_is_read_from_the_root_above_it(uri: str, root: str, prefix: str) -> None:
    assert split_uri(uri) == (root, prefix)


@pytest.mark.parametrize(
    ("adapter", "config", "facts"),
    [
        ({"targetModules": ["q_proj", "v_proj"]}, {}, {}),
        (ALL, {}, {"targetModules": "all-linear"}),
        ({**ALL, "type": "QLoRA"}, {}, {"targetModules": "all-linear"}),
        ({**ALL, "type": "DoRA"}, {"use_dora": True}, {"targetModules": "all-linear"}),
        # Taken as they are: nothing is trained.
        ({"targetModules": ["auto"]}, {}, {"targetModules": "all-linear"}),
        ({"targetModules": ["auto"]}, {}, {"targetModules": "q_proj,v_proj"}),
        ({"targetModules": ["auto"]}, {}, {}),
        # The other run asked for all, this one names the same by hand.
        ({"targetModules": ["v_proj", "q_proj"]}, {}, {"targetModules": "all-linear"}),
    ],
)
def test_adapter_of_the_same_shape_is_taken(
    adapter: dict[str, Any], config: dict[str, Any], facts: dict[str, str]
) -> None:
    check_adapter({**CONFIG, **config}, facts, Adapter.model_validate(adapter), URI)


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"rank": 8}, "method.adapter.rank is 8 here and 16 there"),
        ({"alpha": 16}, "method.adapter.alpha is 16 here and 32 there"),
        ({"type": "RsLoRA"}, "method.adapter.type is RsLoRA here and LoRA there"),
        (
            {"targetModules": ["q_proj"]},
            "method.adapter.targetModules is q_proj here and q_proj,v_proj there",
        ),
    ],
)
def test_adapter_of_another_shape_is_refused_with_both_values(
    adapter: dict[str, Any], said: str
) -> None:
    wanted = Adapter.model_validate(adapter)
    with pytest.raises(UserError) as failure:
        check_adapter(CONFIG, {"targetModules": "all-linear"}, wanted, URI)
    assert said in failure.value.message
    assert URI in failure.value.message


@pytest.mark.parametrize(
    ("facts", "said"), [({"model": "org/a", "revision": "r2"}, "r2"), ({}, "unk")]
)
def test_weights_of_another_base_are_refused(facts: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as failure:
        check_base(facts, URI, model="org/b", revision="r1")
    assert failure.value.reason == "OriginOfOtherBase"
    assert "org/b at revision r1" in failure.value.message


def manifest_of(*paths: str) -> Any:
    return make_manifest(
        [ManifestFile(path=path, num_bytes=1, sha256="a" * 64) for path in paths], created_by="t"
    )


def test_states_of_the_optimiser_are_left_where_they_are() -> None:
    checkpoint = manifest_of(
        "adapter_model.safetensors", "adapter_config.json", "optimizer.pt.safetensors"
    )
    paths = choose_files(checkpoint, Adapter(), URI)
    assert paths == {"adapter_model.safetensors", "adapter_config.json"}
    whole = manifest_of("model.safetensors", "config.json", "latest", "optimizer.pt.safetensors")
    assert choose_files(whole, Adapter(type="Full"), URI) == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("kind", ["LoRA", "Full"])
def test_adapter_and_whole_weights_do_not_follow_each_other(kind: str) -> None:
    other = "model.safetensors" if kind == "LoRA" else "adapter_model.safetensors"
    with pytest.raises(UserError, match="both must be alike"):
        choose_files(manifest_of(other), Adapter.model_validate({"type": kind}), URI)


def test_a_checkpoint_that_holds_the_part_of_each_rank_is_no_weights() -> None:
    parts = manifest_of("config.json", "global_step3/mp_rank_00_model_states.pt.safetensors")
    with pytest.raises(UserError, match=r"no weights in one piece.*checkpoints/best-<step>"):
        choose_files(parts, Adapter(type="Full"), URI)
    with pytest.raises(UserError, match=r"holds no weights, method\.adapter\.type is LoRA"):
        choose_files(parts, Adapter(), URI)


def storage_of(folder: Path, **spec: Any) -> RunStorage:
    body = {
        "model": {"uri": "hf://a/b"},
        "dataset": {"sources": [{"uri": "s3://d/e.jsonl"}]},
        "output": {"uri": f"file://{folder}"},
        **spec,
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "n"}, "spec": body})
    resolved = resolve_job(job, namespace="default", uid="u")
    return RunStorage(job=resolved, stage=Stage.TRAIN, say=print)


def test_a_checkpoint_that_its_run_has_deleted_is_told(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/runs/ns/n/u/checkpoints/step-20"
    storage = storage_of(tmp_path, initFrom={"uri": uri})
    with pytest.raises(UserError, match=r"There is nothing under .*afterTraining is Keep") as told:
        fetch_origin(
            storage, Workspace(folder=tmp_path), Adapter(), model_name="a/b", revision="r1"
        )
    assert told.value.reason == "OriginNotFound"
    assert uri in told.value.message


def test_retry_is_held_to_the_digest_of_the_first_attempt(tmp_path: Path) -> None:
    storage = storage_of(tmp_path)
    assert pin_digest(storage, URI, "d1") == "d1"
    assert pin_digest(storage, URI, "d1") == "d1"
    with pytest.raises(UserError) as failure:
        pin_digest(storage, URI, "d2")
    assert failure.value.reason == "OriginChanged"
