"""Folds an adapter into its base tensor by tensor, in the memory of a few of them.

The model exists without weights. Each adapted module gets its own from the base's files, is merged
in float32, rounded once and written; the files of the merged model are small.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune_trainer.model.load import read_config
from finetune_trainer.planning.headers import INDEX_NAME, read_header, weight_files

if TYPE_CHECKING:
    from peft import PeftModel

FILE_BYTES = 2**29
"""Bytes of tensors that one file of the merged model holds, at least one tensor."""
_WRAPPED = "base_model.model."
"""Prefix of PEFT's module names."""


@dataclass(kw_only=True)
class _Writer:
    """Writes tensors to files of about :data:`FILE_BYTES`, and their index."""

    target: Path
    held: dict[str, torch.Tensor] = field(default_factory=dict)
    files: list[list[str]] = field(default_factory=list)
    num_bytes: int = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor for the next file; write the file first if it is full."""
        held = sum(each.nbytes for each in self.held.values())
        if self.held and held + tensor.nbytes > FILE_BYTES:
            self._flush()
        self.held[name] = tensor.contiguous()
        self.num_bytes += tensor.nbytes

    def close(self) -> None:
        """Write what is held; give the files their names and write the index."""
        self._flush()
        if len(self.files) == 1:
            self._part(0).rename(self.target / "model.safetensors")
            return
        places = {}
        for number, names in enumerate(self.files):
            file = f"model-{number + 1:05d}-of-{len(self.files):05d}.safetensors"
            self._part(number).rename(self.target / file)
            places.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": places}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (self.target / INDEX_NAME).write_text(text)

    def _part(self, number: int) -> Path:
        return self.target / f"part-{number}"

    def _flush(self) -> None:
        save_file(self.held, self._part(len(self.files)), metadata={"format": "pt"})
        self.files.append(list(self.held))
        self.held = {}


def list_weights(folder: Path) -> dict[str, Path]:
    """Return the names of a model's tensors and the files that hold them, file by file."""
    return {name: path for path in weight_files(folder) for name in read_header(path)}


def open_without_weights(model_dir: Path, adapter_dir: Path) -> PeftModel | None:
    """Return the tuned model with the adapter's weights alone.

    None if the base's files do not hold each adapted tensor under its name in the model (stacked
    experts, models inside others), or the model brings its own code: it must be loaded whole.
    """
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    known = read_config(model_dir)
    if "auto_map" in known or "text_config" in known:
        return None
    config = AutoConfig.from_pretrained(model_dir, local_files_only=True)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, str(adapter_dir), low_cpu_mem_usage=True)
    _load_adapter(tuned, load_file(adapter_dir / "adapter_model.safetensors"))
    adapted = _adapted(tuned, set(list_weights(model_dir)))
    return tuned if all(f"{name}.weight" in names for name, names in adapted.items()) else None


def _load_adapter(tuned: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    """Give the adapter its weights; PEFT itself leaves it where the base is, without memory."""
    from peft import get_peft_model_state_dict

    held = tuned.state_dict()
    saved_as = {id(tensor): name for name, tensor in get_peft_model_state_dict(tuned, held).items()}
    own = {name: weights[saved_as[id(each)]] for name, each in held.items() if id(each) in saved_as}
    tuned.load_state_dict(own, strict=False, assign=True)


def merge_by_tensor(tuned: PeftModel, model_dir: Path, target: Path, dtype: torch.dtype) -> None:
    """Write the merged model of :func:`open_without_weights`; all but the adapted stays the base's.

    Raises:
        ValueError: A merged value is not finite.
    """
    places = list_weights(model_dir)
    adapted = _adapted(tuned, set(places))
    module_of = {name: module for module, names in adapted.items() for name in names}
    writer, done = _Writer(target=target), set()
    for name in places:
        module = module_of.get(name)
        if module is None:
            writer.add(name, _narrow(_read(places, name), dtype))
        elif module not in done:
            done.add(module)
            for merged, tensor in _merge(tuned, module, adapted[module], places):
                writer.add(merged, _narrow(tensor, dtype))
    writer.close()
    config = {**read_config(model_dir), "dtype": str(dtype).removeprefix("torch.")}
    config.pop("torch_dtype", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if (model_dir / "generation_config.json").is_file():
        shutil.copyfile(model_dir / "generation_config.json", target / "generation_config.json")


def _adapted(tuned: PeftModel, stored: set[str]) -> dict[str, list[str]]:
    """Return adapted and wholly trained modules, by their names in the base, with their tensors."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    found = {}
    for name, module in tuned.named_modules():
        if isinstance(module, kinds):
            base = name.removeprefix(_WRAPPED)
            found[base] = sorted(each for each in stored if each.startswith(f"{base}."))
    return found


def _merge(
    tuned: PeftModel, name: str, names: list[str], places: dict[str, Path]
) -> Iterator[tuple[str, torch.Tensor]]:
    module: Any = tuned.get_submodule(f"{_WRAPPED}{name}")
    saved = getattr(module, "modules_to_save", None)
    if saved is not None:
        trained = saved[module.active_adapters[0]].state_dict()
        yield from ((each, trained[each.removeprefix(f"{name}.")]) for each in names)
        return
    layer = module.get_base_layer()
    for each in names:
        value = torch.nn.Parameter(_read(places, each).float(), requires_grad=False)
        setattr(layer, each.removeprefix(f"{name}."), value)
    module.merge(safe_merge=True)
    for each in names:
        part = each.removeprefix(f"{name}.")
        value = getattr(layer, part)
        yield each, value.data
        setattr(layer, part, torch.nn.Parameter(value.to("meta"), requires_grad=False))


def _read(places: dict[str, Path], name: str) -> torch.Tensor:
    # The file is opened for each tensor: pages that were read leave memory with it.
    with safe_open(places[name], framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def _narrow(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
