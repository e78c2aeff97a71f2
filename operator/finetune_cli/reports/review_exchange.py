"""Verdicts as rows to learn from, and reviews to and from Argilla."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from finetune_cli.errors import CliError
from finetune_cli.reports.reviews import Source, open_review, read_blind, read_files, verdicts_name


def write_preferences(source: Source, files: Sequence[Path], out: Path, criterion: str) -> str:
    """Write the reviewers' preferences as JSON Lines, and return notes for the user.

    Raises:
        CliError: A file cannot be used, or there is no such criterion.
    """
    opened = open_review(source)
    from finetune_trainer.evaluate.sources.review.panel import OVERALL
    from finetune_trainer.evaluate.sources.review.preferences import prefer

    rubric = opened.blind.rubric
    if criterion not in (OVERALL, *rubric):
        raise CliError(f"--criterion {criterion}: choose {OVERALL}, {', '.join(rubric)}")
    found = prefer(read_files(opened, files), opened.key, rubric=rubric, criterion=criterion)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in found.rows]
    out.write_text("".join(lines), encoding="utf-8")
    return (
        f"wrote {len(lines)} pairs to {out}; left out: {found.num_ties} ties, {found.num_empty} "
        "with an empty answer\nThese prompts were held out: a model that learns from them is to be "
        "judged on others, so give it another test side"
    )


def write_tasks(source: Source, out: Path) -> str:
    """Write the questions for Argilla, as blind as the page, and say what to do."""
    blind = read_blind(source)
    from finetune_trainer.evaluate.sources.review.exchange import to_argilla

    tasks = to_argilla(blind)
    out.write_text(json.dumps(tasks, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return f"wrote {len(tasks)} questions to {out}"


def read_tool(source: Source, file: Path, folder: Path) -> list[Path]:
    """Write a file of verdicts for each person in an export, and return the files.

    Raises:
        CliError: The export cannot be read, or is not of this review.
    """
    blind = read_blind(source)
    from finetune_trainer.evaluate.sources.review.exchange import read_argilla
    from finetune_trainer.evaluate.sources.review.verdicts import ReviewFileError, read_verdicts

    try:
        body = json.loads(file.read_bytes().decode("utf-8-sig"))
        people = read_argilla(body, name=str(file), review=blind.digest)
        names = [item.id for item in blind.items]
        for person in people:  # any value that the tool offered
            read_verdicts(
                person.to_json().encode(), name=f"{file}, {person.reviewer}",
                review=blind.digest, items=names, rubric=blind.rubric,
            )  # fmt: skip
    except OSError as error:
        raise CliError(f"cannot read {file}: {error.strerror}") from error
    except ReviewFileError as error:
        raise CliError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise CliError(f"{file} is no JSON: {error}") from error
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for person in people:
        path = folder / verdicts_name(person.reviewer, blind.digest)
        path.write_text(person.to_json(), encoding="utf-8")
        paths.append(path)
    return paths
