"""The model card says whose weights these are, and under which licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.model import Model
from finetune_trainer.model.licence import licence_of
from finetune_trainer.model.load import load_model
from finetune_trainer.publish.card import model_card
from finetune_trainer.publish.generation import read_settings
from kit.cases.spec_cases import minimal_job
from kit.models.tiny_models import make_model
from kit.reports.evaluation_pages import REMARKED, REMARKS

pytestmark = pytest.mark.slow  # it needs torch

RECIPE = {"global_batch_size": 8, "learning_rate": 1e-3, "epochs": 1.0, "bfloat16": True}
RECORD: dict[str, Any] = {
    "revision": "a" * 40,
    "dataset": "d" * 64,
    "numTrainableParameters": 5,
    "step": 7,
    "recipe": RECIPE,
}


@pytest.mark.parametrize(
    ("config", "card", "expected"),
    [
        ({"license": "mit"}, None, "mit"),
        ({}, "---\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ({}, "---\nlicense: other\nlicense_name: acme-research\n---\n", "acme-research"),
        ({}, "---\nlicense: other\n---\n", "other"),
        ({}, "---\nlicense:\n- mit\n- apache-2.0\n---\n", "mit, apache-2.0"),
        ({"license": None}, "---\nlicense: [\n---\n", None),
        ({}, "# A model without metadata\n", None),
        ({}, None, None),
    ],
)
def test_licence_is_that_of_the_configuration_or_the_card(
    tmp_path: Path, config: dict[str, str], card: str | None, expected: str | None
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if card:
        (tmp_path / "README.md").write_text(card)
    model = Model(uri="hf://a/b")
    assert licence_of(model, tmp_path) == expected
    declared = model.model_copy(update={"licence": "mit"})
    assert licence_of(declared, tmp_path) == (expected or "mit")


@pytest.mark.parametrize(
    ("licence", "words"), [("apache-2.0", "| apache-2.0 |"), (None, "not stated there")]
)
def test_card_names_the_licence_of_the_base(licence: str | None, words: str) -> None:
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": minimal_job()["spec"]}
    )
    text = model_card(job, model_name="org/base", record={**RECORD, "license": licence})
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata.get("license") == licence
    assert metadata["base_model"] == "org/base"
    assert words in text


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"num_measured_rows": 100, "num_validation_rows": 2500}, ", 100 of 2,500 rows)"),
        ({"num_measured_rows": 15, "num_validation_rows": 15}, ")"),
        ({}, ")"),  # a run of an earlier version
    ],
)
def test_card_tells_the_standard_error_and_the_rows_of_a_sample(
    recipe: dict[str, int], words: str
) -> None:
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": minimal_job()["spec"]}
    )
    selection = {
        "step": 20,
        "validation_loss": 0.5,
        "validation_error": 0.0321,
        "last_step": 30,
        "planned_steps": 30,
    }
    record = {**RECORD, "license": None, "selection": selection, "recipe": {**RECIPE, **recipe}}
    text = model_card(job, model_name="org/base", record=record)
    told = f"20 of 30 (validation loss 0.5000, the lowest, standard error 0.0321{words}"
    assert f"{told} |" in text


SHIPPED = {
    "_from_model_config": True,
    "bos_token_id": 1,
    "do_sample": True,
    "eos_token_id": [2, 3],
    "pad_token_id": 0,
    "repetition_penalty": 1.05,
    "temperature": 1.0,
    "top_k": None,
    "transformers_version": "4.37.0",
    "use_cache": True,
}
"""As Qwen2.5 has them, and what a folder says of answers without changing any."""


def test_settings_are_what_changes_answers(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == {}
    (tmp_path / "generation_config.json").write_text(json.dumps(SHIPPED))
    assert read_settings(tmp_path) == {"do_sample": True, "repetition_penalty": 1.05}


def test_settings_of_a_base_are_those_that_its_tuned_model_ships(tmp_path: Path) -> None:
    base, tuned = make_model(tmp_path / "base"), tmp_path / "tuned"
    (base / "generation_config.json").write_text(json.dumps(SHIPPED))
    load_model(base, dtype=torch.float32, trust_remote_code=False).save_pretrained(tuned)
    assert read_settings(tuned) == read_settings(base)


@pytest.mark.parametrize(
    ("kind", "is_merged", "words"),
    [
        ("Full", False, "The folder's generation_config.json ships the base model's settings"),
        ("LoRA", True, "The folder's generation_config.json ships the base model's settings"),
        ("LoRA", False, "or given the adapter's generation_config.json, which names stop tokens"),
    ],
)
def test_card_tells_settings_that_no_score_is_about(kind: str, is_merged: bool, words: str) -> None:
    spec = {**minimal_job()["spec"], "method": {"adapter": {"type": kind}}}
    job = ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
    record = {**RECORD, "generation": {"do_sample": True, "repetition_penalty": 1.05}}
    text = model_card(job, model_name="org/base", record=record, is_merged=is_merged)
    assert "answers are greedy" in text
    assert words in text
    assert "do_sample: true, repetition_penalty: 1.05" in text
    is_set_aside = "GenerationConfig(eos_token_id=" in text
    assert is_set_aside is (kind == "Full" or is_merged)
    for silent in ({}, {"generation": {}}):
        text = model_card(job, model_name="org/base", record={**RECORD, **silent})
        assert "answers are greedy" in text
        assert "settings" not in text


def test_card_tells_what_to_know_beside_the_verdict() -> None:
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": minimal_job()["spec"]}
    )
    text = model_card(job, model_name="org/base", record=RECORD, evaluation=REMARKED)
    assert all(words in text for words in REMARKS)
