"""Makes a saved adapter publishable: canonical configuration, model card, run record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.trainer import ResolvedJob
from finetune_trainer.errors import InternalError
from finetune_trainer.model.load import read_config

if TYPE_CHECKING:
    from finetune_trainer.storage import Manifest, ManifestFile

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
KEPT_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_DROPPED = ("training_args.bin", "optimizer.pt", "scheduler.pt")


def finish_adapter(
    folder: Path, *, job: ResolvedJob, model_name: str, record: dict[str, Any]
) -> None:
    """Rewrite what PEFT saved so that equal runs give equal bytes and servers accept it.

    Args:
        folder: Folder with the saved weights.
        job: The job.
        model_name: Public name of the base model.
        record: What was trained, on what, with which result; becomes ``run.json``.
    """
    for name in _DROPPED:
        (folder / name).unlink(missing_ok=True)
    config_path = folder / "adapter_config.json"
    if config_path.exists():
        config = json.loads(config_path.read_text())
        # An inference server finds the base by this name; a local path would tie the adapter to us.
        config["base_model_name_or_path"] = model_name
        config["revision"] = record["revision"] if len(record["revision"]) == 40 else None
        for key in ("target_modules", "modules_to_save", "exclude_modules"):
            if isinstance(config.get(key), list):
                config[key] = sorted(config[key])
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "run.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    (folder / "README.md").write_text(model_card(job, model_name=model_name, record=record))


def model_card(
    job: ResolvedJob,
    *,
    model_name: str,
    record: dict[str, Any],
    scores: list[dict[str, Any]] | None = None,
) -> str:
    """Write the model card: base, data version, recipe and, once known, scores.

    Source: Hugging Face model card metadata specification (huggingface_hub.ModelCardData).
    """
    from huggingface_hub import ModelCard, ModelCardData

    recipe = record["recipe"]
    adapter = job.spec.method.adapter
    is_full = adapter.type == "Full"
    data = ModelCardData(
        base_model=model_name,
        base_model_relation="finetune" if is_full else "adapter",
        library_name="transformers" if is_full else "peft",
        pipeline_tag="text-generation",
        tags=["sft", adapter.type.lower(), "finetune-operator"],
    )
    targets = ", ".join(adapter.target_modules)
    shape = f"rank {adapter.rank} alpha {adapter.alpha} dropout {adapter.dropout} on {targets}"
    scheduler = job.spec.hyperparameters.scheduler
    facts = {
        "Base model": f"{model_name} @ {record['revision']}",
        "Data set version": record["dataset"],
        "Adapter": adapter.type if is_full else f"{adapter.type} {shape}",
        "Trainable parameters": record["numTrainableParameters"],
        "Steps": record["step"],
        "Global batch size": recipe["global_batch_size"],
        "Learning rate": f"{recipe['learning_rate']:g} ({scheduler})",
        "Epochs": f"{recipe['epochs']:g}",
        "Base precision": "bfloat16" if recipe["bfloat16"] else "float32",
        "Seed": job.spec.hyperparameters.seed,
    }
    rows = [f"| {label} | {value} |" for label, value in facts.items()]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {job.name}",
        f"{'Model' if is_full else 'Adapter'} for {model_name}, trained by "
        f"finetune-operator from the job `{job.namespace}/{job.name}`.",
        "## Recipe\n\n| | |\n|---|---|\n" + "\n".join(rows),
    ]
    if scores:
        lines = [f"| {s['name']} | {s['base']} | {s['tuned']} |" for s in scores]
        parts.append(
            "## Held-out scores\n\n| metric | base | tuned |\n|---|---|---|\n" + "\n".join(lines)
        )
    if not is_full:
        parts.append(
            "## Use\n\n```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
            'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")\n```'
        )
    card = ModelCard("\n\n".join(parts) + "\n")
    return str(card)


def licence_of(folder: Path) -> str | None:
    """Return the base model's licence as its configuration or card states it, if it does."""
    config = read_config(folder)
    licence = config.get("license")
    if isinstance(licence, str):
        return licence
    card = folder / "README.md"
    if card.exists():
        from huggingface_hub import ModelCard

        value = ModelCard.load(card).data.to_dict().get("license")
        return value if isinstance(value, str) else None
    return None


def weights_file(manifest: Manifest) -> ManifestFile:
    """Return the manifest's entry of the weights.

    Raises:
        InternalError: There is none.
    """
    by_path = {entry.path: entry for entry in manifest.files}
    for name in WEIGHTS:
        if name in by_path:
            return by_path[name]
    raise InternalError("NoWeights", f"the saved folder holds no weights, only {sorted(by_path)}")


def manifest_digest(manifest: Manifest) -> str:
    """Return the digest that names exactly these files."""
    return manifest.digest
