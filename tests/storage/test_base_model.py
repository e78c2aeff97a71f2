"""The base model of a run, from a Hub on loopback."""

from __future__ import annotations

from finetune_api.protocol.trainer import Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.run import BaseModel, RunStorage
from kit.cases.spec_cases import minimal_job

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}"}


def test_a_run_counts_the_seconds_in_which_weights_are_downloaded(hub, tmp_path):
    hub.add("org/model", FILES)
    body = minimal_job("headlines")
    body["spec"] |= {"model": {"uri": "hf://org/model"}, "output": {"uri": tmp_path.as_uri()}}
    job = resolve_job(FineTuneJob.from_wire(body), namespace="team-a", uid="u-1")
    told = []
    storage = RunStorage(job=job, stage=Stage.TRAIN, say=told.append)
    model = BaseModel(storage=storage, cache_dir=tmp_path / "cache")
    model.fetch(include_weights=False)
    assert model.download_seconds == 0
    model.fetch()
    assert model.download_seconds > 0
    assert told[-1] == "downloaded the base model org/model in 0 s"
    later = BaseModel(storage=storage, cache_dir=tmp_path / "cache")
    later.fetch()
    assert later.download_seconds == 0
