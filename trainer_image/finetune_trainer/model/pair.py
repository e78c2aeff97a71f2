"""Base, tuned and published model in turn: one set of weights where their adapters allow it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.failures import is_out_of_memory
from finetune_trainer.model.adapters import compute_updates_as_trained
from finetune_trainer.model.kernels.grouped_attention import attend_in_groups
from finetune_trainer.model.kernels.output_layer import pack_output_input
from finetune_trainer.model.load import load_model
from finetune_trainer.planning.headers import read_header

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

GPU_SHARE = 0.9
"""Share of each GPU that a model spread over several may take; see ``placement.WEIGHTS_SHARE``."""


ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedFolder:
    """A published version on the local disk, and how it was trained.

    Attributes:
        folder: Adapter, or fully tuned model.
        bfloat16: Type of its base weights; else float32.
        quantize: Its base is loaded in 4 bits.
    """

    folder: Path
    bfloat16: bool
    quantize: bool

    @property
    def has_adapter(self) -> bool:
        """Whether it lies on a base model."""
        return (self.folder / ADAPTER_CONFIG).exists()


class ModelPair:
    """Gives the base model and the tuned model in turn, and a published version beside them.

    Args:
        base_dir: Local base model.
        tuned_dir: Folder with an adapter, or with a fully tuned model.
        dtype: Type of the base weights; must be that of training, or scores drift.
        gpus: GPUs that a model is put on, spread over all of them; none computes on the CPU.
        gpu_bytes: Memory of one GPU.
        quantize: Load the base of an adapter in 4 bits, as QLoRA's training did.
        trust_remote_code: Run code that ships with the base model.
        published: A version to give as well; None for none.
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
        published: PublishedFolder | None = None,
    ) -> None:
        self._published = published
        self._base_dir = base_dir
        self._tuned_dir = tuned_dir
        self._dtype = dtype
        self._gpus = gpus
        self._gpu_bytes = gpu_bytes
        self._trust = trust_remote_code
        self._has_adapter = (tuned_dir / ADAPTER_CONFIG).exists()
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
    def published(self) -> Iterator[PreTrainedModel]:
        """Yield the published version, as it was trained; nothing else of this pair afterwards.

        An adapter that was trained on the same weights is put beside the tuned model's. Any other
        is loaded by itself, once the other models are gone.

        Raises:
            UserError: ``PublishedUnusable``: its weights do not fit the base model.
        """
        assert self._published is not None
        try:
            model = self._switched() if self._shares_base(self._published) else None
            model = model or self._load_published(self._published)
        except TrainerError as error:
            words = error.message
            if error.reason == "QuantizationUnavailable":
                words = (
                    "it was tuned with QLoRA, and its 4-bit weights need bitsandbytes, which is "
                    "not installed here: evaluate with an image that has it"
                )
            raise UserError("PublishedUnusable", words) from error
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise UserError(
                "PublishedUnusable", f"its weights do not load on this base model: {error}"
            ) from error
        yield model

    @contextmanager
    def open(self, name: str) -> Iterator[PreTrainedModel]:
        """Yield a model: ``base``, ``tuned`` or ``published``."""
        models = {"base": self.base, "tuned": self.tuned, "published": self.published}
        with models[name]() as model:
            yield model

    def _shares_base(self, published: PublishedFolder) -> bool:
        import torch

        is_alike = (published.bfloat16, published.quantize) == (
            self._dtype is torch.bfloat16,
            self._quantize,
        )
        return self._has_adapter and published.has_adapter and is_alike

    def _switched(self) -> PreTrainedModel | None:
        """Put the published adapter in the tuned one's place; None where PEFT takes no second."""
        assert self._published is not None
        model: Any = self._adapted()
        if any(getattr(c, "target_parameters", None) for c in model.peft_config.values()):
            return None  # an update of fused experts is one adapter's alone
        model.load_adapter(str(self._published.folder), adapter_name="published")
        model.set_adapter("published")
        _check_loaded(model, self._published.folder, "published")
        compute_updates_as_trained(model)
        loaded: PreTrainedModel = model.eval()
        return loaded

    def _load_published(self, published: PublishedFolder) -> PreTrainedModel:
        import torch

        self._model = None
        alone = ModelPair(
            self._base_dir,
            published.folder,
            dtype=torch.bfloat16 if published.bfloat16 else torch.float32,
            gpus=self._gpus,
            gpu_bytes=self._gpu_bytes,
            quantize=published.quantize,
            trust_remote_code=self._trust,
        )
        with alone.tuned() as model:
            if published.has_adapter:
                _check_loaded(model, published.folder, "default")
            return model

    def _adapted(self) -> PreTrainedModel:
        if self._model is None:
            from peft import PeftModel

            base = self._load(self._base_dir)
            self._model = PeftModel.from_pretrained(base, str(self._tuned_dir)).eval()
            compute_updates_as_trained(self._model)
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
        pack_output_input(model)
        _answer_by_likelihood_alone(model)
        return model.eval()


def _answer_by_likelihood_alone(model: PreTrainedModel) -> None:
    """Forget how a model's folder would have it generate.

    A penalty for repetition, as Qwen2.5 ships one, would count every token of the prompt: against
    labels that the prompt names, against fields that an answer copies, and more against the base
    behind a long prompt than against the tuned model. Servers are not told of it by an adapter
    either, whose own settings name stop tokens alone; where a folder ships it, card and report say
    so (``publish/generation.py``).
    """
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig()


def _check_loaded(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Make sure that an adapter has come in whole: PEFT only warns of what it finds no place for.

    Raises:
        UserError: ``PublishedUnusable``.
    """
    stored = sum("lora_" in path for path in read_header(folder / ADAPTER_WEIGHTS))
    loaded = sum(
        "lora_" in path and f".{name}." in f"{path}." for path, _ in model.named_parameters()
    )
    if stored != loaded or not stored:
        raise UserError(
            "PublishedUnusable",
            f"its adapter has {stored} tensors, and this base model has a place for {loaded}",
        )
