"""Refuses before training an adapter that the evaluation's server could not be asked with."""

from __future__ import annotations

from pathlib import Path

from finetune_api.trainer import ResolvedJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.load import read_model_architecture
from finetune_trainer.planning.experts import reaches_experts


def require_served(job: ResolvedJob, folder: Path) -> None:
    """Refuse a vLLM server for an adapter on a mixture's experts.

    vLLM drops, without a word, what an adapter changes in modules that it has no room for, and
    keeps the experts of a layer as one module, by other names than an adapter.

    Args:
        job: The effective job.
        folder: Local base model; its configuration is enough.

    Raises:
        UserError: ``EngineUnsuitable``.
    """
    if job.spec.evaluation.engine != "VLLM":
        return
    model_type = read_model_architecture(folder).model_type
    if reaches_experts(model_type, tuple(job.spec.method.adapter.target_modules)):
        raise UserError(
            "EngineUnsuitable",
            f"evaluation.engine VLLM: method.adapter.targetModules all-linear changes the experts "
            f"of this mixture ({model_type}), which was never tried with vLLM; use Transformers, "
            "or name the attention's modules, such as q_proj and v_proj",
        )
