"""Where a model comes from, how it is served, and who has yet to look at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.responses import FEEDBACK_CHECK, RESPONSES_NAME
from finetune_trainer.publish.card import recipe_facts
from finetune_trainer.publish.generation import generation_words
from finetune_trainer.storage import is_local, local_path

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for ``--max-lora-rank``; an adapter of a rank between two fits the greater."""
NUM_SOURCES = 8
COPIED_BASE = "./base"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command, and what it is for."""

    what: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSection:
    """What the page says of the data.

    Attributes:
        words: Rows of each side, and where they come from.
        sources: Cells of the table of sources.
        told: What the checks found, in sentences.
        page: Path of the data set's own page, from this one.
        command: What opens it from anywhere; empty where nothing does.
    """

    words: str
    sources: list[list[object]]
    told: list[str]
    page: str
    command: str


def lineage_facts(
    job: ResolvedJob, *, model_name: str, record: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, str | int]:
    """Return what the model was made of, by label.

    Args:
        job: The job.
        model_name: Public name of the base model.
        record: Content of the run's ``run.json``.
        files: What came of it, by label.
    """
    recipe = recipe_facts(job, model_name=model_name, record=dict(record))
    origin = ("Base model", "Begun from", "Licence of the base", "Data set version")
    facts: dict[str, str | int] = {name: recipe[name] for name in origin if name in recipe}
    return {**facts, "Job": f"{job.namespace}/{job.name}", "Job UID": job.uid, **files}


def licence_words(record: Mapping[str, Any]) -> str:
    """Say what is known of the terms that the model may be used under."""
    licence = record.get("license")
    if not licence:
        return (
            "The base model states no licence in its configuration or card: look it up before "
            "anybody uses what was made of it."
        )
    states = "The base model states"
    if record.get("licenseIsStated") is False:
        states = "The base model states no licence; the job states"
    return (
        f"{states} the licence {licence}. What was tuned from it is bound by it too, "
        "and by the terms of the data."
    )


def serving_commands(
    job: ResolvedJob, *, model_name: str, record: Mapping[str, Any], adapter_uri: str
) -> list[Command]:
    """Return the commands that fetch the model, ask it and serve it.

    Args:
        job: The job.
        model_name: Public name of the base model.
        record: Content of the run's ``run.json``.
        adapter_uri: Folder of the adapter.
    """
    folder = str(local_path(adapter_uri)) if is_local(adapter_uri) else "./adapter"
    commands = []
    if is_readable(adapter_uri):
        commands = [
            Command(what="Check every byte of the files", text=f"finetune verify {adapter_uri}"),
            Command(what="Ask it on this machine", text=f"finetune chat {adapter_uri} --base"),
        ]
    if is_readable(adapter_uri) and not is_local(adapter_uri):
        text = f"finetune cp {job.name} {folder} --namespace {job.namespace}"
        what = "Copy it once it is published, on a machine that knows the job's cluster"
        commands.append(Command(what=what, text=text))
    base = _servable_base(job.spec.model.uri, model_name)
    adapter = job.spec.method.adapter
    chat = f"--chat-template {folder}/chat_template.jinja --generation-config {folder}"
    copied = [] if is_local(adapter_uri) else [f"{adapter_uri} copied to {folder}"]
    if adapter.type == "Full":
        serve = f"vllm serve {folder} --served-model-name {job.name}"
    else:
        rank = next((each for each in LORA_RANKS if each >= adapter.rank), LORA_RANKS[-1])
        revision = str(record["revision"])
        pin = f" --revision {revision}" if base == model_name and len(revision) == 40 else ""
        serve = (
            f"vllm serve {base}{pin} --enable-lora --max-lora-rank {rank} "
            f"--lora-modules {job.name}={folder} {chat}"
        )
        copied += [f"{job.spec.model.uri} copied to {base}"] if base == COPIED_BASE else []
    what = ", ".join(["Serve it with vLLM", *copied])
    return [*commands, Command(what=what, text=serve)]


def asking_words(job: ResolvedJob, record: Mapping[str, Any]) -> str:
    """Say how the evaluation asked, and what whoever serves the model may get instead.

    Args:
        job: The job.
        record: Content of the run's ``run.json``.
    """
    is_whole = job.spec.method.adapter.type == "Full"
    words = generation_words(record, is_whole=is_whole)
    if job.spec.writes_merged and record.get("generation"):
        words += " The merged model's folder ships the base model's settings, too."
    return words


def is_readable(uri: str) -> bool:
    """Whether the CLI can read this where it is called: not what lies in a cluster's volume."""
    return is_local(uri) or uri.startswith("s3://")


def _servable_base(uri: str, model_name: str) -> str:
    """Return what a server finds the base model by; where it must be copied first, to where."""
    if is_local(uri):
        return str(local_path(uri))
    return model_name if uri.startswith("hf://") else COPIED_BASE


def describe_data(job: ResolvedJob, report: DatasetReport, *, uri: str) -> DataSection:
    """Return what the page says of the data.

    Args:
        job: The job.
        report: The report of the prepared data set.
        uri: Its folder.
    """
    rows, split = report.rows, report.split
    left_out = report.invalid_rows.total + sum(check.removed for check in report.checks)
    words = (
        f"{rows.train:,} rows to train on, {rows.validation:,} to choose the step by, "
        f"{rows.test:,} held out, divided by seed {split.seed} in {split.groups:,} groups that "
        f"stay on one side. {left_out:,} rows were left out."
    )
    run = PurePosixPath(job.run_prefix) / "evaluation"
    return DataSection(
        words=words,
        sources=[
            [
                ", ".join(file.name for file in source.files[:NUM_SOURCES]) or source.side,
                source.side,
                source.rows,
                source.invalid_rows,
            ]
            for source in report.sources
        ],
        told=data_findings(report),
        page="../" * len(run.parts) + f"datasets/{report.digest}/report.html",
        command=f"finetune data report {uri}" if is_readable(uri) else "",
    )


def feedback_fact(report: DatasetReport | None, *, uri: str) -> dict[str, str]:
    """Return how many rows come from captured answers, and what lists them; nothing for none."""
    checks = report.checks if report is not None else ()
    found = next((check for check in checks if check.name == FEEDBACK_CHECK), None)
    if found is None or not found.flagged:
        return {}
    words = f"{found.flagged:,} from {found.counts['answers']:,} captured answers"
    return {"Rows from feedback": f"{words}, listed in {uri}/{RESPONSES_NAME}"}


def data_findings(report: DatasetReport) -> list[str]:
    """Return what the checks of the data found, in sentences."""
    return [check.message for check in report.checks if check.flagged or check.removed]
