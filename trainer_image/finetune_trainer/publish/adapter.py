"""Makes a saved adapter publishable: canonical configuration, model card, run record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import InternalError
from finetune_trainer.model.chat_format import ChatFormat, write_format
from finetune_trainer.publish.card import model_card
from finetune_trainer.storage import Manifest, ManifestFile

WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json")
_DROPPED = ("training_args.bin", "optimizer.pt", "scheduler.pt")


def finish_adapter(
    folder: Path,
    *,
    job: ResolvedJob,
    model_name: str,
    record: dict[str, Any],
    chat_format: ChatFormat,
) -> None:
    """Rewrite PEFT's files so that equal runs give equal bytes and servers accept them.

    ``record`` becomes ``run.json``; ``chat_format`` says how conversations were written.
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
    write_chat_files(folder, chat_format)
    (folder / "README.md").write_text(model_card(job, model_name=model_name, record=record))


def write_chat_files(folder: Path, chat_format: ChatFormat) -> None:
    """Write a model's chat format and stop tokens into its folder.

    This program reads ``chat.json``; others read ``chat_template.jinja`` and
    ``generation_config.json``.
    """
    write_format(chat_format, folder)
    if chat_format.template is not None:
        (folder / "chat_template.jinja").write_text(chat_format.template, encoding="utf-8")
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    config["eos_token_id"] = list(chat_format.stop_ids)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def weights_file(manifest: Manifest) -> ManifestFile:
    """Return the manifest's entry of the weights. Raise ``InternalError`` without one."""
    by_path = {entry.path: entry for entry in manifest.files}
    for name in WEIGHTS:
        if name in by_path:
            return by_path[name]
    raise InternalError("NoWeights", f"the saved folder holds no weights, only {sorted(by_path)}")
