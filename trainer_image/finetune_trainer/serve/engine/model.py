"""One base model in memory, with the adapters that are loaded on it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import TrainerError
from finetune_trainer.model.adapters import compute_updates_as_trained
from finetune_trainer.model.chat_format import (
    FORMAT_NAME,
    ChatFormat,
    decide_format,
    read_format,
    read_generation_config,
)
from finetune_trainer.model.context import context_of
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.model.kernels.grouped_attention import attend_in_groups
from finetune_trainer.model.kernels.output_layer import pack_output_input
from finetune_trainer.model.load import load_model, load_tokenizer, read_config
from finetune_trainer.serve.engine.requests import RequestError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """One name that requests may give as ``model``.

    Attributes:
        name: The name.
        root: Folder of its weights.
        encoder: Writes its prompts and reads its answers.
        slot: PEFT's name of the adapter; None for the base model.
        created: Unix time of loading.
    """

    name: str
    root: str
    encoder: ChatTokenizer
    slot: str | None
    created: int


class ServedModel:
    """A base model whose adapters come and go. Only one thread may use it.

    Args:
        folder: Local base model.
        name: Its name in requests.
        dtype: Type of its weights; the training's, or greedy answers differ from the evaluation's.
        gpu: Index of the GPU; None computes on the CPU.
        quantize: Load the base in 4 bits, as QLoRA trains it.
        trust_remote_code: Run code that ships with the base model.
        max_adapters: Adapters that may be loaded at once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        dtype: torch.dtype,
        gpu: int | None = None,
        quantize: bool = False,
        trust_remote_code: bool = False,
        max_adapters: int = 32,
    ) -> None:
        from transformers import GenerationConfig

        self._max_adapters = max_adapters
        self._folder = folder
        self._trust = trust_remote_code
        needs_map = gpu is not None or quantize
        model = load_model(
            folder,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            quantize=quantize,
            device_map={"": "cpu" if gpu is None else gpu} if needs_map else None,
        )
        attend_in_groups(model)
        pack_output_input(model)
        # The evaluation ignores penalties that ship with a model, so answers here must too.
        model.generation_config = GenerationConfig()
        self._model: Any = model.eval()
        self._has_layers = False
        self._num_loaded = 0
        self._encoders: dict[ChatFormat, ChatTokenizer] = {}
        self.context = context_of(read_config(folder))
        self.base_name = name
        base = Served(
            name=name,
            root=str(folder),
            encoder=self._make_encoder(folder),
            slot=None,
            created=int(time.time()),
        )
        self.served: dict[str, Served] = {name: base}

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load an adapter under a new name.

        Raises:
            RequestError: The name is taken, no slot is free, or the adapter does not fit this base.
        """
        if name in self.served:
            raise RequestError(
                f"The lora adapter '{name}' has already been loaded. Names are immutable: unload "
                "it first, or load the new adapter under a new name",
                param="lora_name",
                code="name_taken",
            )
        if len(self.served) > self._max_adapters:
            raise RequestError(
                f"All {self._max_adapters} slots for adapters are taken: unload one, or start the "
                "server with a larger --max-adapters",
                param="lora_name",
                code="no_free_slot",
            )
        if not (folder / "adapter_config.json").is_file() or not (folder / _WEIGHTS).is_file():
            raise RequestError(
                f"{folder} has no adapter_config.json and {_WEIGHTS}: give the folder of a LoRA "
                "adapter",
                status=404,
                param="lora_path",
                code="adapter_not_found",
            )
        encoder = self._make_encoder(folder)
        slot = f"adapter{self._num_loaded}"
        self._num_loaded += 1
        try:
            self._load_weights(slot, folder)
        except Exception as error:
            self._drop(slot)
            if isinstance(error, RequestError):
                raise
            raise _misfit(folder, str(error).strip().splitlines()[0]) from error
        self.served[name] = Served(
            name=name, root=str(folder), encoder=encoder, slot=slot, created=int(time.time())
        )

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            RequestError: It is not loaded.
        """
        served = self.served.get(name)
        if served is None or served.slot is None:
            raise RequestError(
                f"The lora adapter '{name}' cannot be found. GET /v1/models lists what is loaded",
                status=404,
                param="lora_name",
                code="model_not_found",
            )
        del self.served[name]
        self._drop(served.slot)

    @contextmanager
    def use(self, served: Served) -> Iterator[PreTrainedModel]:
        """Yield the model with one adapter, or with none."""
        if served.slot is not None:
            if self._model.active_adapters != [served.slot]:
                self._model.set_adapter(served.slot, inference_mode=True)
            yield self._model
        elif self._has_layers:
            with self._model.disable_adapter():
                yield self._model
        else:
            yield self._model

    def _load_weights(self, slot: str, folder: Path) -> None:
        """Put an adapter's weights on the base, every one of them.

        PEFT only returns the names for which it found no place or no weight. The base would then
        answer in the adapter's place.
        """
        from peft import PeftConfig, PeftModelForCausalLM

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not self._has_layers:
                config = PeftConfig.from_pretrained(str(folder))
                config.inference_mode = True
                self._model = PeftModelForCausalLM(self._model, config, adapter_name=slot)
                self._has_layers = True
            device = str(self._model.device)
            result = self._model.load_adapter(str(folder), adapter_name=slot, torch_device=device)
        missing, unexpected = list(result.missing_keys), list(result.unexpected_keys)
        if missing or unexpected:
            first = (unexpected or missing)[0]
            raise _misfit(
                folder,
                f"{len(unexpected)} of its tensors have no place in the base model, and "
                f"{len(missing)} of its places have no tensor, first {first}",
            )
        compute_updates_as_trained(self._model)
        self._model.eval()

    def _drop(self, slot: str) -> None:
        if not self._has_layers or slot not in self._model.peft_config:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model.delete_adapter(slot)

    def _make_encoder(self, folder: Path) -> ChatTokenizer:
        """Return the encoder of the chat format of a folder; equal formats share one."""
        try:
            if (folder / FORMAT_NAME).exists():
                chat_format = read_format(folder)
            else:
                tokenizer = load_tokenizer(self._folder, trust_remote_code=self._trust)
                chat_format = decide_format(tokenizer, read_generation_config(folder))
        except (ValueError, TypeError, TrainerError) as error:
            raise RequestError(
                f"{folder}/{FORMAT_NAME} is unreadable ({error}): load what this program published",
                param="lora_path",
                code="adapter_unusable",
            ) from error
        if chat_format not in self._encoders:
            # An encoder sets up its tokenizer, which no other thread may use meanwhile.
            tokenizer = load_tokenizer(self._folder, trust_remote_code=self._trust)
            self._encoders[chat_format] = ChatTokenizer(tokenizer, chat_format, max_tokens=2**31)
        return self._encoders[chat_format]


def _misfit(folder: Path, what: str) -> RequestError:
    return RequestError(
        f"The adapter in {folder} does not fit the base model: {what}. Without all of its weights "
        "the base model would answer. Load an adapter that was trained on this base model",
        param="lora_path",
        code="adapter_unusable",
    )
