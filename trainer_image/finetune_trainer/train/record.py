"""The record of a run: ``run.json`` beside the adapter, and the stage's result."""

from __future__ import annotations

from typing import Any

from finetune_api.protocol.stage_results import (
    MetricValue,
    StepSelection,
    TrainResult,
    decimal_text,
)
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import InternalError
from finetune_trainer.model.licence import licence_of, read_licence
from finetune_trainer.model.load import QUANTIZATION_OF, read_model_architecture
from finetune_trainer.planning.experts import choose_targets
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.publish.generation import read_settings
from finetune_trainer.run import BaseModel, RunStorage
from finetune_trainer.storage import Manifest
from finetune_trainer.train.origin import read_pin


def make_record(model: BaseModel, prepared: Prepared, outcome: dict[str, Any]) -> dict[str, Any]:
    """Return the content of ``run.json``: equal for equal runs.

    ``outcome`` is the result of rank 0.

    Raises:
        InternalError: ``outcome`` is empty.
    """
    if not outcome:
        raise InternalError(
            "NoOutcome", "the ranks ended without an error and without a result; see ranks.log"
        )
    model_dir, revision = model.fetch(include_weights=False)
    spec = model.storage.job.spec
    targets = choose_targets(spec.method.adapter.target_modules, read_model_architecture(model_dir))
    return {
        "model": model.name,
        "modelUri": spec.model.uri,
        "trustRemoteCode": spec.model.trust_remote_code,
        "revision": revision,
        "license": licence_of(spec.model, model_dir),
        "licenseIsStated": read_licence(model_dir) is not None,
        "generation": read_settings(model_dir),
        "dataset": prepared.digest,
        "step": outcome["step"],
        "selection": outcome["selection"],
        "curve": outcome["curve"],
        "metrics": outcome["metrics"],
        "recipe": outcome["recipe"],
        "quantization": QUANTIZATION_OF.get(spec.method.adapter.type),
        "numTrainableParameters": outcome["trainable_parameters"],
        "resumedFromStep": outcome["resumed_from"],
        "targetModules": ",".join(sorted(targets)),
        "initFrom": _origin_record(model.storage),
        "attention": outcome["attention"],
        "kernels": outcome["kernels"],
    }


def read_result(
    uri: str, manifest: Manifest, record: dict[str, Any], *, reused: bool = False
) -> TrainResult:
    """Return the stage's result for the adapter stored at ``uri``.

    ``record`` is its ``run.json``; ``reused`` says that another attempt has trained it.
    """
    weights = weights_file(manifest)
    metrics = [
        MetricValue(name=name, value=decimal_text(value))
        for name, value in record["metrics"].items()
    ]
    recipe = record["recipe"]
    metrics += [
        MetricValue(name=name, value=f"{recipe[name]:g}")
        for name in ("global_batch_size", "micro_batch_size", "world_size")
        if name in recipe
    ]
    return TrainResult(
        uri=uri,
        sha256=weights.sha256,
        num_bytes=weights.num_bytes,
        manifest_sha256=manifest.digest,
        step=record["step"],
        selection=_selection(record),
        metrics=metrics,
        resumed_from_step=record["resumedFromStep"],
        num_trainable_parameters=record["numTrainableParameters"],
        out_of_memory_at=recipe.get("out_of_memory_at", 0),
        origin_digest=(record.get("initFrom") or {}).get("digest", ""),
        reused=reused,
    )


def add_download_time(result: TrainResult, seconds: float) -> TrainResult:
    """Return a result whose metrics state how long this pod downloaded the base model, if it did.

    ``run.json`` does not state it: it is equal for equal runs.
    """
    if not seconds:
        return result
    metric = MetricValue(name="model_download_seconds", value=decimal_text(round(seconds, 1)))
    return result.model_copy(update={"metrics": [metric, *result.metrics]})


def _selection(record: dict[str, Any]) -> StepSelection | None:
    chosen = record.get("selection")
    if chosen is None:
        return None
    losses = {
        name: "" if chosen[name] is None else f"{chosen[name]:.6g}"
        for name in ("validation_loss", "last_validation_loss")
    }
    told = {name: value for name, value in chosen.items() if name in StepSelection.model_fields}
    return StepSelection(**{**told, **losses})


def _origin_record(storage: RunStorage) -> dict[str, Any] | None:
    origin = storage.job.spec.init_from
    if origin is None:
        return None
    return {"uri": origin.uri, "digest": read_pin(storage)}
