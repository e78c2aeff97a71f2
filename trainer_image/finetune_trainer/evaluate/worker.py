"""One process of an evaluation: ``python -m finetune_trainer.evaluate.worker plan.json RANK``.

Started by :mod:`finetune_trainer.evaluate.launch`, which has fetched everything. Every worker makes
the same batches of all questions and answers every n-th of them, so that what a model says does
not depend on how many workers there are.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.trainer import ResolvedJob
from finetune_trainer.errors import InternalError, TrainerError, UserError
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.process import die_with_parent

BEFORE_NAME = "before.json"
"""File in the control folder with the answers of an earlier attempt."""
PROBLEM_NAME = "published-problem.txt"
"""File in the control folder that says why the published version cannot be asked."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.evaluate.answering import Asker
    from finetune_trainer.evaluate.models import ModelPair


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """What the parent hands to every worker, as JSON.

    Attributes:
        job: Path of ``job.json``.
        control_dir: Workers and parent talk here: the questions as :func:`write_encoded` writes
            them, as they are and with a prompt for the base, what was answered before as
            ``before.json``, ``done-<rank>`` with a byte for each ask, ``said-<rank>.jsonl`` with a
            line for each batch, ``failure-<rank>.json``.
        base_dir: Local base model.
        tuned_dir: Local adapter, or fully tuned model; an empty folder where none is asked.
        sides: Who is asked: of :data:`finetune_trainer.evaluate.kept.SIDES`, in its order.
        bfloat16: Type of the base weights, as in training; else float32.
        quantize: The base is loaded in 4 bits, as in training.
        num_workers: How many share the questions.
        gpus_per_worker: GPUs that each puts its model on; 0 computes on the CPU.
        gpu_bytes: Memory of one GPU.
        gpu_kind: Its name.
        published: Fields of the published version's ``PublishedFolder``; None where none is asked.
    """

    job: str
    control_dir: str
    base_dir: str
    tuned_dir: str
    sides: list[str]
    bfloat16: bool
    quantize: bool
    num_workers: int
    gpus_per_worker: int
    gpu_bytes: int
    gpu_kind: str = ""
    published: Mapping[str, Any] | None = None


def main(argv: list[str]) -> int:
    """Answer one share of the questions; returns the exit code."""
    die_with_parent()
    # SIGTERM and SIGINT go to the parent, which ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = WorkerPlan(**json.loads(Path(argv[1]).read_text()))
    rank = int(argv[2])
    try:
        answer_share(plan, rank)
    except BaseException as error:
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        failure = (
            classify(error)
            if isinstance(error, Exception)
            else InternalError(type(error).__name__, str(error) or type(error).__name__)
        )
        record = {**failure_record(failure), "rank": rank}
        Path(plan.control_dir, f"failure-{rank}.json").write_text(json.dumps(record))
        return failure.exit_code
    return 0


def answer_share(plan: WorkerPlan, rank: int) -> None:
    """Put this worker's share of the questions to the models and write down what they said.

    Raises:
        TrainerError: A model does not load or does not fit.
    """
    import torch

    from finetune_trainer.evaluate.answering import Said
    from finetune_trainer.evaluate.kept import count, read_answers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    job = ResolvedJob.model_validate_json(Path(plan.job).read_text())
    folder = Path(plan.control_dir)
    askers = make_askers(plan, job, rank)
    before = read_answers(folder / BEFORE_NAME)
    shares = {side: askers[side].share(before[side]) for side in plan.sides}
    with (
        (folder / f"done-{rank}").open("ab", buffering=0) as done,
        (folder / f"said-{rank}.jsonl").open("ab", buffering=0) as said,
    ):

        def keep(side: str, answers: Said) -> None:
            said.write(json.dumps({side: answers.to_json()}).encode() + b"\n")
            done.write(b"." * count({side: answers}))

        def put(sides: Sequence[str], model: PreTrainedModel) -> None:
            for side in sides:
                askers[side].ask(model, shares[side], partial(keep, side))

        wanted = [side for side in plan.sides if not shares[side].is_empty]
        if not wanted:
            return
        pair = open_models(plan, rank, trust_remote_code=job.spec.model.trust_remote_code)
        for name, sides in groupby(wanted, key=model_of):
            if problem := ask_one(pair, name, partial(put, tuple(sides))):
                (folder / PROBLEM_NAME).write_text(problem)


def ask_one(pair: ModelPair, name: str, put: Callable[[PreTrainedModel], None]) -> str:
    """Put what it is asked to one of the models, which is gone afterwards.

    Of full fine-tuning base and tuned are two models: one goes before the other comes.

    Returns:
        Why the published version cannot be asked: the others have answered, and what is missed are
        the gates that ask for it. Empty if nothing was in the way.

    Raises:
        TrainerError: Another model does not load or does not fit.
    """
    try:
        with pair.open(name) as model:
            put(model)
    except UserError as error:
        if error.reason != "PublishedUnusable":
            raise
        return error.message
    return ""


def model_of(side: str) -> str:
    """Return which model a side is asked of."""
    if side == "published":
        return side
    return "tuned" if side.startswith("tuned") else "base"


def make_askers(plan: WorkerPlan, job: ResolvedJob, rank: int) -> dict[str, Asker]:
    """Return who puts its share of the questions to each side."""
    from finetune_trainer.evaluate.answering import Asker
    from finetune_trainer.evaluate.encoded import folder_of, name_of, read_encoded
    from finetune_trainer.model.chat_format import read_format
    from finetune_trainer.model.encoding import make_encoder
    from finetune_trainer.model.load import load_tokenizer

    tokenizer = load_tokenizer(
        Path(plan.base_dir), trust_remote_code=job.spec.model.trust_remote_code
    )
    folder = Path(plan.control_dir)
    batch_size = job.spec.evaluation.batch_size
    return {
        side: Asker(
            make_encoder(job, tokenizer, read_format(folder_of(folder, side))),
            read_encoded(folder_of(folder, side), name=name_of(side)),
            batch_size=batch_size if isinstance(batch_size, int) else None,
            rank=rank,
            num_workers=plan.num_workers,
        )
        for side in plan.sides
    }


def open_models(plan: WorkerPlan, rank: int, *, trust_remote_code: bool) -> ModelPair:
    """Return base and tuned model on this worker's GPUs, or on the CPU."""
    import torch

    from finetune_trainer.evaluate.models import ModelPair, PublishedFolder

    first = rank * plan.gpus_per_worker
    gpus = range(first, first + plan.gpus_per_worker)
    if gpus:
        torch.cuda.set_device(first)
    return ModelPair(
        Path(plan.base_dir),
        Path(plan.tuned_dir),
        dtype=torch.bfloat16 if plan.bfloat16 else torch.float32,
        gpus=list(gpus),
        gpu_bytes=plan.gpu_bytes,
        quantize=plan.quantize,
        trust_remote_code=trust_remote_code,
        published=PublishedFolder(
            folder=Path(plan.published["folder"]),
            bfloat16=plan.published["bfloat16"],
            quantize=plan.published["quantize"],
        )
        if plan.published
        else None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
