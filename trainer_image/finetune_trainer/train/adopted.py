"""``initFrom.train: false``: the weights of another run become the job's adapter unchanged.

No rank starts. The record leaves out training settings and names the precision that the evaluation
must load the model in.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.status.plan import PlanReason, PlanStatus
from finetune_trainer.data.prepared import Prepared
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.run import BaseModel, Workspace
from finetune_trainer.train.origin import Origin, fetch_origin
from finetune_trainer.train.recipe.recipe import DataShape, Recipe, available_bytes, decide_bfloat16
from finetune_trainer.train.record import make_record

_RECORDED = ("bfloat16", "use_gpu")
"""The recorded part of an idle recipe: how the weights are loaded."""


def idle_recipe(job: ResolvedJob, hardware: Hardware, *, use_gpu: bool) -> Recipe:
    """Return the recipe of a job that trains nothing: no step, and how its model is loaded.

    Raises:
        UserError: The requested precision is not available.
    """
    return Recipe(
        learning_rate=0.0,
        global_batch_size=0,
        micro_batch_size=0,
        accumulation_steps=0,
        world_size=1,
        total_steps=0,
        epochs=0.0,
        strategy="DDP",
        bfloat16=decide_bfloat16(job, hardware, use_gpu=use_gpu),
        activation_checkpointing=False,
        padding_free=False,
        packing=False,
        use_gpu=use_gpu,
        estimated_memory_bytes=0,
        memory={},
        available_memory_bytes=available_bytes(job, hardware, use_gpu=use_gpu),
        validation_interval=0,
    )


def describe_idle(
    job: ResolvedJob, data: DataShape, model: Architecture, recipe: Recipe, *, step: int | None
) -> PlanStatus:
    """Return the plan in the words of the API.

    ``step`` is the step that the weights were taken after; None if not read yet.
    """
    assert job.spec.init_from is not None
    when = "" if step is None else f" after step {step}"
    words = f"train is false: nothing is trained, the adapter is the weights{when} of "
    return PlanStatus(
        rows=data.num_rows,
        tokens=data.num_tokens,
        parameters=model.num_parameters,
        precision="BFloat16" if recipe.bfloat16 else "Float32",
        reasons=[PlanReason(name="initFrom", reason=_fit(words, job.spec.init_from.uri))],
    )


def adopt(
    model: BaseModel, workspace: Workspace, prepared: Prepared, folder: Path, recipe: Recipe
) -> tuple[Origin, dict[str, Any]]:
    """Put the weights of ``spec.initFrom`` into an empty folder and describe them.

    Returns:
        The weights, and the content of ``run.json``.

    Raises:
        UserError: They do not fit the job, or do not say what they are.
        StorageError: They are damaged, or storage failed.
    """
    storage, (_, revision) = model.storage, model.fetch(include_weights=False)
    adapter = storage.job.spec.method.adapter
    origin = fetch_origin(storage, workspace, adapter, model_name=model.name, revision=revision)
    assert origin is not None
    if origin.step is None:
        raise UserError(
            "OriginMismatch",
            f"initFrom {origin.uri} does not say after which step its weights were taken, so "
            "run.json cannot describe them; with train: true a job may begin from them",
        )
    storage.say(
        f"nothing is trained: the adapter is the weights of {origin.uri}, taken after step "
        f"{origin.step} of their run, unchanged (sha256 {origin.digest})"
    )
    if origin.dataset != prepared.digest:
        storage.say(
            f"they were trained on data set {origin.dataset or 'unknown'}, and this job holds out "
            f"rows of {prepared.digest}: some of these may have been trained on, which flatters "
            "the scores"
        )
    shutil.copytree(origin.folder, folder, dirs_exist_ok=True)
    outcome = {
        "step": 0,
        "selection": None,
        "curve": None,
        "metrics": {},
        "resumed_from": 0,
        "recipe": {name: value for name, value in recipe.to_json().items() if name in _RECORDED},
        "attention": None,
        "kernels": None,
        "trainable_parameters": 0,
    }
    return origin, make_record(model, prepared, outcome, adopted=origin)


def _fit(words: str, uri: str, limit: int = 253) -> str:
    """Shorten the address from the left: its end names the run and the step."""
    room = limit - len(words)
    return words + (uri if len(uri) <= room else "..." + uri[3 - room :])
