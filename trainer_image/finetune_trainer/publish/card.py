"""The model card: training, data and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult, JudgeResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_trainer.publish.declared import declared_section, plain_text
from finetune_trainer.publish.generation import generation_words


def model_card(
    job: ResolvedJob,
    *,
    model_name: str,
    record: dict[str, Any],
    evaluation: EvaluateResult | None = None,
    baseline: str = "",
    engine: str = "",
    findings: Sequence[str] = (),
    is_merged: bool = False,
) -> str:
    """Write the model card: use, limits, base, data version, recipe and, once known, scores.

    Args:
        job: The job.
        model_name: Public name of the base model.
        record: Content of the run's ``run.json``.
        evaluation: Held-out scores, once known.
        baseline: How the base model was asked, in a sentence.
        engine: Inference engine and version.
        findings: Findings of the data checks, in sentences.
        is_merged: The card is for base and adapter in one.
    """
    from huggingface_hub import ModelCard

    adapter = job.spec.method.adapter
    is_whole = adapter.type == "Full" or is_merged
    what = "Adapter for"
    if is_whole:
        what = "Adapter merged into" if is_merged else "Model tuned from"
    facts = recipe_facts(job, model_name=model_name, record=record)
    rows = [f"| {label} | {value} |" for label, value in facts.items()]
    parts = [
        _metadata(job, model_name=model_name, licence=record.get("license"), is_whole=is_whole),
        f"# {job.name}",
        f"{what} {model_name}, {_made_by(job, record)}.",
        declared_section(job),
        "## Recipe\n\n| | |\n|---|---|\n" + "\n".join(rows),
    ]
    if findings:
        lines = "\n".join(f"- {plain_text(each)}" for each in findings)
        parts.append(f"## Findings in the data\n\n{lines}")
    if evaluation is not None:
        goal = job.spec.goal
        parts.append(scores_section(evaluation, certainty=goal.certainty if goal else "0.95"))
        if engine:
            parts.append(f"Answers were computed by {engine}.")
        if baseline:
            parts.append(_baseline_section(evaluation, baseline))
        if evaluation.judge is not None:
            parts.append(_judge_section(evaluation.judge))
    parts.append(_use_section(record, is_whole=is_whole))
    return str(ModelCard("\n\n".join(parts) + "\n"))


def _made_by(job: ResolvedJob, record: Mapping[str, Any]) -> str:
    return f"trained by finetune-operator from the job `{job.namespace}/{job.name}`"


def _metadata(job: ResolvedJob, *, model_name: str, licence: str | None, is_whole: bool) -> str:
    from huggingface_hub import ModelCardData

    method = job.spec.method
    data = ModelCardData(
        base_model=model_name,
        base_model_relation="finetune" if is_whole else "adapter",
        library_name="transformers" if is_whole else "peft",
        license=licence,
        pipeline_tag="text-generation",
        tags=[method.objective.lower(), method.adapter.type.lower(), "finetune-operator"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _use_section(record: Mapping[str, Any], *, is_whole: bool) -> str:
    """Return how the folder is loaded in Python, to answer as it was evaluated."""
    library, loader = "peft", "AutoPeftModelForCausalLM"
    settings = "GenerationConfig.from_pretrained(folder)"
    if is_whole:
        library, loader = "transformers", "AutoModelForCausalLM"
        if record.get("generation"):
            settings = f"GenerationConfig(eos_token_id={settings}.eos_token_id)"
    return (
        "## Use\n\nThe folder's tokenizer has the chat template of training, and its "
        "`generation_config.json` every token that answers end with. "
        f"{generation_words(record, is_whole=is_whole)}\n\n"
        f"```python\nfrom {library} import {loader}\n"
        "from transformers import AutoTokenizer, GenerationConfig\n\n"
        'folder = "path/to/this/folder"\n'
        f"model = {loader}.from_pretrained(folder)\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"model.generation_config = {settings}\n```"
    )


def recipe_facts(
    job: ResolvedJob, *, model_name: str, record: dict[str, Any]
) -> dict[str, str | int]:
    """Return facts about training and data, by label; for cards and reports."""
    adapter = job.spec.method.adapter
    named = record.get("targetModules") or ",".join(adapter.target_modules)
    targets = f" on {named.replace(',', ', ')}" if named else ""
    shape = f" rank {adapter.rank} alpha {adapter.alpha} dropout {adapter.dropout}{targets}"
    return {
        "Base model": f"{model_name} @ {record['revision']}",
        **_origin_facts(record),
        "Licence of the base": record.get("license") or "not stated there; look it up before use",
        "Data set version": record["dataset"],
        "Adapter": adapter.type + ("" if adapter.type == "Full" else shape),
        **_training_facts(job, record),
        "Base precision": _precision_of(record),
    }


def _origin_facts(record: Mapping[str, Any]) -> dict[str, str]:
    origin = record.get("initFrom")
    return {"Begun from": f"{origin['uri']} (sha256 {origin['digest']})"} if origin else {}


def _training_facts(job: ResolvedJob, record: Mapping[str, Any]) -> dict[str, str | int]:
    recipe = record["recipe"]
    return {
        "Trainable parameters": record["numTrainableParameters"],
        "Steps": _steps(record),
        "Global batch size": recipe["global_batch_size"],
        "Learning rate": f"{recipe['learning_rate']:g} ({job.spec.hyperparameters.scheduler})",
        "Epochs": f"{recipe['epochs']:g}",
        "Seed": job.spec.hyperparameters.seed,
    }


def _precision_of(record: Mapping[str, Any]) -> str:
    computed = "bfloat16" if record["recipe"]["bfloat16"] else "float32"
    quantization = record.get("quantization")
    return f"4 bits ({quantization}), computed in {computed}" if quantization else computed


def _steps(record: Mapping[str, Any]) -> str | int:
    chosen = record.get("selection")
    if chosen is None:
        return int(record["step"])
    step, last, planned = (chosen[name] for name in ("step", "last_step", "planned_steps"))
    words = f"{step:,} of {last:,}"
    if chosen["validation_loss"] is not None:
        words += f" (validation loss {chosen['validation_loss']:.4f}"
        words += "" if step == last else ", the lowest"
        words += f"{_error_of(record)})"
    return words + (f"; {planned:,} were planned" if last < planned else "")


def _error_of(record: Mapping[str, Any]) -> str:
    error, recipe = record["selection"].get("validation_error"), record["recipe"]
    words = "" if error is None else f", standard error {error:.4f}"
    measured, rows = (recipe.get(name, 0) for name in ("num_measured_rows", "num_validation_rows"))
    return f"{words}, {measured:,} of {rows:,} rows" if measured < rows else words


def scores_section(evaluation: EvaluateResult, *, certainty: str) -> str:
    """Return the card's section on scores, goal and gates; ``certainty`` is of the intervals."""
    lines = [
        f"| {score.name} | {score.base} [{score.base_low}, {score.base_high}] "
        f"| {score.tuned} [{score.tuned_low}, {score.tuned_high}] "
        f"| {float(score.tuned) - float(score.base):+.4f} "
        f"[{score.delta_low}, {score.delta_high}] |"
        for score in evaluation.scores
    ]
    trivial = [f"{score.name} {score.trivial}" for score in evaluation.scores if score.trivial]
    text = (
        "## Held-out scores\n\n| metric | base | tuned | tuned - base |\n|---|---|---|---|\n"
        + "\n".join(lines)
        + f"\n\n{evaluation.num_samples} held-out samples; {float(certainty) * 100:g} % intervals "
        "in brackets, that of the difference from pairs."
    )
    if trivial:
        text += f" Without a model, {evaluation.trivial} as every answer: {', '.join(trivial)}."
    constant = [
        f"{score.name} {score.constant} ({score.constant_words}; tuned {score.over_constant}, at "
        f"least {score.over_constant_low})"
        for score in evaluation.scores
        if score.constant
    ]
    if constant:
        told = ", ".join(constant)
        text += f"\n\nBest constant answer, one text or its own words for every prompt: {told}."
    if evaluation.goal_met is not None:
        verdict = "met" if evaluation.goal_met else "missed"
        text += f"\n\nGoal {verdict}: {evaluation.goal_message}."
    for words in evaluation.remarks:
        text += f"\n\n{words}."
    if not evaluation.probes and not evaluation.probe_notes:
        text += "\n\nForgetting and safety were not measured."
    for words in published_words(evaluation):
        text += f"\n\n{words}"
    for gate in evaluation.gates:
        verdict = "met" if gate.met else "missed"
        verdict = verdict if gate.applicable else "not applicable"
        kind = "" if gate.severity == "Block" else " (a warning)"
        text += f"\n\nGate {gate.name}{kind} {verdict}: {gate.message}."
    return text


def published_words(evaluation: EvaluateResult) -> list[str]:
    """Say how the tuned model compares with the version that was published before it."""
    published = evaluation.published
    if published is None:
        return []
    if published.version is None:
        return ["Nothing was published under this name before, so there was nothing to compare."]
    if published.problem:
        return [f"Published version {published.version} was not asked: {published.problem}."]
    scores = ", ".join(
        f"{score.name} {score.published} [{score.published_low}, {score.published_high}], tuned - "
        f"published {float(score.tuned) - float(score.published):+.4f} "
        f"[{score.over_published_low}, {score.over_published_high}]"
        for score in evaluation.scores
        if score.published
    )
    words = f"Published version {published.version} on the same rows: {scores or 'not comparable'}."
    return [f"{words} {published.seen[:1].upper()}{published.seen[1:]}."]


def _baseline_section(evaluation: EvaluateResult, words: str) -> str:
    """Return how the base model was asked, with its scores.

    The prompt holds train rows, so a card never shows it.
    """
    lines = [
        f"| {score.name} | {BASELINE_WORDS[each.asked]} | {each.value} [{each.low}, {each.high}] |"
        for score in evaluation.scores
        for each in score.baselines or ()
    ]
    if not lines:
        return f"## The base model\n\n{words}"
    return (
        f"## The base model\n\n{words} Of each metric the tuned model is compared with the best "
        "of these. The prompt stands in the evaluation's report.\n\n"
        "| metric | asked | score |\n|---|---|---|\n" + "\n".join(lines)
    )


def _judge_section(judge: JudgeResult) -> str:
    text = (
        f"## Judge\n\n`{judge.model}` compared base and tuned model on {judge.num_judged} of "
        f"{judge.num_drawn} drawn questions"
        if judge.mode == "Pairwise"
        else f"## Judge\n\n`{judge.model}` gave points to {judge.num_judged} of "
        f"{judge.num_drawn} drawn questions"
    )
    if judge.failure:
        return f"{text}; its metric is not measured."
    if judge.agreement:
        text += f"; with itself, in the other order, it agreed on {judge.agreement}"
    return ". ".join([text, *judge.notes]).rstrip(".") + "."
