"""One process of an evaluation.

Usage: ``python -m finetune_trainer.evaluate.inference.worker plan.json RANK``.

Started by :mod:`finetune_trainer.evaluate.inference.launch`, which has fetched everything. Every
worker makes the same batches of all questions and answers every n-th of them, so that the answers
do not depend on the number of workers as long as they hold as much.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import InternalError, TrainerError, UserError
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.process import die_with_parent

BEFORE_NAME = "before.json"
"""File in the control folder with the answers of an earlier attempt."""
PROBLEM_NAME = "published-problem.txt"
"""File in the control folder that says why the published version cannot be asked."""
ENGINE_NAME = "engine.txt"
"""File in the control folder that names the server that was asked, with its version."""

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.evaluate.inference.answering import Asker, Said
    from finetune_trainer.evaluate.tokenized import TokenizedQuestions
    from finetune_trainer.model.encoding import ChatTokenizer
    from finetune_trainer.model.pair import ModelPair


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
        sides: Who is asked: of ``kept.SIDES``, in its order.
        bfloat16: Type of the base weights, as in training; else float32.
        quantize: The base is loaded in 4 bits, as in training.
        num_workers: How many share the questions.
        gpus_per_worker: GPUs that each puts its model on; 0 computes on the CPU.
        gpu_bytes: Memory of one GPU.
        gpu_kind: Its name.
        held_tokens: Tokens of the conversations that a worker answers together.
        published: Fields of the published version's ``PublishedFolder``; None where none is asked.
        is_served: The models are a vLLM server's, which is asked in the place of loading them.
        chat_template: File by which others converse with that server when the questions are
            answered; empty where nobody does.
        conversation_tokens: Longest conversation of theirs with its answer.
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
    held_tokens: int = 0
    published: Mapping[str, Any] | None = None
    is_served: bool = False
    chat_template: str = ""
    conversation_tokens: int = 0


def main(argv: list[str]) -> int:
    """Answer one share of the questions; returns the exit code."""
    die_with_parent()
    # SIGTERM and SIGINT go to the parent, which ends its workers.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = WorkerPlan(**json.loads(Path(argv[1]).read_text()))
    rank = int(argv[2])
    try:
        if plan.is_served:
            answer_by_server(plan, rank)
        else:
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

    from finetune_trainer.evaluate.inference.kept import read_answers

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    job = ResolvedJob.from_json(Path(plan.job).read_text())
    folder = Path(plan.control_dir)
    askers = make_askers(plan, job, rank)
    before = read_answers(folder / BEFORE_NAME)
    shares = {side: askers[side].share(before[side]) for side in plan.sides}
    with _keeping(folder, rank) as keep:

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


@contextmanager
def _keeping(folder: Path, rank: int) -> Iterator[Callable[[str, Said], None]]:
    """Yield what writes down what a side has said, and counts it."""
    from finetune_trainer.evaluate.inference.kept import count

    with (
        (folder / f"done-{rank}").open("ab", buffering=0) as done,
        (folder / f"said-{rank}.jsonl").open("ab", buffering=0) as said,
    ):

        def keep(side: str, answers: Said) -> None:
            said.write(json.dumps({side: answers.to_json()}).encode() + b"\n")
            done.write(b"." * count({side: answers}))

        yield keep


def answer_by_server(plan: WorkerPlan, rank: int) -> None:
    """Put all questions to the vLLM server beside this stage; it begins if anybody asks it.

    Raises:
        TrainerError: There is no server, or it ended, does not answer or refuses.
    """
    from finetune_trainer.evaluate.inference.engine.arguments import (
        Models,
        arguments_of,
        find_problem,
    )
    from finetune_trainer.evaluate.inference.engine.asking import (
        NUM_AT_ONCE,
        ServedVariant,
        ask_variants,
        find_too_long,
        measure_room,
    )
    from finetune_trainer.evaluate.inference.engine.client import EngineClient
    from finetune_trainer.evaluate.inference.engine.server import EngineServer
    from finetune_trainer.evaluate.inference.kept import read_answers
    from finetune_trainer.model.context import served_context
    from finetune_trainer.model.load import read_config

    job = ResolvedJob.from_json(Path(plan.job).read_text())
    folder, adapters = Path(plan.control_dir), {"tuned": Path(plan.tuned_dir)}
    before = read_answers(folder / BEFORE_NAME)
    read = read_variants(plan, job)
    sides = {
        name: ServedVariant(
            model=model_of(name), encoder=read[name][0], encoded=read[name][1], before=before[name]
        )
        for name in plan.sides
    }
    context = served_context(read_config(Path(plan.base_dir)))
    if plan.published:
        problem = find_problem(plan.published, bfloat16=plan.bfloat16)
        if problem := problem or find_too_long(sides["published"], context):
            (folder / PROBLEM_NAME).write_text(problem)
            del sides["published"]
        else:
            adapters["published"] = Path(plan.published["folder"])
    if all(side.is_done for side in sides.values()) and not plan.chat_template:
        return
    server = EngineServer.from_environment()
    longest = measure_room(sides, context, others=plan.conversation_tokens)
    models = Models(
        base_dir=Path(plan.base_dir),
        adapters=adapters,
        bfloat16=plan.bfloat16,
        max_tokens=longest,
        chat_template=Path(plan.chat_template) if plan.chat_template else None,
    )
    batch_size = job.spec.evaluation.batch_size
    try:
        server.begin(arguments_of(job, models, port=server.port))
        (folder / ENGINE_NAME).write_text(server.wait_until_ready())
        with _keeping(folder, rank) as keep:
            at_once = batch_size if isinstance(batch_size, int) else NUM_AT_ONCE
            client = EngineClient(server, max_tokens=longest)
            ask_variants(sides, client, keep, num_at_once=at_once)
    except TrainerError:
        server.keep_log(folder)
        raise


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
    from finetune_trainer.evaluate.inference.answering import Asker

    batch_size = job.spec.evaluation.batch_size
    return {
        side: Asker(
            encoder,
            encoded,
            batch_size=batch_size if isinstance(batch_size, int) else None,
            held_tokens=plan.held_tokens,
            rank=rank,
            num_workers=plan.num_workers,
        )
        for side, (encoder, encoded) in read_variants(plan, job).items()
    }


def read_variants(
    plan: WorkerPlan, job: ResolvedJob
) -> dict[str, tuple[ChatTokenizer, TokenizedQuestions]]:
    """Return the encoder and the questions of each side."""
    from finetune_trainer.evaluate.tokenized import folder_of, name_of, read_encoded
    from finetune_trainer.model.chat_format import read_format
    from finetune_trainer.model.encoding import make_encoder
    from finetune_trainer.model.load import load_tokenizer

    tokenizer = load_tokenizer(
        Path(plan.base_dir), trust_remote_code=job.spec.model.trust_remote_code
    )
    folders = {side: folder_of(Path(plan.control_dir), side) for side in plan.sides}
    return {
        side: (
            make_encoder(job, tokenizer, read_format(folder)),
            read_encoded(folder, name=name_of(side)),
        )
        for side, folder in folders.items()
    }


def open_models(plan: WorkerPlan, rank: int, *, trust_remote_code: bool) -> ModelPair:
    """Return base and tuned model on this worker's GPUs, or on the CPU."""
    import torch

    from finetune_trainer.model.pair import ModelPair, PublishedFolder

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
