"""States survive a file bit by bit, and nothing in a file can run code."""

from __future__ import annotations

import json
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from finetune_trainer.errors import InternalError, StorageError
from finetune_trainer.train.ranks.state_files import read_state, state_files_below, write_state

pytestmark = pytest.mark.slow  # it needs torch


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, tensors by their bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (
            a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return repr(a) == repr(b)
    return bool(a == b)


def adamw_state() -> dict[str, Any]:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


STATES = {
    "optimiser": adamw_state(),
    "random states": {
        "python": random.Random(3).getstate(),
        "numpy": np.random.RandomState(3).get_state(),
        "cpu": torch.get_rng_state(),
    },
    "odd numbers": [float("inf"), float("-inf"), float("nan"), -0.0, 0.1, 2**80, True, None],
    "containers": OrderedDict(
        [(1, (1, "a")), (("x", 2), {3, 4}), ("empty", {}), ("shape", torch.Size([2, 3]))]
    ),
    "types": [torch.bfloat16, torch.device("cpu"), np.float32(0.1), np.int64(7), ""],
    "tensors": {
        "scalar": torch.tensor(1.5),
        "none": torch.zeros(0, 3),
        "view": torch.arange(12).reshape(3, 4)[:, 1],
        "flag": torch.tensor([True, False]),
        "half": torch.ones(2, dtype=torch.float16),
    },
}


@pytest.mark.parametrize("name", STATES)
def test_state_comes_back_bit_by_bit(tmp_path: Path, name: str) -> None:
    write_state(STATES[name], tmp_path / "state.pt")
    assert same(read_state(tmp_path / "state.pt"), STATES[name])


def test_tensors_that_share_memory_are_written_each_by_itself(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    write_state([whole, whole, whole[:3], whole.view(2, 3)], tmp_path / "s")
    again = read_state(tmp_path / "s")
    assert again[2].tolist() == [0, 1, 2]
    again[0][0] = 9
    assert again[1][0] == 0


class Opener:
    """Opens a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


HOSTILE = {
    "a pickle": lambda path, mark: path.write_bytes(pickle.dumps(Opener(mark))),
    "torch's format": lambda path, mark: torch.save({"a": Opener(mark)}, path),
    "an empty file": lambda path, mark: path.write_bytes(b""),
    "plain safetensors": lambda path, mark: save_file({"a": torch.ones(1)}, path),
    "an object of any class": lambda path, mark: save_structure(
        path, {"!": "object", "type": "pathlib:Path", "state": {"!": "dict", "items": []}}
    ),
    "an unknown kind": lambda path, mark: save_structure(path, {"!": "call", "name": "os.system"}),
    "a function as a type": lambda path, mark: save_structure(path, {"!": "dtype", "text": "load"}),
    "objects in an array": lambda path, mark: save_structure(
        path, {"!": "ndarray", "type": "O", "shape": [1], "name": "a"}
    ),
    "a missing tensor": lambda path, mark: save_structure(path, {"!": "tensor", "name": "b"}),
}


def save_structure(path: Path, structure: Any) -> None:
    metadata = {"format": "finetune-state-1", "structure": json.dumps(structure)}
    save_file({"a": torch.ones(8, dtype=torch.uint8)}, path, metadata=metadata)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused_and_nothing_of_it_runs(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "executed"
    HOSTILE[name](tmp_path / "optimizer.pt", mark)
    with state_files_below(tmp_path), pytest.raises(StorageError) as failure:
        torch.load(tmp_path / "optimizer.pt", weights_only=False)
    assert failure.value.reason == "StateUnreadable"
    assert not mark.exists()


def test_objects_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="Opener"):
        write_state({"a": [Opener(tmp_path)]}, tmp_path / "state.pt")
    assert not (tmp_path / "state.pt").exists()


def test_elsewhere_files_are_torch_s_own_and_hold_tensors_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    mark = tmp_path / "executed"
    torch.save({"a": Opener(mark)}, outside / "hostile.pt")
    with state_files_below(inside):
        torch.save({"a": torch.ones(2)}, outside / "a.pt")
        assert torch.load(outside / "a.pt", weights_only=False)["a"].tolist() == [1, 1]
        with pytest.raises(pickle.UnpicklingError):
            torch.load(outside / "hostile.pt", weights_only=False)
        torch.save({"args": 1}, inside / "training_args.bin")
        torch.save({"a": 1}, str(inside / "state.pt"))
        assert torch.load(str(inside / "state.pt"), map_location="cpu") == {"a": 1}
    assert not mark.exists()
    assert [path.name for path in inside.iterdir()] == ["state.pt"]
