"""Lack of memory makes the next attempt smaller, step by step, until there is nothing to give."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import Hang, OutOfMemory, RetryableError, StorageError, UserError
from finetune_trainer.failures import classify
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.storage.local import FileStore
from finetune_trainer.train.parent.attempts import note_end, noting_end, read_ends
from finetune_trainer.train.recipe.lesson import End, MemoryLimits, learn, with_next_attempt
from finetune_trainer.train.recipe.recipe import DataShape, Recipe, decide_recipe

MODEL = describe_architecture(
    {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49_152,
        "tie_word_embeddings": True,
    },
    {},
)
CPU = Hardware(num_gpus=0, memory_bytes=24 * 2**30, supports_bfloat16=True, num_cpus=2)
ROWS = DataShape(num_rows=480, num_tokens=24_000, mean_tokens=50, longest_tokens=80)
END = End(
    failure_class="OutOfMemory",
    reason="OutOfMemory",
    message="out of memory: CUDA out of memory",
    rank=1,
    step=3,
    micro_batch_size=8,
    activation_checkpointing=False,
    ended_at="2026-01-01T00:00:00+00:00",
)


def job(**hyper: Any) -> ResolvedJob:
    method = hyper.pop("method", {})
    spec = {
        "model": {"uri": "hf://a/b"},
        "dataset": {"sources": [{"uri": "file:///x"}]},
        "output": {"uri": "file:///y"},
        "resources": {"gpusPerNode": 0},
        "hyperparameters": hyper,
        "method": method,
    }
    wire = {"metadata": {"name": "job"}, "spec": spec}
    return resolve_job(FineTuneJob.from_wire(wire), namespace="n", uid="u")


def decide(job: ResolvedJob, lesson: MemoryLimits) -> Recipe:
    return decide_recipe(job, ROWS, MODEL, CPU, use_gpu=False, lesson=lesson)


@pytest.mark.parametrize("asked", ["auto", 8])
def test_each_attempt_takes_half_and_the_global_batch_stays(asked: int | str) -> None:
    wanted = job(globalBatchSize=8, microBatchSize=asked)
    ends: list[End] = []
    seen = []
    for _ in range(5):
        recipe = decide(wanted, learn(wanted, ends))
        seen.append((recipe.micro_batch_size, recipe.activation_checkpointing))
        assert recipe.micro_batch_size * recipe.accumulation_steps == 8
        assert recipe.global_batch_size == 8
        end = replace(
            END,
            micro_batch_size=recipe.micro_batch_size,
            activation_checkpointing=recipe.activation_checkpointing,
        )
        ends.append(end)
    assert seen == [(8, False), (4, False), (2, False), (1, False), (1, True)]
    assert recipe.out_of_memory_at == 8
    with pytest.raises(UserError) as failure:
        raise with_next_attempt(wanted, end, OutOfMemory("OutOfMemory", "no"))
    assert failure.value.reason == "OutOfMemoryAtSmallest"
    assert "lower hyperparameters.maxSequenceLength (now 1024)" in failure.value.message


def test_a_share_that_does_not_halve_takes_the_next_smaller_divisor() -> None:
    wanted = job(globalBatchSize=9, microBatchSize=9)
    assert decide(wanted, learn(wanted, [replace(END, micro_batch_size=9)])).micro_batch_size == 3


def test_only_lack_of_memory_after_the_recipe_teaches() -> None:
    hung = replace(END, failure_class="Hang")
    early = replace(END, micro_batch_size=0)
    assert learn(job(), [hung, early]) == MemoryLimits()


@pytest.mark.parametrize(
    ("hyper", "end", "said"),
    [
        ({}, END, "the next attempt takes at most 4 examples per forward pass instead of 8"),
        ({}, replace(END, micro_batch_size=1), "the next attempt recomputes activations"),
        ({}, replace(END, micro_batch_size=0), "no"),
    ],
)
def test_the_failure_says_what_the_next_attempt_does(
    hyper: dict[str, Any], end: End, said: str
) -> None:
    error = with_next_attempt(job(**hyper), end, OutOfMemory("OutOfMemory", "no"))
    assert (error.exit_code, said in error.message) == (77, True)


@pytest.mark.parametrize(
    ("hyper", "end"),
    [
        ({"activationCheckpointing": "Off"}, replace(END, micro_batch_size=1)),
        ({}, replace(END, micro_batch_size=1, activation_checkpointing=True)),
        (
            {"method": {"objective": "KTO"}, "activationCheckpointing": "Off"},
            replace(END, micro_batch_size=2),
        ),
    ],
)
def test_a_job_that_can_do_with_no_less_ends_for_good(hyper: dict[str, Any], end: End) -> None:
    error = with_next_attempt(job(**hyper), end, OutOfMemory("OutOfMemory", "no"))
    assert (error.exit_code, error.reason) == (64, "OutOfMemoryAtSmallest")


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't all"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_known_by_what_libraries_say(error: Exception, is_memory: bool) -> None:
    assert (classify(error).exit_code == 77) is is_memory


# ---------------------------------------------------------------------------------------- notes


class NoteStorage:
    """The part of a run's storage that a note needs."""

    def __init__(self, folder: Path) -> None:
        self.output = FileStore(folder / "store")
        self.job = SimpleNamespace(run_prefix="runs/a", spec=job().spec)

    def uri_of(self, key: str) -> str:
        return f"file:///store/{key}"


def note(storage: NoteStorage, control: Path, error: Exception) -> Exception:
    control.mkdir(exist_ok=True)
    with pytest.raises(type(error)) as raised, noting_end(storage, control):  # type: ignore[arg-type]
        raise error
    return raised.value


def test_a_hang_leaves_its_stacks_and_an_address(tmp_path: Path) -> None:
    storage, control = NoteStorage(tmp_path), tmp_path / "control"
    control.mkdir()
    (control / "stacks-0.txt").write_text("File x")
    (control / "stacks-1.txt").write_text("")
    error = note(storage, control, Hang("RankHung", "rank 0 is behind"))
    assert "file:///store/runs/a/attempts/1" in str(error)
    assert storage.output.read_bytes("runs/a/attempts/1/stacks-0.txt") == b"File x"
    assert not storage.output.exists("runs/a/attempts/1/stacks-1.txt")


def test_notes_are_numbered_and_read_back_in_order(tmp_path: Path) -> None:
    storage, control = NoteStorage(tmp_path), tmp_path / "control"
    control.mkdir()
    (control / "recipe.json").write_text(
        json.dumps({"micro_batch_size": 8, "activation_checkpointing": True})
    )
    note(storage, control, OutOfMemory("OutOfMemory", "first"))
    note(storage, control, OutOfMemory("OutOfMemory", "second"))
    note(storage, control, RetryableError("PeerLost", "not worth a note"))
    ends = read_ends(storage.output, "runs/a")
    assert [end.message for end in ends] == ["first", "second"]
    assert (ends[0].micro_batch_size, ends[0].activation_checkpointing) == (8, True)


def test_a_note_of_another_node_is_not_overwritten(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.write_bytes("runs/a/attempts/1/end.json", b"{}")  # of another version: not understood
    assert note_end(store, "runs/a", END, {}) == "runs/a/attempts/2"
    assert read_ends(store, "runs/a") == [END]


def test_a_note_that_storage_refuses_hides_no_failure(tmp_path: Path) -> None:
    storage = NoteStorage(tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise StorageError("Unreachable", "no bucket")

    storage.output.write_bytes = refuse  # type: ignore[method-assign]
    error = note(storage, tmp_path / "control", OutOfMemory("OutOfMemory", "no memory"))
    assert "no memory (this could not be noted in storage: no bucket)" in str(error)
