"""``python -m finetune_trainer advise``: would prompting do? Asks the base model; trains nothing.

The data set is prepared if needed.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import Score
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_api.v1alpha1.evaluation.scoring import JUDGE_METRICS
from finetune_trainer.context import StageContext, read_job
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.advice import advise
from finetune_trainer.evaluate.asking import ask_models
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.inference.keeping import drop_answers
from finetune_trainer.evaluate.inputs import keep_below
from finetune_trainer.evaluate.question_set import gather_question_set
from finetune_trainer.evaluate.scores.measuring import score_all
from finetune_trainer.evaluate.settings import read_settings, try_settings
from finetune_trainer.evaluate.sources.prompt_baseline.making import make_prompted
from finetune_trainer.evaluate.sources.prompt_baseline.section import to_json
from finetune_trainer.failures import classify
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import evaluated_context
from finetune_trainer.model.encoding import make_encoder
from finetune_trainer.model.hardware import detect_hardware
from finetune_trainer.model.load import read_config
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.train.recipe.recipe import decide_bfloat16


def advise_job(arguments: argparse.Namespace) -> int:
    """Write what prompting reaches as JSON; returns the exit code."""
    emit = EventEmitter(Stage.PREPARE)
    try:
        from finetune_trainer.prepare.stage import prepare

        context = StageContext.from_environment(read_job(arguments.job), emit)
        prepare(context)
        found = ask_base(context)
    except Exception as error:
        failure = classify(error)
        code = int(failure.exit_code)
        emit.failure(reason=failure.reason, message=failure.message, exit_code=code, step=None)
        return code
    Path(arguments.out).write_text(json.dumps(found))
    return 0


def ask_base(context: StageContext) -> dict[str, Any]:
    """Ask the base model of a prepared job in every way, and judge it by the job's goal.

    Raise ``TrainerError`` on failure.
    """
    job, storage, model, started = context.job, context.storage, context.model, time.monotonic()
    prepared = read_prepared(storage.output, job, context.work_dir, sides=(Side.TEST,))
    encoder = make_encoder(job, model.load_tokenizer(), read_format(prepared.folder))
    config_dir, _ = model.fetch(include_weights=False)
    room = evaluated_context(read_config(config_dir), job.spec.evaluation.engine)
    asked = gather_question_set(job, prepared, encoder, room=room)
    settings = read_settings(job.spec.evaluation, storage.access())
    try_settings(settings, asked.questions)
    found = make_prompted(
        storage, context.work_dir, model.load_tokenizer, prepared, asked, config_dir=config_dir
    )
    base_dir, revision = model.fetch()
    asked = replace(asked, prompted=found.prompted)
    prefix = f"{job.run_prefix}/advice"
    said = ask_models(
        job,
        asked,
        encoder,
        base_dir=base_dir,
        tuned_dir=None,
        record=_how_to_load(job),
        control_dir=context.workspace.scratch("advice", fresh=True),
        emit=context.emit,
        keeping=keep_below(storage, prefix, model=revision, dataset=prepared.digest),
    )
    drop_answers(storage.output, prefix)
    # Nothing is tuned yet: that side is the base itself, and nobody looks at it.
    comparison = Comparison(
        questions=asked.questions,
        **said,
        tuned=said["base"],
        trained=found.answers,
        unmeasured=dict.fromkeys(JUDGE_METRICS, "a judge is asked once there is a tuned model"),
    )
    scores, _ = score_all(job, comparison, settings)
    advice = advise(job, comparison, settings)
    return {
        "verdict": advice.verdict,
        "sentence": advice.sentence,
        "suggestions": list(advice.suggestions),
        "asked": advice.asked,
        "goal": job.spec.goal.to_wire() if job.spec.goal else None,
        "numPrompts": len(asked.questions),
        "scores": [line for score in scores for line in _lines(score)],
        "baseline": to_json(found.prompted, found.not_prompted),
        "seconds": round(time.monotonic() - started, 1),
    }


def _how_to_load(job: ResolvedJob) -> dict[str, Any]:
    """Return the load settings that training would record in ``run.json`` on this machine."""
    hardware = detect_hardware()
    use_gpu = hardware.num_gpus > 0 and job.spec.resources.gpus_per_node > 0
    # Without a GPU there are no 4-bit weights: the base is then a little better than QLoRA's.
    is_quantized = use_gpu and job.spec.method.adapter.type == "QLoRA"
    return {
        "recipe": {"bfloat16": decide_bfloat16(job, hardware, use_gpu=use_gpu)},
        "quantization": "4 bits" if is_quantized else None,
    }


def _lines(score: Score) -> list[dict[str, str]]:
    if score.baselines:
        return [{"metric": score.name, **each.to_wire()} for each in score.baselines]
    low, high = score.base_low, score.base_high
    return [{"metric": score.name, "asked": "AsIs", "value": score.base, "low": low, "high": high}]
