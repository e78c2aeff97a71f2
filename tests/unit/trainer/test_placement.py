"""Which processes hold the models of an evaluation, and what a pod without devices may claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune_api.protocol.trainer import resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.inference.workers import choose_placement, count_row_bytes
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model import hardware as hardware_module
from finetune_trainer.model.encoding import TokenizedExample
from finetune_trainer.model.hardware import Hardware, require_gpus
from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.planning.placement import GIB, Placement, place_on_cpu, place_on_gpus
from kit.cases.spec_cases import changed, minimal_job

H100 = 80 * GIB
SMALL, LARGE, HUGE = 16 * GIB, 140 * GIB, 1300 * GIB


def gpus(num_gpus: int) -> Hardware:
    return Hardware(num_gpus=num_gpus, memory_bytes=H100, supports_bfloat16=True, num_cpus=16)


NO_GPU = Hardware(num_gpus=0, memory_bytes=64 * GIB, supports_bfloat16=False, num_cpus=4)


@pytest.mark.parametrize(
    ("size", "num_gpus", "questions", "expected"),
    [
        (SMALL, 1, 500, (1, 1)),
        (SMALL, 8, 500, (8, 1)),
        (SMALL, 8, 3, (3, 1)),
        (64 * GIB, 2, 500, (2, 1)),
        (65 * GIB, 2, 500, (1, 2)),
        (LARGE, 8, 500, (2, 3)),
        (4 * LARGE, 16, 500, (1, 9)),
        (SMALL, 1, 0, (1, 1)),
    ],
)
def test_each_worker_takes_as_few_gpus_as_hold_the_model(
    size: int, num_gpus: int, questions: int, expected: tuple[int, int]
) -> None:
    placed = place_on_gpus(
        weight_bytes=size, num_gpus=num_gpus, gpu_bytes=H100, num_questions=questions
    )
    assert (placed.num_workers, placed.gpus_per_worker) == expected
    assert placed.num_workers * placed.gpus_per_worker <= num_gpus


def test_a_model_that_all_gpus_do_not_hold_is_refused_with_sizes_and_remedy() -> None:
    with pytest.raises(UserError) as refused:
        place_on_gpus(weight_bytes=HUGE, num_gpus=8, gpu_bytes=H100, num_questions=500)
    assert refused.value.reason == "ModelTooLarge"
    for word in ("1300.0 GiB", "8 GPU(s) of 80.0 GiB", "gpusPerNode", "QLoRA"):
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, 4), ({"num_cores": 2}, 2), ({"num_questions": 1}, 1), ({"memory_bytes": 40 * GIB}, 1)],
)
def test_the_cpu_runs_a_process_per_gpu_as_far_as_it_can(
    change: dict[str, int], expected: int
) -> None:
    node = {"num_cores": 8, "memory_bytes": 256 * GIB, "num_questions": 500, **change}
    placed = place_on_cpu(weight_bytes=SMALL, num_processes=4, **node)
    assert placed == Placement(num_workers=expected, gpus_per_worker=0)


@pytest.mark.parametrize(
    ("resources", "evaluation", "hardware", "claimed", "expected"),
    [
        ({"gpusPerNode": 8}, {}, gpus(8), "8", (8, 1)),
        ({"gpusPerNode": 8}, {"gpus": 2}, gpus(2), "2", (2, 1)),
        ({"gpusPerNode": 8}, {}, gpus(1), "8", (1, 1)),  # fewer are visible: it is slower, no more
        ({"gpusPerNode": 2}, {}, gpus(8), None, (2, 1)),  # a workstation: no more than asked for
        ({"gpusPerNode": 0}, {}, gpus(8), None, (1, 0)),
        ({"gpusPerNode": 2}, {}, NO_GPU, "2", (2, 0)),
        ({"gpusPerNode": 2}, {}, NO_GPU, "1", (1, 0)),
        ({"gpusPerNode": 8}, {}, NO_GPU, None, (3, 0)),  # three times 16 GiB and libraries
    ],
)
def test_evaluation_uses_what_its_pod_was_given(
    resources: dict,
    evaluation: dict,
    hardware: Hardware,
    claimed: str | None,
    expected: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod(monkeypatch, claimed)
    body = changed(minimal_job(), {"spec.resources": resources, "spec.evaluation": evaluation})
    job = resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")
    placed = choose_placement(job, hardware, size=SMALL, num_questions=500)
    assert (placed.num_workers, placed.gpus_per_worker) == expected


@pytest.mark.parametrize(
    ("wanted", "hardware", "allow_cpu", "claimed", "expected"),
    [
        (0, gpus(8), False, None, False),
        (2, gpus(2), False, "2", True),
        (2, gpus(1), True, "2", None),
        (1, NO_GPU, False, "1", None),
        (2, NO_GPU, True, None, False),
        (2, NO_GPU, True, "2", False),
        (2, NO_GPU, True, "1", None),  # the pod has asked for one: with devices it would see one
    ],
)
def test_a_pod_is_held_to_the_gpus_that_it_asked_for(
    wanted: int,
    hardware: Hardware,
    allow_cpu: bool,
    claimed: str | None,
    expected: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod(monkeypatch, claimed, allow_cpu=allow_cpu)
    if expected is not None:
        assert require_gpus(wanted, hardware) is expected
        return
    with pytest.raises(UserError, match=f"asks for {wanted} GPU") as refused:
        require_gpus(wanted, hardware)
    assert refused.value.reason == "GPUNotVisible"


OPEN_DRIVER = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\n"
    "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
)
CLOSED_DRIVER = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
)


@pytest.mark.parametrize(
    ("text", "cuda", "message"),
    [
        (CLOSED_DRIVER, "13.0", "CUDA 13 needs driver 580 or newer; node has 550"),
        (OPEN_DRIVER, "13.2", "CUDA 13 needs driver 580 or newer; node has 570"),
        ("470.256.02\n", "12.8", "CUDA 12 needs driver 525 or newer; node has 470"),
        (CLOSED_DRIVER, "12.8", ""),
        ("580.65.06\n", "13.0", ""),
        (CLOSED_DRIVER, "", ""),  # of AMD, or for the CPU only
        (CLOSED_DRIVER, "17.0", ""),  # nobody knows yet
        ("", "13.0", ""),
    ],
)
def test_a_driver_too_old_for_the_images_cuda_is_named(
    text: str, cuda: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pod(monkeypatch, "2", allow_cpu=False)
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(hardware_module, "DRIVER_FILES", (tmp_path / "none", tmp_path / "version"))
    monkeypatch.setattr(hardware_module, "_image_cuda", lambda: cuda)
    with pytest.raises(UserError) as refused:
        require_gpus(2, NO_GPU)
    assert refused.value.reason == ("GPUDriverTooOld" if message else "GPUNotVisible")
    assert refused.value.message.startswith(message)
    assert ("docs/how-to/install.md" in refused.value.message) is ("CUDA 13" in message)
    with pytest.raises(UserError) as refused:
        require_gpus(2, gpus(1))  # it runs: some of the GPUs are missing for another reason
    assert refused.value.reason == "GPUNotVisible"


def pod(monkeypatch: pytest.MonkeyPatch, claimed: str | None, *, allow_cpu: bool = True) -> None:
    monkeypatch.setenv("FINETUNE_ALLOW_CPU", "1" if allow_cpu else "0")
    if claimed is None:
        monkeypatch.delenv("FINETUNE_NUM_GPUS", raising=False)
    else:
        monkeypatch.setenv("FINETUNE_NUM_GPUS", claimed)


def test_a_long_row_of_a_wide_vocabulary_spreads_a_model_that_one_gpu_would_hold() -> None:
    config = {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 262144,
    }  # fmt: skip
    encoded = TokenizedQuestions(
        examples=[TokenizedExample(input_ids=[1] * 16384, spans=((16000, 16384),), num_cut=0)],
        owners=np.zeros(1, dtype=np.int64),
        prompts=[[1] * 16000],
        answer_tokens=392,
    )
    row = count_row_bytes(describe_architecture(config, {}), encoded, bfloat16=True)
    # The logits of the row, with the float32 images of those that count.
    assert row >= 262144 * (16384 * 2 + 384 * 8)
    settings = {"num_gpus": 2, "gpu_bytes": 22 * GIB, "num_questions": 9}
    alone = place_on_gpus(weight_bytes=SMALL, **settings)
    long = place_on_gpus(weight_bytes=SMALL, row_bytes=row, **settings)
    assert (alone.gpus_per_worker, long.gpus_per_worker) == (1, 2)
