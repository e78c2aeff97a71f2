"""Stage ``evaluate``: base against tuned model on the held-out side, the goal, the publication."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.trainer import EvaluateResult, Score
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import Prepared, read_prepared
from finetune_trainer.errors import DataError
from finetune_trainer.evaluation.goal import check_goal
from finetune_trainer.evaluation.metrics import (
    LIKELIHOOD_METRICS,
    Answers,
    Floats,
    bootstrap,
    choose_metrics,
    make_metric,
)
from finetune_trainer.evaluation.questions import Question, gather_questions, with_prompt
from finetune_trainer.evaluation.report import Evidence, Sample, write_report
from finetune_trainer.export import weights_file
from finetune_trainer.merged import find_merged
from finetune_trainer.model.hardware import detect_hardware, require_gpus
from finetune_trainer.publish import publish_version
from finetune_trainer.storage import Manifest, fetch_folder, publish_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What both models said to the same questions."""

    questions: Sequence[Question]
    base: Answers
    tuned: Answers

    @property
    def asked(self) -> list[Question]:
        """The questions that were put to the models."""
        return with_prompt(self.questions)


def evaluate(context: StageContext) -> EvaluateResult:
    """Compare, report, and publish the adapter if its goal is met."""
    job = context.job
    key = f"{job.run_prefix}/evaluation"
    adapter_key = f"{job.run_prefix}/adapter"
    folder = context.scratch("evaluation", fresh=True)
    if context.output.exists(f"{key}/manifest.json"):
        context.emit.message("this run is evaluated already: reused")
        evaluation = fetch_folder(context.output, key, folder)
        result = EvaluateResult.model_validate(
            json.loads((folder / "report.json").read_text())["result"]
        )
        adapter = fetch_folder(context.output, adapter_key, context.scratch("adapter"))
        published = _publish_if_good(context, result, adapter, evaluation)
        return published.model_copy(update={"reused": True})
    prepared = read_prepared(context)
    adapter_dir = context.scratch("adapter")
    adapter = fetch_folder(context.output, adapter_key, adapter_dir)
    questions = gather_questions(
        prepared.test,
        max_questions=job.spec.evaluation.max_samples,
        seed=job.spec.dataset.split.seed,
    )
    if not questions:
        raise DataError(
            "NoHeldOutRows",
            "there is no held-out row to evaluate on; set dataset.split.testPercent above 0 or "
            "give a source with side: Test",
        )
    record = json.loads((adapter_dir / "run.json").read_text())
    comparison = compare(context, questions, adapter_dir, record)
    scores = score_all(context, comparison)
    result = _make_result(context, key, comparison, scores)
    _write_results(folder, context, prepared, adapter, record, comparison, result)
    evaluation = publish_folder(
        context.output,
        key,
        folder,
        created_by="finetune_trainer evaluate",
        inputs={"adapter": adapter.digest, "dataset": prepared.digest},
    )
    return _publish_if_good(context, result, adapter, evaluation)


def compare(
    context: StageContext, questions: list[Question], adapter_dir: Path, record: dict[str, Any]
) -> Comparison:
    """Ask both models everything."""
    import torch

    from finetune_trainer.evaluation.models import ModelPair
    from finetune_trainer.evaluation.scoring import (
        answer_length,
        generate_answers,
        prompt_ids,
        score_likelihood,
    )
    from finetune_trainer.sft.examples import Encoder

    job = context.job
    hardware = detect_hardware()
    use_gpu = require_gpus(job, hardware)
    _set_threads(hardware.num_cpus)
    base_dir, _ = context.model_folder()
    tokenizer = context.load_tokenizer()
    encoder = Encoder(
        tokenizer,
        loss=job.spec.method.loss,
        max_tokens=job.spec.hyperparameters.max_sequence_length,
    )
    pair = ModelPair(
        base_dir,
        adapter_dir,
        dtype=torch.bfloat16 if record["recipe"]["bfloat16"] else torch.float32,
        use_gpu=use_gpu,
        trust_remote_code=job.spec.model.trust_remote_code,
    )
    examples = [encoder.encode(row) for question in questions for row in question.rows]
    owners = np.array([i for i, question in enumerate(questions) for _ in question.rows])
    asks = with_prompt(questions)
    prompts = [prompt_ids(encoder, tokenizer, question) for question in asks]
    length = answer_length(
        tokenizer, [q.references for q in asks], job.spec.evaluation.max_new_tokens
    )
    batch = job.spec.evaluation.batch_size
    total = 2 * (len(examples) + len(prompts))
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        context.emit.progress(step=done, total_steps=total)

    def ask(model: Any) -> Answers:
        pad_id = int(tokenizer.pad_token_id)
        sums, counts = score_likelihood(model, examples, pad_id=pad_id, tick=tick)
        texts = generate_answers(
            model,
            tokenizer,
            prompts,
            max_new_tokens=length,
            batch_size=batch if isinstance(batch, int) else None,
            tick=tick,
        )
        return Answers(
            texts=texts,
            nll_sums=_sum_by(owners, sums, len(questions)),
            num_tokens=_sum_by(owners, counts, len(questions)),
        )

    context.emit.message(
        f"asking base and tuned model {len(questions)} held-out questions, "
        f"answers up to {length} tokens"
    )
    with pair.base() as model:
        base = ask(model)
    # Of full fine-tuning these are two models: the first must go before the second comes.
    del model
    with pair.tuned() as model:
        tuned = ask(model)
    return Comparison(questions=questions, base=base, tuned=tuned)


def score_all(context: StageContext, comparison: Comparison) -> list[Score]:
    """Compute every fitting metric with intervals; the goal's metric first."""
    spec = context.job.spec
    goal_metric = spec.goal.metric if spec.goal else None
    answered = [question.references for question in comparison.asked]
    names = choose_metrics(answered, goal_metric)
    if goal_metric in names:
        names.sort(key=lambda name: name != goal_metric)
    scores = []
    for name in names:
        if not answered and name not in LIKELIHOOD_METRICS:
            raise DataError(
                "MetricUnsuitable",
                f"goal.metric {name} compares answers, and no held-out row has one; use loss or "
                "perplexity",
            )
        # Plain text has no answer to compare: it counts for the loss alone.
        num_rows = len(comparison.questions if name in LIKELIHOOD_METRICS else answered)
        metrics = [
            make_metric(name, answers, answered) for answers in (comparison.base, comparison.tuned)
        ]
        intervals, delta = bootstrap(
            metrics,
            num_rows,
            num_samples=spec.evaluation.num_bootstrap_samples,
            seed=spec.dataset.split.seed,
        )
        base, tuned = intervals
        assert delta is not None
        scores.append(
            Score(
                name=name,
                base=_text(base.value),
                tuned=_text(tuned.value),
                tuned_low=_text(tuned.low),
                tuned_high=_text(tuned.high),
                delta_low=_text(delta.low),
                delta_high=_text(delta.high),
            )
        )
    return scores


def _make_result(
    context: StageContext, key: str, comparison: Comparison, scores: list[Score]
) -> EvaluateResult:
    goal = context.job.spec.goal
    chosen = next((score for score in scores if goal and score.name == goal.metric), scores[0])
    met, words = check_goal(goal, base=float(chosen.base), tuned=float(chosen.tuned))
    return EvaluateResult(
        scores=scores,
        num_samples=len(comparison.questions),
        goal_met=met,
        goal_message=words,
        report_uri=context.uri_of(f"{key}/report.json"),
    )


def _write_results(
    folder: Path,
    context: StageContext,
    prepared: Prepared,
    adapter: Manifest,
    record: dict[str, Any],
    comparison: Comparison,
    result: EvaluateResult,
) -> None:
    merged = find_merged(context)
    evidence = Evidence(
        job=context.job,
        model_name=context.model_name,
        record=record,
        rows=prepared.report.rows,
        adapter_uri=context.uri_of(f"{context.job.run_prefix}/adapter"),
        adapter_sha256=weights_file(adapter).sha256,
        merged_digest=merged.digest if merged else None,
        result=result,
        samples=[
            Sample(
                prompt=question.prompt or "",
                references=question.references,
                base=comparison.base.texts[i],
                tuned=comparison.tuned.texts[i],
            )
            for i, question in enumerate(comparison.asked)
        ],
    )
    write_report(folder, evidence)


def _publish_if_good(
    context: StageContext, result: EvaluateResult, adapter: Manifest, evaluation: Manifest
) -> EvaluateResult:
    if result.goal_met is False:
        context.emit.message(f"goal missed, nothing is published: {result.goal_message}")
        return result
    version, key = publish_version(context, adapter, evaluation, result)
    return result.model_copy(update={"version": version, "manifest_uri": context.uri_of(key)})


def _sum_by(owners: NDArray[np.int64], values: Floats, size: int) -> Floats:
    # A question may stand for several rows, one per reference.
    return np.bincount(owners, weights=values, minlength=size).astype(np.float64)


def _set_threads(num_cpus: int) -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or num_cpus))


def _text(value: float) -> str:
    return f"{value:.4f}"
