"""The workers of an evaluation: where they run, by what memory they need; their start and end."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import (
    InternalError,
    OutOfMemory,
    RetryableError,
    Stopped,
    TrainerError,
)
from finetune_trainer.evaluate.inference.answers import Said, combine
from finetune_trainer.evaluate.inference.worker import WorkerPlan
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, batch_prompts, pair_references
from finetune_trainer.failures import failure_of_record
from finetune_trainer.model.hardware import Hardware, claimed_gpus, require_gpus
from finetune_trainer.model.load import read_model_architecture
from finetune_trainer.model.pair import ADAPTER_WEIGHTS
from finetune_trainer.model.size import weight_bytes
from finetune_trainer.planning.answering import (
    AnsweringMemory,
    Asked,
    estimate_answering,
    most_held,
)
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.fit import COMFORT
from finetune_trainer.planning.headers import read_header
from finetune_trainer.planning.placement import Placement, place_on_cpu, place_on_gpus
from finetune_trainer.planning.setup import FLOAT32, Setup
from finetune_trainer.process import die_with_parent, environment_of, num_oom_kills

POLL_SECONDS = 0.1
KEEP_SECONDS = 60.0
"""Interval at which answers are stored while workers run: a killed pod loses no more."""
STOP_FLAG = "stop"
"""File in the control folder that ends the workers."""
STOPPED_REASON = "StoppedBeforeScores"


def run_workers(
    plan: WorkerPlan, *, on_done: Callable[[int], None], keep: Callable[[], None]
) -> None:
    """Run all workers to their end; they write answers to the control folder as they come.

    Args:
        plan: What they work on.
        on_done: Called with the number of finished asks of all workers, whenever it has grown.
        keep: Called every ``KEEP_SECONDS`` if there are new answers.

    Raises:
        TrainerError: The failure of the worker with the lowest rank; the others are ended.
        Stopped: There is a file ``stop`` in the control folder.
    """
    control_dir = Path(plan.control_dir)
    plan_path = control_dir / "plan.json"
    plan_path.write_text(json.dumps(asdict(plan)))
    oom_before = num_oom_kills()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(plan.num_workers):
            processes.append(_start(plan, plan_path, rank))
        codes = _watch(processes, control_dir, on_done, keep)
    finally:
        for process in processes:
            _end(process)
    if any(codes):
        raise failure_of(control_dir, codes, oom_killed=num_oom_kills() > oom_before)


def _start(plan: WorkerPlan, plan_path: Path, rank: int) -> subprocess.Popen[bytes]:
    environment = environment_of(plan.num_workers, use_gpu=bool(plan.gpus_per_worker))
    if not plan.gpus_per_worker:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with (plan_path.parent / f"worker-{rank}.log").open("w") as log:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "finetune_trainer.evaluate.inference.worker",
                str(plan_path),
                str(rank),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _watch(
    processes: Sequence[subprocess.Popen[bytes]],
    control_dir: Path,
    on_done: Callable[[int], None],
    keep: Callable[[], None],
) -> list[int]:
    """Wait until all workers end or one fails; returns the exit codes of those that ended.

    Raises:
        Stopped: There is a file ``stop`` in the control folder.
    """
    reported = kept = 0
    kept_at = time.monotonic()
    while True:
        codes = [process.poll() for process in processes]
        done = sum(path.stat().st_size for path in control_dir.glob("done-*"))
        if done > reported:
            reported = done
            on_done(done)
        ended = [code for code in codes if code is not None]
        if any(ended) or len(ended) == len(codes):
            return ended
        if (control_dir / STOP_FLAG).exists():
            raise Stopped(
                STOPPED_REASON,
                "stopped on request while the models were asked; the adapter is safe in the run's "
                "folder",
            )
        if done > kept and time.monotonic() - kept_at > KEEP_SECONDS:
            keep()
            kept, kept_at = done, time.monotonic()
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def read_said(control_dir: Path) -> dict[str, Said]:
    """Return the answers that workers have written so far, without unfinished lines."""
    parts = []
    for path in sorted(control_dir.glob("said-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            wire = json.loads(line)
            parts.append({side: Said.from_json(said) for side, said in wire.items()})
    return combine(parts)


def failure_of(control_dir: Path, codes: Sequence[int], *, oom_killed: bool) -> TrainerError:
    """Return why the workers failed, from the records and exit codes that they left.

    Args:
        control_dir: Their folder.
        codes: Exit codes of those that ended.
        oom_killed: Whether the kernel killed a process of this container for lack of memory.
    """
    if oom_killed:
        return OutOfMemory(
            "HostOutOfMemory",
            "a process of the evaluation was killed by the kernel for lack of memory; raise "
            "resources.memory or lower evaluation.gpus: each process loads the model",
        )
    records = [json.loads(path.read_text()) for path in control_dir.glob("failure-*.json")]
    if records:
        record = min(records, key=lambda r: int(r["rank"]))
        error = failure_of_record(record)
        error.rank = record["rank"]  # type: ignore[attr-defined]
        return error
    if -signal.SIGKILL in codes:
        return RetryableError(
            "WorkerKilled",
            "a process of the evaluation was killed (SIGKILL) without a word: the host ran out of "
            "memory, or someone killed it; the next attempt asks the models anew",
        )
    code = next(code for code in codes if code)
    return InternalError(
        "WorkersFailed",
        f"a process of the evaluation ended with exit code {code} and left no reason",
    )


def place_workers(
    job: ResolvedJob,
    hardware: Hardware,
    asked: QuestionSet,
    *,
    base_dir: Path,
    tuned_dir: Path | None,
    bfloat16: bool,
    quantize: bool,
) -> tuple[Placement, int]:
    """Decide which processes hold the models, and the tokens that each holds while it answers.

    Args:
        job: The effective job.
        hardware: Hardware of this node.
        asked: All questions.
        base_dir: Local base model.
        tuned_dir: Local adapter, or fully tuned model; None where none is asked.
        bfloat16: Type of the weights; else float32.
        quantize: The base is loaded in 4 bits.

    Raises:
        UserError: The models do not fit.
    """
    architecture = read_model_architecture(base_dir)
    size = _count_weights(base_dir, asked, value_bytes=2 if bfloat16 else 4, quantize=quantize)
    adapter = adapter_bytes(tuned_dir)
    row_bytes = adapter + max(
        count_row_bytes(architecture, encoded, bfloat16=bfloat16) for encoded in asked.all_encoded
    )
    placement = choose_placement(
        job, hardware, size=size, num_questions=len(asked.questions), row_bytes=row_bytes
    )
    held = choose_held(
        architecture,
        asked.all_encoded,
        size=size,
        adapter=adapter,
        bfloat16=bfloat16,
        placement=placement,
        hardware=hardware,
    )
    return placement, held


def _count_weights(base_dir: Path, asked: QuestionSet, *, value_bytes: int, quantize: bool) -> int:
    """Return the bytes of the largest model's weights and of a published adapter."""
    size = weight_bytes(base_dir, value_bytes=value_bytes, quantize=quantize)
    if asked.published is None:
        return size
    published = asked.published.source
    folder = base_dir if published.has_adapter else published.folder
    other = weight_bytes(
        folder, value_bytes=2 if published.bfloat16 else 4, quantize=published.quantize
    )
    adapter = published.folder / ADAPTER_WEIGHTS
    # Adapters are loaded in float32, and may be stored in half of it.
    return max(size, other) + (2 * adapter.stat().st_size if published.has_adapter else 0)


def count_row_bytes(model: Architecture, encoded: TokenizedQuestions, *, bfloat16: bool) -> int:
    """Return the bytes of the longest question: cache, logits and temporaries."""
    rows = [
        (len(each.input_ids), sum(end - start for start, end in each.spans))
        for each in encoded.examples
    ] or [(1, 0)]
    longest, counted = max(rows)
    asked = Asked(
        rows=1,
        prompt_tokens=max(map(len, encoded.prompts), default=1),
        answer_tokens=encoded.answer_tokens,
        reference_tokens=max(_reference_sizes(encoded).values(), default=0),
        scored_rows=1,
        scored_tokens=longest,
        counted_tokens=counted,
        choice_tokens=max(map(len, encoded.choices), default=0),
    )
    need = _estimate(model, asked, bfloat16=bfloat16)
    return need.total - need.weights


def adapter_bytes(folder: Path | None) -> int:
    """Return the bytes of an adapter, which is loaded in float32; 0 where there is none.

    Args:
        folder: Local adapter, or a model that was tuned whole.
    """
    if folder is None or not (folder / ADAPTER_WEIGHTS).exists():
        return 0
    tensors = read_header(folder / ADAPTER_WEIGHTS).values()
    return FLOAT32 * sum(math.prod(tensor.shape) for tensor in tensors)


def choose_held(
    model: Architecture,
    several: Sequence[TokenizedQuestions],
    *,
    size: int,
    adapter: int = 0,
    bfloat16: bool,
    placement: Placement,
    hardware: Hardware,
) -> int:
    """Return the tokens of the conversations that each worker answers together.

    Args:
        model: The base model.
        several: The questions of each variant.
        size: Bytes of the largest model's weights.
        adapter: Bytes of the adapter.
        bfloat16: Type of the weights; else float32.
        placement: The workers.
        hardware: Hardware of this node.
    """
    group = max(1, placement.gpus_per_worker)

    @cache
    def describe(held: int) -> list[list[Asked]]:
        return [_describe_batches(encoded, held) for encoded in several]

    def need(held: int) -> int:
        needs = [
            replace(
                _estimate(model, asked, bfloat16=bfloat16), weights=size, adapter=adapter
            ).on_each(group)
            for batches in describe(held)
            for asked in batches
        ]
        return max(needs, default=0)

    return most_held(
        model,
        need,
        int(COMFORT * placement.memory_of_each(hardware.memory_bytes)),
        num_batches=lambda held: max(map(len, describe(held)), default=0),
        num_workers=placement.num_workers,
    )


def _describe_batches(encoded: TokenizedQuestions, held: int) -> list[Asked]:
    """Return the shape of each batch of prompts for a budget of held tokens."""
    references = _reference_sizes(encoded)
    batches = batch_prompts(encoded, None, held_tokens=held)
    return [
        Asked(
            rows=len(batch),
            prompt_tokens=max(len(encoded.prompts[number]) for number in batch),
            answer_tokens=max(map(encoded.limit_of, batch)),
            reference_tokens=max(references.get(number, 0) for number in batch),
            scored_rows=1,
            scored_tokens=1,
            counted_tokens=0,
            choice_tokens=max(map(len, encoded.choices), default=0),
        )
        for batch in batches
    ]


def _reference_sizes(encoded: TokenizedQuestions) -> dict[int, int]:
    """Return the tokens that follow each prompt in the example that is scored with it."""
    return {
        prompt: len(encoded.examples[example].input_ids) - len(encoded.prompts[prompt])
        for prompt, example in pair_references(encoded).items()
    }


def _estimate(model: Architecture, asked: Asked, *, bfloat16: bool) -> AnsweringMemory:
    return estimate_answering(model, Setup(adapter="Full", bfloat16=bfloat16), asked)


def choose_placement(
    job: ResolvedJob, hardware: Hardware, *, size: int, num_questions: int, row_bytes: int = 0
) -> Placement:
    """Decide which processes hold the model, by the GPUs and the memory of this pod.

    Args:
        job: The effective job.
        hardware: Hardware of this node.
        size: Bytes of the model's weights.
        num_questions: Questions to answer.
        row_bytes: Bytes of the longest question beside the weights.

    Raises:
        UserError: The job asks for GPUs and none is visible, or all together are too small.
    """
    asked = job.spec.evaluation_gpus
    if require_gpus(min(1, asked), hardware):
        return place_on_gpus(
            weight_bytes=size,
            num_gpus=min(asked, hardware.num_gpus),
            gpu_bytes=hardware.memory_bytes,
            num_questions=num_questions,
            row_bytes=row_bytes,
        )
    return place_on_cpu(
        weight_bytes=size,
        num_processes=min(asked, claimed_gpus(asked)),
        num_cores=hardware.num_cpus,
        memory_bytes=hardware.memory_bytes,
        num_questions=num_questions,
    )
