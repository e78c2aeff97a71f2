"""Folds an adapter into its base: ``python -m finetune_trainer.publish.merge plan.json``.

A separate process, because the parent never imports torch. It computes in float32 on the CPU and
rounds once to the base's type. For QLoRA it starts from the original weights. Models whose files
name the adapted tensors otherwise are loaded whole.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.model.load import load_model, load_tokenizer, read_config
from finetune_trainer.planning.headers import read_headers
from finetune_trainer.process import die_with_parent

if TYPE_CHECKING:
    import torch

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""The files of a tokenizer; copied unchanged from the base."""

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in")


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePlan:
    """The parent's plan, as JSON; ``failure`` is the file for an error."""

    model_dir: str
    adapter_dir: str
    target_dir: str
    failure: str
    trust_remote_code: bool


def check_mergeable(spec: FineTuneJobSpec, folder: Path) -> None:
    """Refuse, before any training, a merge that would change answers.

    Raises:
        UserError: ``MergeUnsupported``: the base is quantised, or the adapter would change
            embeddings that also serve as the output head.
    """
    if not spec.writes_merged:
        return
    adapter = spec.method.adapter
    config = read_config(folder)
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        raise UserError(
            "MergeUnsupported",
            f"output.formats Merged: the base model is quantised ({method}), so an adapter cannot "
            "be folded into its weights; name the unquantised model in model.uri, or drop Merged",
        )
    text = config.get("text_config", config)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    named = [t for t in adapter.target_modules if t.rsplit(".", 1)[-1] in _EMBEDDINGS]
    if tied and named:
        raise UserError(
            "MergeUnsupported",
            f"output.formats Merged: method.adapter.targetModules names {named[0]!r}, which this "
            "model also uses as its output head (tie_word_embeddings), so the merged model would "
            "answer otherwise than the adapter; leave it out, or drop Merged",
        )


def merge_adapter(plan: MergePlan) -> None:
    """Write the merged model with its tokenizer to the target folder.

    Raises:
        UserError: The base does not load, or merging gave values that are not finite.
    """
    model_dir, target = Path(plan.model_dir), Path(plan.target_dir)
    _write_merged(plan, model_dir, target)
    for name in TOKENIZER_FILES:
        if (model_dir / name).is_file():
            shutil.copyfile(model_dir / name, target / name)
    if not (target / "tokenizer_config.json").exists():
        # A tokenizer in code of the model's own, or in files of other names.
        tokenizer = load_tokenizer(model_dir, trust_remote_code=plan.trust_remote_code)
        tokenizer.save_pretrained(target)


def _write_merged(plan: MergePlan, model_dir: Path, target: Path) -> None:
    import torch
    from peft import PeftModel

    from finetune_trainer.publish.tensors import merge_by_tensor, open_without_weights

    dtype = saved_dtype(model_dir)
    tuned = open_without_weights(model_dir, Path(plan.adapter_dir))
    if tuned is not None:
        with _finite_values():
            merge_by_tensor(tuned, model_dir, target, dtype)
        return
    base = load_model(model_dir, dtype=torch.float32, trust_remote_code=plan.trust_remote_code)
    tuned = PeftModel.from_pretrained(base, plan.adapter_dir, torch_device="cpu")
    with _finite_values():
        merged = tuned.merge_and_unload(safe_merge=True)
    merged.to(dtype).save_pretrained(target)


@contextmanager
def _finite_values() -> Iterator[None]:
    """Turn PEFT's ``ValueError`` about values that are not finite into a ``UserError``."""
    try:
        yield
    except ValueError as error:
        raise UserError(
            "MergeNotFinite",
            f"folding the adapter into the base failed: {error}; the training diverged: lower "
            "hyperparameters.learningRate",
        ) from error


def saved_dtype(folder: Path) -> torch.dtype:
    """Return the type of most weights in a model folder, from the weight files."""
    import torch

    known = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    sizes = dict.fromkeys(known, 0)
    for stored in read_headers(folder).values():
        if stored.dtype in sizes:
            sizes[stored.dtype] += math.prod(stored.shape)
    return known[max(sizes, key=lambda name: sizes[name])] if any(sizes.values()) else torch.float32


def main(argv: list[str]) -> int:
    """Merge as the plan says; returns the exit code."""
    die_with_parent()
    plan = MergePlan(**json.loads(Path(argv[1]).read_text()))
    try:
        merge_adapter(plan)
    except Exception as error:
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        failure = classify(error)
        Path(plan.failure).write_text(json.dumps(failure_record(failure)))
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
