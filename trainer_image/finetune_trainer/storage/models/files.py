"""The files of a base model: selection, completeness, identity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.storage.checksums import hash_file
from finetune_trainer.storage.manifest import canonical_json
from finetune_trainer.storage.store import ObjectInfo

_SAMPLE_BYTES = 1024 * 1024
_WEIGHTS = ".safetensors"
# A second copy of the weights in another layout, beside the one transformers loads.
_OTHER_LAYOUT = re.compile(r"consolidated.*\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSelection:
    """Which files of a model are wanted: always configuration and tokenizer."""

    include_weights: bool = True
    allow_code: bool = False

    @property
    def name(self) -> str:
        """Distinguishes the copies of one model in the cache."""
        weights = "" if self.include_weights else "-tokenizer"
        return weights + ("-code" if self.allow_code else "")

    def choose(self, files: Iterable[ObjectInfo]) -> list[ObjectInfo]:
        """Return the wanted ones of a model's files; never pickles."""
        chosen = [file for file in files if self._is_wanted(file.key)]
        weights = [file.key for file in chosen if file.key.endswith(_WEIGHTS)]
        if any(not _OTHER_LAYOUT.fullmatch(key) for key in weights):
            chosen = [file for file in chosen if not _OTHER_LAYOUT.fullmatch(file.key)]
        return chosen

    def _is_wanted(self, key: str) -> bool:
        if key.endswith(_WEIGHTS):
            # Sub-folders hold other things: ONNX exports, the original release.
            return self.include_weights and "/" not in key
        if key.endswith(_PICKLES):
            return False
        return self.allow_code or not key.endswith(".py")


def check_usable(files: Iterable[ObjectInfo], uri: str, selection: ModelSelection) -> None:
    """Refuse a folder that is no model, before anything is downloaded.

    Raises:
        UserError: ``ModelNotFound``, ``ModelUnusable``; says what is missing.
    """
    keys = [file.key for file in files]
    if not keys:
        raise UserError(
            "ModelNotFound",
            f"There is no file under {uri}. Check bucket, prefix and endpoint, or the folder.",
        )
    shown = ", ".join(keys[:8]) + (", ..." if len(keys) > 8 else "")
    if "config.json" not in keys:
        raise UserError(
            "ModelNotFound",
            f"{uri} is not a model: it has no config.json. It holds {shown}. Name the folder that "
            "holds config.json, the weights and the tokenizer.",
        )
    if selection.include_weights and not any(
        key.endswith(_WEIGHTS) and "/" not in key for key in keys
    ):
        raise UserError(
            "ModelUnusable",
            f"{uri} has no .safetensors weights. It holds {shown}. Pickled weights (.bin, .pt) can "
            "run code when loaded and are refused; convert them with "
            "save_pretrained(..., safe_serialization=True).",
        )


def fingerprint(folder: Path, files: Iterable[ObjectInfo]) -> str:
    """Identify the content of a local model without reading all of it.

    Hashes names, sizes, small files, and the first and last MiB of large files.
    """
    entries: list[list[object]] = []
    for file in files:
        path = folder / file.key
        if file.num_bytes <= 2 * _SAMPLE_BYTES:
            sample = hash_file(path)[1]
        else:
            with path.open("rb") as body:
                digest = hashlib.sha256(body.read(_SAMPLE_BYTES))
                body.seek(-_SAMPLE_BYTES, 2)
                digest.update(body.read())
            sample = digest.hexdigest()
        entries.append([file.key, file.num_bytes, sample])
    return hashlib.sha256(canonical_json(entries)).hexdigest()
