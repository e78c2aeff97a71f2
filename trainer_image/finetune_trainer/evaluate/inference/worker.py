"""One process of an evaluation.

Usage: ``python -m finetune_trainer.evaluate.inference.worker plan.json RANK``.

:mod:`finetune_trainer.evaluate.inference.workers` starts it, with all files in place. Every worker
makes the same batches of all questions and answers every n-th of them. So the answers do not depend
on the number of workers, as long as each holds as much.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.evaluate.inference.answers import Asker, Said, Share, count, read_answers
from finetune_trainer.evaluate.inference.engine import Engine, EngineOpener
from finetune_trainer.evaluate.tokenized import folder_of, name_of, read_encoded
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.process import die_with_parent

BEFORE_NAME = "before.json"
"""File in the control folder with the answers of an earlier attempt."""
PROBLEM_NAME = "published-problem.txt"
"""File in the control folder that says why the published version cannot be asked."""
ENGINE_NAME = "engine.txt"
"""File in the control folder with the name and version of the server that was asked."""

if TYPE_CHECKING:
    from finetune_trainer.evaluate.inference.vllm_server import ServedFolders
    from finetune_trainer.model.pair import ModelPair


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """What every worker receives from the parent, as JSON.

    Attributes:
        job: Path of ``job.json``.
        control_dir: Folder of workers and parent. It holds the questions as :func:`write_encoded`
            writes them; ``before.json``, the answers of earlier attempts; ``done-<rank>``, a byte
            for each result; ``said-<rank>.jsonl``, a line for each batch; ``failure-<rank>.json``.
        base_dir: Local base model.
        tuned_dir: Local adapter, or fully tuned model; an empty folder where none is asked.
        sides: The variants that are asked: of ``answers.SIDES``, in its order.
        bfloat16: Type of the base weights, as in training; else float32.
        quantize: The base is loaded in 4 bits, as in training.
        num_workers: Workers that share the questions.
        gpus_per_worker: GPUs for the model of each worker; 0 computes on the CPU.
        gpu_bytes: Memory of one GPU.
        gpu_kind: Name of the GPU.
        held_tokens: Tokens of the conversations that a worker answers together.
        published: Fields of the published version's ``PublishedFolder``; None where none is asked.
        is_served: A vLLM server holds the models; workers load none.
        chat_template: File of the template of conversations that others have with that server
            afterwards; empty where there are none.
        conversation_tokens: Longest of these conversations with its answer.
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
            answer_by_models(plan, rank)
    except BaseException as error:
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        failure = classify(error)
        record = {**failure_record(failure), "rank": rank}
        Path(plan.control_dir, f"failure-{rank}.json").write_text(json.dumps(record))
        return failure.exit_code
    return 0


def answer_by_models(plan: WorkerPlan, rank: int) -> None:
    """Ask the models in this process this worker's share of the questions.

    Raises:
        TrainerError: A model does not load or does not fit.
    """
    import torch

    from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    job = ResolvedJob.from_json(Path(plan.job).read_text())
    askers = make_askers(plan, job, rank)
    before = read_answers(Path(plan.control_dir, BEFORE_NAME))
    shares = {side: asker.share(before[side]) for side, asker in askers.items()}
    if all(share.is_empty for share in shares.values()):
        return
    pair = open_models(plan, rank, trust_remote_code=job.spec.model.trust_remote_code)

    divides = job.spec.evaluation.batch_size == "auto"

    @contextmanager
    def open_engine(name: str) -> Iterator[Engine]:
        with pair.open(name) as model:
            yield TransformersEngine(model, pad_id=askers[plan.sides[0]].pad_id, divides=divides)

    ask_all(open_engine, askers, shares, plan, rank)


def answer_by_server(plan: WorkerPlan, rank: int) -> None:
    """Ask the vLLM server beside this stage all questions; it starts where anybody needs it.

    Raises:
        TrainerError: There is no server, or it ended, does not answer or refuses.
    """
    from finetune_trainer.evaluate.inference.vllm_engine import (
        NUM_AT_ONCE,
        EngineClient,
        VllmEngine,
    )
    from finetune_trainer.evaluate.inference.vllm_server import EngineServer, arguments_of
    from finetune_trainer.model.context import served_context
    from finetune_trainer.model.load import read_config

    job = ResolvedJob.from_json(Path(plan.job).read_text())
    folder = Path(plan.control_dir)
    askers = make_askers(plan, job, rank)
    context = served_context(read_config(Path(plan.base_dir)))
    drop_unservable(plan, askers, context)
    before = read_answers(folder / BEFORE_NAME)
    shares = {side: asker.share_of_all(before[side]) for side, asker in askers.items()}
    if all(share.is_empty for share in shares.values()) and not plan.chat_template:
        return
    server = EngineServer.from_environment()
    models = choose_served(plan, askers, context)
    batch_size = job.spec.evaluation.batch_size
    num_at_once = batch_size if isinstance(batch_size, int) else NUM_AT_ONCE
    try:
        server.begin(arguments_of(job, models, port=server.port))
        (folder / ENGINE_NAME).write_text(server.wait_until_ready())
        client = EngineClient(
            server.url(""), max_tokens=models.max_tokens, has_ended=lambda: server.has_ended
        )

        def open_engine(name: str) -> AbstractContextManager[Engine]:
            return nullcontext(VllmEngine(client, name, num_at_once=num_at_once))

        ask_all(open_engine, askers, shares, plan, rank)
    except TrainerError:
        server.keep_log(folder)
        raise


def drop_unservable(plan: WorkerPlan, askers: dict[str, Asker], context: int | None) -> None:
    """Remove the published version where the server cannot hold it, and write down why.

    ``context`` are the tokens that the model takes; None if unknown.
    """
    from finetune_trainer.evaluate.inference.vllm_server import find_problem, find_too_long

    if not plan.published:
        return
    problem = find_problem(plan.published, bfloat16=plan.bfloat16)
    if problem := problem or find_too_long(askers["published"].encoded, context):
        Path(plan.control_dir, PROBLEM_NAME).write_text(problem)
        del askers["published"]


def choose_served(
    plan: WorkerPlan, askers: Mapping[str, Asker], context: int | None
) -> ServedFolders:
    """Return the models that the server holds, with room for the longest question.

    Raises:
        UserError: ``EngineUnsuitable``: a question is longer than the model's context.
    """
    from finetune_trainer.evaluate.inference.vllm_server import ServedFolders, measure_room

    adapters = {"tuned": Path(plan.tuned_dir)}
    if plan.published and "published" in askers:
        adapters["published"] = Path(plan.published["folder"])
    encoded = {side: asker.encoded for side, asker in askers.items()}
    return ServedFolders(
        base_dir=Path(plan.base_dir),
        adapters=adapters,
        bfloat16=plan.bfloat16,
        max_tokens=measure_room(encoded, context, others=plan.conversation_tokens),
        chat_template=Path(plan.chat_template) if plan.chat_template else None,
    )


def ask_all(
    open_engine: EngineOpener,
    askers: Mapping[str, Asker],
    shares: Mapping[str, Share],
    plan: WorkerPlan,
    rank: int,
) -> None:
    """Ask each variant its share, model by model, and write the answers down as they come.

    Where the published version cannot be asked, the reason is written down and the others go on.

    Raises:
        TrainerError: Another model does not load or does not fit, or an engine fails.
    """
    folder = Path(plan.control_dir)
    wanted = [side for side, share in shares.items() if not share.is_empty]
    with _writing(folder, rank) as write:

        def ask(name: str, sides: Iterable[str]) -> None:
            # After full fine-tuning base and tuned are two models. Nothing may refer to the engine
            # of one when the other loads, so it is a local variable of this function.
            with open_engine(name) as engine:
                for side in sides:
                    askers[side].ask(engine, shares[side], partial(write, side))

        for name, sides in groupby(wanted, key=model_of):
            try:
                ask(name, sides)
            except UserError as error:
                if error.reason != "PublishedUnusable":
                    raise
                (folder / PROBLEM_NAME).write_text(error.message)


@contextmanager
def _writing(folder: Path, rank: int) -> Iterator[Callable[[str, Said], None]]:
    """Yield a function that writes down answers of a variant, and counts them."""
    with (
        (folder / f"done-{rank}").open("ab", buffering=0) as done,
        (folder / f"said-{rank}.jsonl").open("ab", buffering=0) as said,
    ):

        def write(side: str, answers: Said) -> None:
            said.write(json.dumps({side: answers.to_json()}).encode() + b"\n")
            done.write(b"." * count({side: answers}))

        yield write


def model_of(side: str) -> str:
    """Return the model that answers for a variant."""
    if side == "published":
        return side
    return "tuned" if side.startswith("tuned") else "base"


def make_askers(plan: WorkerPlan, job: ResolvedJob, rank: int) -> dict[str, Asker]:
    """Return an asker for each variant."""
    from finetune_trainer.model.chat_format import read_format
    from finetune_trainer.model.encoding import make_encoder
    from finetune_trainer.model.load import load_tokenizer

    tokenizer = load_tokenizer(
        Path(plan.base_dir), trust_remote_code=job.spec.model.trust_remote_code
    )
    batch_size = job.spec.evaluation.batch_size
    folders = {side: folder_of(Path(plan.control_dir), side) for side in plan.sides}
    return {
        side: Asker(
            make_encoder(job, tokenizer, read_format(folder)),
            read_encoded(folder, name=name_of(side)),
            batch_size=batch_size if isinstance(batch_size, int) else None,
            held_tokens=plan.held_tokens,
            rank=rank,
            num_workers=plan.num_workers,
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
    published = plan.published
    return ModelPair(
        Path(plan.base_dir),
        Path(plan.tuned_dir),
        dtype=torch.bfloat16 if plan.bfloat16 else torch.float32,
        gpus=list(gpus),
        gpu_bytes=plan.gpu_bytes,
        quantize=plan.quantize,
        trust_remote_code=trust_remote_code,
        published=PublishedFolder(
            folder=Path(published["folder"]),
            bfloat16=published["bfloat16"],
            quantize=published["quantize"],
        )
        if published
        else None,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
