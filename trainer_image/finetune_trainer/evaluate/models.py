"""Base and tuned model side by side: one set of weights in memory where the adapter allows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.errors import UserError
from finetune_trainer.model.grouped_attention import attend_in_groups
from finetune_trainer.model.load import load_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GPU_SHARE = 0.9
"""Share of each GPU that a model spread over several may take; see ``placement.WEIGHTS_SHARE``."""


class ModelPair:
    """Gives the base model and the tuned model in turn.

    Args:
        base_dir: Local base model.
        tuned_dir: Folder with an adapter, or with a fully tuned model.
        dtype: Type of the base weights; must be that of training, or scores drift.
        gpus: GPUs that a model is put on, spread over all of them; none computes on the CPU.
        gpu_bytes: Memory of one GPU.
        quantize: Load the base of an adapter in 4 bits, as QLoRA's training did.
        trust_remote_code: Run code that ships with the base model.
    """

    def __init__(
        self,
        base_dir: Path,
        tuned_dir: Path,
        *,
        dtype: torch.dtype,
        gpus: Sequence[int] = (),
        gpu_bytes: int = 0,
        quantize: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self._base_dir = base_dir
        self._tuned_dir = tuned_dir
        self._dtype = dtype
        self._gpus = gpus
        self._gpu_bytes = gpu_bytes
        self._trust = trust_remote_code
        self._has_adapter = (tuned_dir / "adapter_config.json").exists()
        self._quantize = quantize and self._has_adapter
        self._model: PreTrainedModel | None = None

    @contextmanager
    def base(self) -> Iterator[PreTrainedModel]:
        """Yield the base model."""
        if not self._has_adapter:
            yield self._load(self._base_dir)
            return
        model = self._adapted()
        with model.disable_adapter():
            yield model

    @contextmanager
    def tuned(self) -> Iterator[PreTrainedModel]:
        """Yield the tuned model."""
        yield self._adapted() if self._has_adapter else self._load(self._tuned_dir)

    @contextmanager
    def open(self, side: str) -> Iterator[PreTrainedModel]:
        """Yield the model of a side, ``base`` or ``tuned``."""
        with self.base() if side == "base" else self.tuned() as model:
            yield model

    def _adapted(self) -> PreTrainedModel:
        if self._model is None:
            from peft import PeftModel

            base = self._load(self._base_dir)
            self._model = PeftModel.from_pretrained(base, str(self._tuned_dir)).eval()
        return self._model

    def _load(self, folder: Path) -> PreTrainedModel:
        spread = len(self._gpus) > 1
        # The CPU needs no map, except that 4-bit weights would be put on a GPU without one.
        one = {"": self._gpus[0] if self._gpus else "cpu"}
        model = load_model(
            folder,
            dtype=self._dtype,
            trust_remote_code=self._trust,
            quantize=self._quantize,
            device_map="auto" if spread else one if self._gpus or self._quantize else None,
            max_memory={gpu: int(self._gpu_bytes * GPU_SHARE) for gpu in self._gpus}
            if spread
            else None,
        )
        if spread and not set(model.hf_device_map.values()) <= set(self._gpus):
            raise UserError(
                "ModelTooLarge",
                f"the base model in {folder} does not fit {len(self._gpus)} GPUs layer by layer; "
                "raise resources.gpusPerNode, or use method.adapter.type QLoRA",
            )
        attend_in_groups(model)
        return model.eval()
