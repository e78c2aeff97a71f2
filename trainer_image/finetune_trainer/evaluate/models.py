"""Base and tuned model side by side: one set of weights in memory where the adapter allows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_trainer.model.load import load_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class ModelPair:
    """Gives the base model and the tuned model in turn.

    Args:
        base_dir: Local base model.
        tuned_dir: Folder with an adapter, or with a fully tuned model.
        dtype: Type of the base weights; must be that of training, or scores drift.
        use_gpu: Put the models on the first GPU.
        trust_remote_code: Run code that ships with the base model.
    """

    def __init__(
        self,
        base_dir: Path,
        tuned_dir: Path,
        *,
        dtype: torch.dtype,
        use_gpu: bool,
        trust_remote_code: bool = False,
    ) -> None:
        self._base_dir = base_dir
        self._tuned_dir = tuned_dir
        self._dtype = dtype
        self._device = "cuda" if use_gpu else "cpu"
        self._trust = trust_remote_code
        self._has_adapter = (tuned_dir / "adapter_config.json").exists()
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

    def _adapted(self) -> PreTrainedModel:
        if self._model is None:
            from peft import PeftModel

            base = self._load(self._base_dir)
            self._model = PeftModel.from_pretrained(base, str(self._tuned_dir)).eval()
        return self._model

    def _load(self, folder: Path) -> PreTrainedModel:
        model = load_model(folder, dtype=self._dtype, trust_remote_code=self._trust)
        return model.to(self._device).eval()
