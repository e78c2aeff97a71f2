"""Checks files of all our kinds, one after the other: what is wrong with one hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_api.messages.messages import Problem, path_of
from finetune_api.meta import SWEEP_KIND
from finetune_cli.errors import CliError
from finetune_cli.extras import POWER_MODULES, has_modules
from finetune_cli.files.documents import (
    Document,
    find_problems,
    kind_of,
    parse_document,
    parse_documents,
    read_text,
)
from finetune_cli.files.kinds import PARSERS, find_problems_of_kind
from finetune_cli.files.sweep import find_sweep_problems

OTHER_KINDS: dict[str | None, Callable[[Document], list[Problem]]] = {
    SWEEP_KIND: find_sweep_problems,
    **dict.fromkeys(PARSERS, find_problems_of_kind),
}
"""What judges the kinds beside FineTuneJob."""


DATA_NOT_READ = (
    "the data was not read: add --data to judge it as the stage prepare would, and --with-model to "
    "check lengths in tokens and the chat template as well"
)
MODEL_NOT_READ = (
    "no model was read, so lengths in tokens and the chat template were not checked: add "
    "--with-model, which fetches the tokenizer"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on one object, or on a file that cannot be read.

    Attributes:
        is_readable: Whether it could be judged.
        unread: Unchecked parts, and how to check them; empty without any.
    """

    lines: tuple[str, ...]
    is_valid: bool
    is_readable: bool = True
    unread: str = ""


def judge_file(
    source: str, *, with_data: bool = False, with_model: bool = False
) -> Iterator[Verdict]:
    """Judge every object of a file, in order, up to the first unreadable one.

    Args:
        source: Name of the file, ``-`` for standard input.
        with_data: Also read the data of valid jobs, and judge it as the stage prepare would.
        with_model: Fetch their models' tokenizers for that. Those of local folders are always read.
    """
    is_empty = True
    try:
        for document in parse_documents(read_text(source), source):
            is_empty = False
            judge = OTHER_KINDS.get(kind_of(document.body))
            problems = find_problems(document) if judge is None else _placed(document, judge)
            name = "" if problems else document.body["metadata"]["name"]
            lines = list(problems)
            if not problems:
                notes = [*_bare_notes(document), *_foresee_power(document, judge)]
                lines = [f"{source}: {name} is valid", *notes]
            if with_data and not problems and judge is None:
                yield _judge_data(document, f"{source}: {name}", with_model=with_model)
            else:
                is_job = judge is None and not problems
                unread = DATA_NOT_READ if is_job else ""
                yield Verdict(lines=tuple(lines), is_valid=not problems, unread=unread)
        if is_empty:
            raise CliError(f"{source} is empty: there is no FineTuneJob in it")
    except CliError as error:
        yield Verdict(lines=(error.message,), is_valid=False, is_readable=False)


def _placed(document: Document, judge: Callable[[Document], list[Problem]]) -> list[str]:
    """Return everything wrong with an object, each with its line, in the order of the text."""
    found = judge(document)
    if document.body.get("apiVersion") is None:
        found = [Problem(location=("apiVersion",), message="Required value"), *found]
    lined = [(document.line_of(each.location) or document.first_line, each) for each in found]
    return [
        f"{document.source}:{line}: {problem}"
        for line, problem in sorted(lined, key=lambda each: each[0])
    ]


def _bare_notes(document: Document) -> list[str]:
    """Name the decimals without quotes, which kubectl refuses."""
    return [
        f"{document.source}:{document.line_of(place)}: note: {path_of(place)} is not in quotes: "
        "finetune takes it and submits it as text, kubectl apply needs quotes"
        for place in document.bare_decimals
    ]


def _foresee_power(document: Document, judge: object) -> list[str]:
    """Describe how often a good model meets a job's goal, as far as known without its data."""
    if judge is not None:
        return []
    spec = parse_document(document).spec
    if spec.goal is None or not has_modules(POWER_MODULES):
        return []  # counting loads numpy, which is slow
    from finetune_trainer.verdict.certainty import at_first_look
    from finetune_trainer.verdict.power import describe_power_without_data

    words = describe_power_without_data(at_first_look(spec))
    return [f"  {words}"] if words else []


def _judge_data(document: Document, name: str, *, with_model: bool) -> Verdict:
    """Judge the data of a valid job; unreadable data is a verdict too."""
    from finetune_cli.extras import DATA_MODULES, require_trainer
    from finetune_cli.local.inspection import describe_refusals, inspect_run
    from finetune_cli.local.job import plan_run

    require_trainer(DATA_MODULES, to="reading the data")
    run = plan_run(document, namespace="default")
    with_model |= Path(run.job.spec.model.uri.removeprefix("file://")).is_dir()
    found = inspect_run(run, with_model=with_model)
    unread = "" if with_model else MODEL_NOT_READ
    if found["refusals"]:
        lines = [f"{name} is valid, but its data would be refused:", *describe_refusals(found)]
        return Verdict(lines=tuple(lines), is_valid=False, unread=unread)
    rows = found["report"]["rows"]
    counts = ", ".join(f"{rows[side]:,} {side}" for side in ("train", "validation", "test"))
    lines = [f"{name} is valid, and so is its data: {counts} rows"]
    if found["questions"]:
        lines.append(f"  {found['questions']['message']}")
    if found["power"]:
        lines.append(f"  {found['power']}")
    return Verdict(lines=tuple(lines), is_valid=True, unread=unread)
