"""Puts all questions of an evaluation to the models, and stores the answers of stopped attempts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import Environment, ResolvedJob
from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluate.comparison import gather_answers
from finetune_trainer.evaluate.inference.answers import (
    SIDES,
    Answers,
    KeptAnswers,
    Said,
    combine,
    count,
    digest_of,
    write_answers,
)
from finetune_trainer.evaluate.inference.keeping import AnswerStore
from finetune_trainer.evaluate.inference.vllm_server import Conversing
from finetune_trainer.evaluate.inference.worker import (
    BEFORE_NAME,
    ENGINE_NAME,
    PROBLEM_NAME,
    WorkerPlan,
)
from finetune_trainer.evaluate.inference.workers import (
    STOP_FLAG,
    STOPPED_REASON,
    place_workers,
    read_said,
    run_workers,
)
from finetune_trainer.evaluate.metrics.answers import Answers as SaidAll
from finetune_trainer.evaluate.question_set import QuestionSet
from finetune_trainer.evaluate.tokenized import PROBES_NAME, PROMPTED_NAME, folder_of, write_encoded
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.model.hardware import detect_hardware
from finetune_trainer.model.load import require_bitsandbytes
from finetune_trainer.planning.answering import TOKENS_PER_BATCH
from finetune_trainer.planning.placement import Placement
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.stopping import on_stop

TEMPLATE_NAME = "conversations.jinja"
"""File in the control folder with the chat template of the server's later conversations."""
SERVED = Placement(num_workers=1, gpus_per_worker=0)
"""One process puts all questions to a server, which has the GPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping(AnswerStore):
    """Where answers are stored, and for which weights.

    Attributes:
        facts: The digests of the weights, on which the answers depend.
    """

    facts: Mapping[str, object]


def ask_models(
    job: ResolvedJob,
    asked: QuestionSet,
    encoder: ChatTokenizer,
    *,
    base_dir: Path,
    tuned_dir: Path | None,
    record: dict[str, Any],
    control_dir: Path,
    emit: EventEmitter,
    keeping: Keeping,
    has_server: bool = False,
    conversing: Conversing | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, SaidAll]:
    """Ask the models everything that has no stored answer yet.

    Args:
        job: The effective job.
        asked: The questions.
        encoder: The encoder of training.
        base_dir: Local base model.
        tuned_dir: Local adapter, or fully tuned model; None asks the base model alone.
        record: Content of the adapter's ``run.json``: the models are loaded as in training.
        control_dir: Empty folder for the workers.
        emit: Where events go.
        keeping: Where answers are stored.
        has_server: Whether a vLLM server has the GPUs, if the job asks for one.
        conversing: Conversations that the server takes afterwards. It starts for them even where
            no question is left.
        tell: Called with the number of finished asks and their total; by default this is the
            stage's progress.

    Returns:
        The answers by variant, with ``likelihood`` for the likeliest labels behind a prompt. The
        published version is missing where it could not be asked; see :func:`read_problem`.

    Raises:
        TrainerError: The models do not fit, or a worker failed; the answers so far are stored.
        Stopped: This process was asked to stop.
    """
    if record.get("quantization") is not None:
        require_bitsandbytes(job.spec.trainer.image)
    is_served = has_server and job.spec.evaluation.engine == "VLLM"
    plan, placement = plan_workers(
        job,
        asked,
        base_dir,
        tuned_dir,
        record,
        control_dir,
        is_served=is_served,
        conversing=conversing,
    )
    Path(plan.job).write_text(job.to_json())
    _write_questions(control_dir, encoder, asked)
    digest = digest_of(control_dir, gather_facts(job, plan, keeping))
    kept = KeptAnswers(keeping, digest, tell=emit.message)
    before = kept.read()
    write_answers(control_dir / BEFORE_NAME, before)
    total = sum(asked.encoded_for(side).num_asks for side in plan.sides)
    place = "a vLLM server" if plan.is_served else placement.describe()
    emit.message(_describe(asked, plan, place, num_before=count(before), total=total))
    with _stopping(control_dir):
        said = _run(plan, kept, before, emit, total=total, tell=tell or partial(_progress, emit))
    heard = [side for side in plan.sides if side != "published" or not read_problem(control_dir)]
    return _gather(asked, {side: said[side] for side in heard})


def _describe(
    asked: QuestionSet, plan: WorkerPlan, place: str, *, num_before: int, total: int
) -> str:
    """Return the message about what is asked, and where."""
    return (
        f"asking {_name_variants(plan.sides)} {len(asked.questions)} {asked.rows} questions, "
        f"answers up to {asked.encoded.answer_tokens} tokens, on {place}"
        + (f", and both models {asked.probes.num_asks} probes" if asked.probes else "")
        + (f"; {num_before} of {total} asks were answered before" if num_before else "")
    )


def _write_questions(control_dir: Path, encoder: ChatTokenizer, asked: QuestionSet) -> None:
    """Write the encoded questions for the workers."""
    write_encoded(control_dir, encoder, asked.encoded)
    if asked.prompted is not None:
        write_encoded(control_dir, encoder, asked.prompted.encoded, name=PROMPTED_NAME)
    if asked.probes is not None:
        write_encoded(control_dir, encoder, asked.probes, name=PROBES_NAME)
    if asked.published is not None:
        folder = folder_of(control_dir, "published")
        folder.mkdir()
        write_encoded(folder, asked.published.encoder, asked.published.encoded)


def read_problem(control_dir: Path) -> str:
    """Return why the published version could not be asked; empty if it could."""
    path = control_dir / PROBLEM_NAME
    return path.read_text() if path.exists() else ""


def read_engine(control_dir: Path, job: ResolvedJob) -> str:
    """Return the name of the engine, with its version where it ran in this attempt."""
    if job.spec.evaluation.engine == "Transformers":
        return f"Transformers {version('transformers')}"
    path = control_dir / ENGINE_NAME
    if path.exists():
        return path.read_text()
    image = os.environ.get(Environment.ENGINE_IMAGE, "")
    return f"vLLM ({image})" if image else "vLLM"


def _name_variants(sides: Sequence[str]) -> str:
    names = {
        "base": "base",
        "prompted": "base with a prompt",
        "tuned": "tuned model",
        "published": "published version",
    }
    *first, last = (names[side] for side in sides if side in names)
    if not first:
        return "the base model" if last == "base" else f"the {last}"
    return f"{', '.join(first)} and {last}"


def _gather(asked: QuestionSet, said: Answers) -> dict[str, SaidAll]:
    """Return all answers of each variant; the likeliest labels are a variant of their own."""
    answers = {
        side: gather_answers(asked.encoded_for(side), asked.num_questions_for(side), [said[side]])
        for side in said
    }
    prompted = asked.prompted
    if prompted is None:
        return answers
    before = answers["prompted"]
    answers["prompted"] = replace(before, texts=[prompted.cut(t) for t in before.texts])
    if prompted.labels:
        chosen = said["prompted"].chosen
        texts = [prompted.labels[chosen[place]] for place in range(len(before.texts))]
        answers["likelihood"] = replace(before, texts=texts, unended=frozenset())
    return answers


def plan_workers(
    job: ResolvedJob,
    asked: QuestionSet,
    base_dir: Path,
    tuned_dir: Path | None,
    record: dict[str, Any],
    control_dir: Path,
    *,
    is_served: bool,
    conversing: Conversing | None = None,
) -> tuple[WorkerPlan, Placement]:
    """Decide how the models are loaded and which processes hold them; see :func:`ask_models`.

    Raises:
        TrainerError: The models do not fit.
    """
    bfloat16, quantize = bool(record["recipe"]["bfloat16"]), record.get("quantization") is not None
    hardware, placement, held = detect_hardware(), SERVED, TOKENS_PER_BATCH
    if not is_served:
        placement, held = place_workers(
            job,
            hardware,
            asked,
            base_dir=base_dir,
            tuned_dir=tuned_dir,
            bfloat16=bfloat16,
            quantize=quantize,
        )
    no_model = control_dir / "none"
    no_model.mkdir()
    plan = WorkerPlan(
        job=str(control_dir / "job.json"),
        control_dir=str(control_dir),
        base_dir=str(base_dir),
        tuned_dir=str(tuned_dir or no_model),
        sides=_list_sides(asked, has_tuned=tuned_dir is not None),
        bfloat16=bfloat16,
        quantize=quantize,
        num_workers=placement.num_workers,
        gpus_per_worker=placement.gpus_per_worker,
        gpu_bytes=hardware.memory_bytes,
        gpu_kind=hardware.kind,
        held_tokens=held,
        published=asked.published.to_plan() if asked.published else None,
        is_served=is_served,
        chat_template=_write_template(control_dir, conversing),
        conversation_tokens=conversing.max_tokens if conversing else 0,
    )
    return plan, placement


def _list_sides(asked: QuestionSet, *, has_tuned: bool) -> list[str]:
    """Return the variants that are asked, in their order."""
    is_asked = {
        "base": asked.has_base,
        "prompted": asked.prompted is not None,
        "baseProbes": asked.probes is not None,
        "tuned": has_tuned,
        "tunedProbes": asked.probes is not None,
        "published": asked.published is not None,
    }
    return [side for side in SIDES if is_asked[side]]


def _write_template(control_dir: Path, conversing: Conversing | None) -> str:
    """Write the template of the server's later conversations; returns its path."""
    if conversing is None:
        return ""
    path = control_dir / TEMPLATE_NAME
    path.write_text(conversing.template, encoding="utf-8")
    return str(path)


def gather_facts(job: ResolvedJob, plan: WorkerPlan, keeping: Keeping) -> dict[str, object]:
    """Return everything that answers depend on, except the questions."""
    image = os.environ.get(Environment.ENGINE_IMAGE, "")
    return {
        **keeping.facts,
        **({"engine": f"VLLM {image}"} if plan.is_served else {}),
        "bfloat16": plan.bfloat16,
        "quantize": plan.quantize,
        "batchSize": job.spec.evaluation.batch_size,
        "gpuBytes": plan.gpu_bytes if plan.gpus_per_worker else 0,
        "gpu": plan.gpu_kind if plan.gpus_per_worker else "",
        # Another build of this program may ask in another way.
        "image": os.environ.get(Environment.IMAGE, ""),
    }


def _stopping(control_dir: Path) -> AbstractContextManager[None]:
    return on_stop(
        "stopped on request; the time was over before the answers were in storage, the next "
        "attempt asks for those that were not kept before",
        reason=STOPPED_REASON,
        act=(control_dir / STOP_FLAG).touch,
    )


def _progress(emit: EventEmitter, done: int, total: int) -> None:
    emit.progress(step=done, total_steps=total, unit="answers")


def _run(
    plan: WorkerPlan,
    kept: KeptAnswers,
    before: Answers,
    emit: EventEmitter,
    *,
    total: int,
    tell: Callable[[int, int], None],
) -> dict[str, Said]:
    """Run the workers; returns the stored and the new answers.

    Raises:
        TrainerError: A worker failed. The message says whether the answers so far are stored.
    """
    control_dir = Path(plan.control_dir)

    def answers() -> dict[str, Said]:
        return combine([before, read_said(control_dir)])

    def keep() -> None:
        if problem := kept.try_to_write(answers()):
            emit.message(f"the answers so far could not be kept: {problem}")

    num_before = count(before)
    try:
        run_workers(plan, on_done=lambda done: tell(num_before + done, total), keep=keep)
    except TrainerError as error:
        so_far = answers()
        if count(so_far) > num_before:
            words = (
                f"{count(so_far)} of {total} answers are kept, the next attempt asks for the rest"
            )
            if problem := kept.try_to_write(so_far):
                words = f"the answers could not be kept ({problem}), the next attempt asks again"
            error.message += f"; {words}"
        raise
    if plan.chat_template:
        # The conversations that follow take long and may be stopped.
        keep()
    return answers()
