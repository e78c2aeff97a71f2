"""Asks the trainer what the stage ``prepare`` would make of data, and shows it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.dataset import Source
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET, OK
from finetune_cli.files.data import find_skipped, format_words, propose_source
from finetune_cli.files.documents import Document, to_yaml
from finetune_cli.files.starter import DEFAULT_MODEL, MAX_LENGTH, round_length
from finetune_cli.local.job import LocalRun, absolute_uri, cache_root, plan_run
from finetune_cli.local.question import ask_trainer
from finetune_cli.views.display import printable
from finetune_cli.views.progress_line import ProgressLine

BAR_CHARACTERS = 40
NUM_LABELS_SHOWN = 12
NUM_INVALID_SHOWN = 10
NUM_SKIPPED_SHOWN = 5
NUM_FILES_SHOWN = 10
LABEL_WIDTH = 18


def plan_inspection(files: list[str], *, model: str | None) -> LocalRun:
    """Return a job over data files, read as `finetune init` would propose.

    Args:
        files: Local files, and URIs; together they are one data set.
        model: URI or folder of a model.

    Raises:
        CliError: A file is missing, or cannot be trained on.
    """
    sources: list[dict[str, Any]] = []
    objectives = set()
    for file in files:
        if "://" in file:
            sources.append({"uri": _require_uri(absolute_uri(file, Path.cwd()))})
            continue
        source, objective = propose_source(Path(file))
        wire = source.to_wire()
        if not source.columns and not source.template:
            wire.pop("format", None)  # a format that Auto recognises comes with its reason
        sources.append(wire)
        objectives.add(objective)
    if len(objectives) > 1:
        raise CliError(
            f"the files are for {' and '.join(sorted(objectives))}, which one job cannot learn "
            "together; inspect them one by one"
        )
    uri = model or DEFAULT_MODEL
    if "://" not in uri:
        uri = f"file://{Path(uri).absolute()}"
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "inspection"},
        "spec": {
            "model": {"uri": uri},
            "dataset": {"sources": sources},
            "method": {"objective": objectives.pop() if objectives else "SFT"},
            # No row is too long yet: this measures the length.
            "hyperparameters": {"maxSequenceLength": MAX_LENGTH},
            "output": {"uri": "file:///unused"},
        },
    }
    document = Document(source="-", body=body, lines={}, first_line=1)
    return plan_run(document, namespace="default")


def _require_uri(uri: str) -> str:
    try:
        return Source(uri=uri).uri
    except ValidationError as error:
        raise CliError(
            f"{uri}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        ) from error


def inspect_files(files: list[str], *, model: str | None) -> dict[str, Any]:
    """Look at data files without a job; see :func:`plan_inspection` and :func:`inspect_run`."""
    found = inspect_run(plan_inspection(files, model=model), with_model=model is not None)
    found["skipped"] = [f"{file}/{name}" for file in files for name in find_skipped(Path(file))]
    if found["report"] is not None:
        for source, proposed in zip(
            found["report"]["sources"], found["proposal"]["sources"], strict=True
        ):
            if "columns" in proposed or "template" in proposed:
                # The format is a proposal, as `init` would write it.
                source["formatReason"] = "proposed by the names of its columns and what they hold"
    return found


def inspect_run(run: LocalRun, *, with_model: bool) -> dict[str, Any]:
    """Inspect a job's data by the trainer, without changing the job's output.

    Returns:
        The result of ``finetune_trainer.prepare.inspection``.

    Raises:
        CliError: Storage cannot be read, or the trainer failed.
    """
    # The list of refused rows outlasts the command; copies of the data do not.
    output = cache_root() / "inspections" / run.job.uid
    shutil.rmtree(output, ignore_errors=True)
    spec = run.job.spec
    moved = spec.output.model_copy(
        update={"uri": f"file://{output.absolute()}", "credentials_ref": None}
    )
    job = run.job.model_copy(update={"spec": spec.model_copy(update={"output": moved})})
    with (
        tempfile.TemporaryDirectory(prefix="finetune-inspect-") as folder,
        ProgressLine(sys.stderr) as line,
    ):
        if with_model:
            words = f"reading the data with the tokenizer of {spec.model.uri}"
            print(words, file=sys.stderr, flush=True)
        found = ask_trainer(
            replace(run, job=job, work_dir=Path(folder)),
            "inspect",
            *(["--with-model"] if with_model else []),
            doing="looking at the data",
            on_event=line.show,
        )
    return {**found, "proposal": propose_settings(found, job)}


def propose_settings(found: dict[str, Any], job: ResolvedJob) -> dict[str, Any]:
    """Return the settings that fit the data: how it is read, and its length limit."""
    dataset = job.to_wire()["spec"]["dataset"]
    proposal: dict[str, Any] = {"sources": dataset["sources"], "split": dataset.get("split", {})}
    bulk = found.get("bulk")
    for each in found["lengths"]:
        if each["unit"].startswith("tokens"):
            if bulk and bulk["longest"] < each["longest"]:
                limit = round_length(bulk["longest"])
                return {**proposal, "maxSequenceLength": limit, "onTooLong": "Drop"}
            return {**proposal, "maxSequenceLength": round_length(each["longest"])}
    return proposal


def exit_code_of(found: dict[str, Any]) -> int:
    """Return 0 if the stage would take the data, 1 if it would refuse it."""
    return NOT_MET if found["refusals"] else OK


def describe_inspection(found: dict[str, Any]) -> str:
    """Write what was found for a terminal."""
    lines: list[str] = []
    report = found["report"]
    if found.get("skipped"):
        shown = ", ".join(found["skipped"][:NUM_SKIPPED_SHOWN])
        more = len(found["skipped"]) - NUM_SKIPPED_SHOWN
        shown += f" and {more:,} more" if more > 0 else ""
        lines.append(_line("left out", f"{shown}: name such a folder itself to read it"))
    if report is not None:
        lines += [*describe_report(report), *_lengths(found), *_reading(found["proposal"])]
        lines += _labels(report["labels"])
        lines += _samples(found["samples"])
        if report["digest"] == "":
            lines += [
                "",
                "without a model: lengths are estimated, rather too long than too short (by up to "
                "twice), and no row is shown as it would be "
                "trained; give one with --model",
            ]
    if found["refusals"]:
        lines += ["", "would be refused:", *describe_refusals(found)]
    elif report is not None:
        lines += ["", "nothing would be refused"]
    return printable("\n".join(lines))


def describe_refusals(found: dict[str, Any]) -> list[str]:
    """Write what the stage would refuse, one line each."""
    return [printable(f"  {each['reason']}: {each['message']}") for each in found["refusals"]]


def describe_report(report: dict[str, Any]) -> list[str]:
    """Write the sources, the findings and the division of a report, one line each."""
    lines = []
    for source in report["sources"]:
        names = [file["name"] for file in source["files"]]
        more = f" and {len(names) - NUM_FILES_SHOWN:,} more" if names[NUM_FILES_SHOWN:] else ""
        lines.append(_line("source", f"{', '.join(names[:NUM_FILES_SHOWN])}{more}"))
        words = format_words(source["format"] or "unknown", names)
        lines.append(_line("format", f"{words}: {source['formatReason']}"))
        encodings = sorted({f["encoding"] for f in source["files"] if f.get("encoding")})
        if encodings not in ([], ["UTF-8"]):
            lines.append(_line("encoding", ", ".join(encodings)))
        lines.append(_line("rows", f"{source['rows']:,} usable, {source['invalidRows']:,} invalid"))
    for check in report["checks"]:
        files = check.get("files", {})
        counts = [f"{name} {count:,}" for name, count in check.get("counts", {}).items()]
        where = [f"{name} ({count:,} rows)" for name, count in files.items() if len(files) > 1]
        words = check["message"]
        if any(count not in words for count in counts):
            words = ": ".join(filter(None, (words, ", ".join(counts))))
        words += f"; in {', '.join(where)}" if where else ""
        if words:
            lines.append(_line(check["name"], words))
        lines += [
            f"  {side['rows']:,} {side['side']} rows: "
            + ", ".join(f"{k} {n:,}" for k, n in side["kinds"].items())
            for side in check.get("sides", [])
            if side["rows"]
        ]
    lines += _invalid(report["invalidRows"])
    rows, split = report["rows"], report["split"]
    lines.append(
        _line(
            "split",
            f"{rows['train']:,} train, {rows['validation']:,} validation, {rows['test']:,} test "
            f"rows ({split['groups']:,} groups stay together)",
        )
    )
    return lines


def describe_stored(report: dict[str, Any]) -> str:
    """Write the report of a prepared data set for a terminal."""
    lines = [_line("data set", report["digest"]), *describe_report(report)]
    for tokenizer, sides in report["tokens"].items():
        lines.append(_line("tokens", f"counted with {tokenizer}"))
        for side, tokens in sides.items():
            lines.append(
                _line(
                    f"  {side}",
                    f"{tokens['tokens']:,} in {tokens['rows']:,} rows; median {tokens['p50']:,}, "
                    f"95 % up to {tokens['p95']:,}, longest {tokens['longest']:,}; "
                    f"{tokens['truncatedRows']:,} cut",
                )
            )
            if side == "train":
                lines += _histogram(tokens.get("histogram", []))
    lines += _labels(report.get("labels", []))
    return printable("\n".join(lines))


def _invalid(invalid: dict[str, Any]) -> list[str]:
    if not invalid["total"]:
        return []
    totals = ", ".join(f"{reason} {count:,}" for reason, count in invalid["byReason"].items())
    lines = [_line("invalid rows", f"{invalid['total']:,} ({totals})")]
    shown = invalid["first"][:NUM_INVALID_SHOWN]
    lines += [f"  {row['file']}:{row['line']}: {row['message']}" for row in shown]
    if invalid["total"] > len(shown):
        lines.append(f"  ... and {invalid['total'] - len(shown):,} more")
    return lines


def _lengths(found: dict[str, Any]) -> list[str]:
    lines = []
    for each in found["lengths"]:
        lines.append(
            _line(
                each["unit"],
                f"median {each['p50']:,}, 95 % up to {each['p95']:,}, longest {each['longest']:,} "
                "(train rows)",
            )
        )
        if each["unit"].startswith("tokens"):
            lines += _histogram(each["histogram"])
    proposed = found["proposal"].get("maxSequenceLength")
    if proposed is not None:
        lines.append(_line("proposed", f"maxSequenceLength: {proposed}"))
    if "onTooLong" in found["proposal"]:
        lines += _outliers(found["bulk"])
    return lines


def _outliers(bulk: dict[str, Any]) -> list[str]:
    """Write which rows a limit for all others would leave out."""
    number = bulk["outliers"]
    words = "1 row is" if number == 1 else f"{number:,} rows are"
    lines = [
        _line("", f"dataset.onTooLong: Drop; {words} far longer than all others and would go:")
    ]
    lines += [
        f"  {row['file']}:{row['line']}: about {row['tokens']:,} tokens" for row in bulk["first"]
    ]
    if number > len(bulk["first"]):
        lines.append(f"  ... and {number - len(bulk['first']):,} more")
    return lines


def _reading(proposal: dict[str, Any]) -> list[str]:
    """Write how tables are read, as a job says it."""
    names = ("format", "columns", "template", "header", "sheet")
    lines = []
    for source in proposal["sources"]:
        settings = {n: source[n] for n in names if source.get(n) not in (None, "Auto")}
        if "columns" in settings or "template" in settings:
            text = to_yaml(settings, default_flow_style=True, width=10_000)
            lines.append(_line("read as", text.strip()))
    return lines


def _histogram(bins: list[dict[str, int]]) -> list[str]:
    if not bins:
        return []
    highest = max(each["rows"] for each in bins)
    width = len(f"{bins[-1]['atLeast']:,}")
    return [
        f"  {each['atLeast']:>{width},}+  "
        f"{'#' * -(-BAR_CHARACTERS * each['rows'] // highest)} {each['rows']:,}"
        for each in bins
    ]


def _labels(labels: list[dict[str, Any]]) -> list[str]:
    if not labels:
        return []
    counts = [(each["label"], each["train"] + each["validation"] + each["test"]) for each in labels]
    total = sum(count for _, count in counts)
    lines = [_line("labels", f"{len(counts)}, most frequent first")]
    shown = counts if len(counts) <= NUM_LABELS_SHOWN else counts[: NUM_LABELS_SHOWN - 2]
    lines += [f"  {label}: {count:,} ({100 * count / total:.1f} %)" for label, count in shown]
    if len(shown) < len(counts):
        label, count = counts[-1]
        lines.append(f"  ... to {label}: {count:,} ({100 * count / total:.1f} %)")
    return lines


def _samples(samples: list[dict[str, Any]]) -> list[str]:
    lines = []
    for sample in samples:
        text = "".join(
            f"[[{piece['text']}]]" if piece["learned"] else piece["text"]
            for piece in sample["pieces"]
        )
        lines += [
            "",
            f"{sample['what']}, {sample['tokens']:,} tokens; [[ ]] marks what is learned:",
            *(f"  | {line}" for line in text.splitlines()),
        ]
    return lines


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}} {text}"
