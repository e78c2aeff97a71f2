"""Checks files of FineTuneJobs, one after the other: what is wrong with one hides no other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_cli.documents import find_problems, parse_documents, read_text
from finetune_cli.errors import CliError


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What is to be said of one object, or of a file that cannot be read.

    Attributes:
        lines: For people.
        is_valid: It is a good job.
        is_readable: It could be judged at all.
    """

    lines: tuple[str, ...]
    is_valid: bool
    is_readable: bool = True


def judge_file(source: str) -> Iterator[Verdict]:
    """Judge every object of a file, in their order, up to where it can be read.

    Args:
        source: Name of the file, ``-`` for standard input.
    """
    is_empty = True
    try:
        for document in parse_documents(read_text(source), source):
            is_empty = False
            problems = find_problems(document)
            name = "" if problems else document.body["metadata"]["name"]
            lines = problems or [f"{source}: {name} is valid"]
            yield Verdict(lines=tuple(lines), is_valid=not problems)
        if is_empty:
            raise CliError(f"{source} is empty: there is no FineTuneJob in it")
    except CliError as error:
        yield Verdict(lines=(error.message,), is_valid=False, is_readable=False)
