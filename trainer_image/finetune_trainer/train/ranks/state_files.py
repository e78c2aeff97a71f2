"""Optimiser, scheduler and random states as safetensors: a checkpoint holds no pickle.

transformers, accelerate and DeepSpeed use ``torch.save`` and ``torch.load``, so a bucket's writer
could run code in the next attempt. :func:`state_files_below` replaces the format below one folder:
tensors as safetensors, other values as JSON in the header. Only plain values and a few named
classes are read back.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from finetune_trainer.errors import InternalError, StorageError

_TAG = "!"
_STRUCTURE = "structure"
_FORMAT = "finetune-state-1"
_PLAIN = (bool, int, str, type(None))
_NOT_WRITTEN = ("training_args.bin",)
"""Unused objects, which would run code when loaded."""

_OBJECTS = {
    "deepspeed.runtime.fp16.loss_scaler:LossScaler",
    "deepspeed.runtime.fp16.loss_scaler:DynamicLossScaler",
    "deepspeed.utils.tensor_fragment:fragment_address",
}
"""Plain data holders in DeepSpeed's states, written by their attributes."""

_ENUMS = {"deepspeed.runtime.zero.config:ZeroStageEnum"}


@contextlib.contextmanager
def state_files_below(root: Path) -> Iterator[None]:
    """Make ``torch.save`` and ``torch.load`` use :func:`write_state` and :func:`read_state`.

    Only for paths below ``root``. Elsewhere ``torch.load`` never unpickles more than tensors.
    """
    top = root.resolve()
    save, load = torch.save, torch.load

    def is_below(file: object) -> bool:
        return isinstance(file, str | Path) and Path(file).resolve().is_relative_to(top)

    def save_state(obj: object, f: Any, *arguments: Any, **options: Any) -> None:
        if not is_below(f):
            save(obj, f, *arguments, **options)
        elif Path(f).name not in _NOT_WRITTEN:
            write_state(obj, Path(f))

    def load_state(f: Any, map_location: Any = None, **options: Any) -> Any:
        if is_below(f):
            return read_state(Path(f), device=_device_of(map_location))
        return load(f, map_location=map_location, **{**options, "weights_only": True})

    with mock.patch.object(torch, "save", save_state), mock.patch.object(torch, "load", load_state):
        yield


def write_state(state: object, path: Path) -> None:
    """Write nested containers of numbers, text and tensors to one safetensors file.

    Raises:
        InternalError: ``StateNotPlain``: a value has no place in a file.
    """
    tensors = _Tensors()
    structure = _encode(state, tensors)
    metadata = {"format": _FORMAT, _STRUCTURE: json.dumps(structure, separators=(",", ":"))}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors.by_name, path, metadata=metadata)


def read_state(path: Path, *, device: str = "cpu") -> Any:
    """Read a file of :func:`write_state`.

    Raises:
        StorageError: ``StateUnreadable``: the file is damaged or another format.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            return _decode(json.loads(metadata[_STRUCTURE]), file.get_tensor)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(
            "StateUnreadable",
            f"{path} is not a state of this trainer: {error}. It was not read; delete this "
            "checkpoint, and the run resumes from the one before.",
        ) from error


def _device_of(map_location: object) -> str:
    if isinstance(map_location, str | torch.device):
        return str(map_location)
    return "cpu"  # none, or a function of storages that safetensors does not have


class _Tensors:
    """The tensors of a state, each under a name and in memory of its own: none may be shared."""

    def __init__(self) -> None:
        self.by_name: dict[str, torch.Tensor] = {}
        self._memory: set[int] = set()

    def put_aside(self, tensor: torch.Tensor) -> str:
        """Keep a tensor for the file and return its name."""
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        is_whole = storage.nbytes() == plain.numel() * plain.element_size()
        if not is_whole or storage.data_ptr() in self._memory:
            plain = plain.clone()
        self._memory.add(plain.untyped_storage().data_ptr())
        name = f"t{len(self.by_name)}"
        self.by_name[name] = plain
        return name


def _encode(value: Any, tensors: _Tensors) -> Any:
    """Return the JSON form of a value; its tensors are put aside under names of their own."""
    kind = type(value)
    if kind in _PLAIN or (kind is float and math.isfinite(value)):
        return value
    if kind is list:
        return [_encode(item, tensors) for item in value]
    if kind is float:
        return {_TAG: "float", "text": repr(value)}
    if kind in (tuple, set, torch.Size):
        return {_TAG: kind.__name__, "items": [_encode(item, tensors) for item in value]}
    if kind in (dict, OrderedDict):
        items = [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]
        return {_TAG: kind.__name__, "items": items}
    if kind in (torch.Tensor, torch.nn.Parameter):
        return {_TAG: "tensor", "name": tensors.put_aside(value)}
    if kind is np.ndarray and value.dtype.kind in "biuf":
        flat = torch.from_numpy(np.frombuffer(value.tobytes(), dtype=np.uint8).copy())
        return {
            _TAG: "ndarray",
            "type": value.dtype.str,
            "shape": list(value.shape),
            "name": tensors.put_aside(flat),
        }
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {_TAG: "scalar", "type": value.dtype.str, "value": _encode(value.item(), tensors)}
    if kind in (torch.dtype, torch.device):
        return {_TAG: kind.__name__, "text": str(value).removeprefix("torch.")}
    return _encode_object(value, tensors)


def _encode_object(value: Any, tensors: _Tensors) -> dict[str, Any]:
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    if name in _OBJECTS:
        return {_TAG: "object", "type": name, "state": _encode(dict(vars(value)), tensors)}
    if name in _ENUMS:
        return {_TAG: "enum", "type": name, "value": _encode(value.value, tensors)}
    raise InternalError(
        "StateNotPlain",
        f"a {name} is part of the training state, and checkpoints hold no objects: they would have "
        "to be pickled, which is code to whoever reads them",
    )


def _decode(value: Any, get_tensor: Callable[[str], torch.Tensor]) -> Any:
    """Return the value of a JSON form; ValueError for foreign forms."""
    if isinstance(value, list):
        return [_decode(item, get_tensor) for item in value]
    if not isinstance(value, dict):
        return value
    match value[_TAG]:
        case "float":
            return float(value["text"])
        case "tuple" | "set" | "Size" as name:
            kind = {"tuple": tuple, "set": set, "Size": torch.Size}[name]
            return kind(_decode(value["items"], get_tensor))
        case "dict" | "OrderedDict" as name:
            pairs = [(_decode(k, get_tensor), _decode(v, get_tensor)) for k, v in value["items"]]
            return OrderedDict(pairs) if name == "OrderedDict" else dict(pairs)
        case "tensor":
            return get_tensor(value["name"])
        case "ndarray":
            data = get_tensor(value["name"]).cpu().numpy().tobytes()
            return np.frombuffer(data, dtype=_number_type(value)).reshape(value["shape"]).copy()
        case "scalar":
            return _number_type(value).type(_decode(value["value"], get_tensor))
        case "dtype":
            kind = getattr(torch, value["text"])
            if not isinstance(kind, torch.dtype):
                raise ValueError(f"{value['text']!r} is no type of tensors")
            return kind
        case "device":
            return torch.device(value["text"])
        case "object" | "enum":
            return _decode_object(value, get_tensor)
        case other:
            raise ValueError(f"it holds a value of kind {other!r}")


def _decode_object(value: dict[str, Any], get_tensor: Callable[[str], torch.Tensor]) -> Any:
    allowed = _ENUMS if value[_TAG] == "enum" else _OBJECTS
    if value["type"] not in allowed:
        raise ValueError(f"it holds a {value['type']!r}")
    module, _, name = value["type"].partition(":")
    kind = getattr(importlib.import_module(module), name)
    if value[_TAG] == "enum":
        return kind(_decode(value["value"], get_tensor))
    made = kind.__new__(kind)
    vars(made).update(_decode(value["state"], get_tensor))
    return made


def _number_type(value: dict[str, Any]) -> np.dtype[Any]:
    kind: np.dtype[Any] = np.dtype(value["type"])
    if kind.kind not in "biuf":
        raise ValueError(f"{value['type']!r} is no type of numbers")
    return kind
