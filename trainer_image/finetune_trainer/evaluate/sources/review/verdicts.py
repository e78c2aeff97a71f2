"""Files in which reviewers say what they chose. Pure.

They come from the page, from the terminal, or by way of a labelling tool; whoever reads one trusts
nothing in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KIND = "ReviewVerdicts"
CHOICES = ("left", "same", "right")
MAX_FILE_BYTES = 16 * 2**20
MAX_NAME_CHARACTERS = 64
MAX_COMMENT_CHARACTERS = 4000
"""Items or criteria that a message names."""


class ReviewFileError(ValueError):
    """A file of verdicts cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one reviewer said of one item.

    Attributes:
        choices: Of each criterion that was judged ``left``, ``same`` or ``right``.
        comment: In words; may be empty.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewFile:
    """One reviewer's file.

    Attributes:
        review: Digest of the review that was judged.
        reviewer: Who judged.
        items: Verdicts by item.
    """

    review: str
    reviewer: str
    items: Mapping[str, Verdict]

    def count_missing(self, names: Sequence[str], rubric: Sequence[str]) -> int:
        """Return how many items lack a choice for any criterion."""
        empty = Verdict()
        return sum(
            any(criterion not in self.items.get(name, empty).choices for criterion in rubric)
            for name in names
        )

    def to_json(self) -> str:
        """Return the file."""
        verdicts = {
            name: {
                "choices": dict(verdict.choices),
                **({"comment": verdict.comment} if verdict.comment else {}),
            }
            for name, verdict in self.items.items()
        }
        body = {
            "kind": KIND,
            "review": self.review,
            "reviewer": self.reviewer,
            "verdicts": verdicts,
        }
        return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def read_verdicts(
    data: bytes, *, name: str, review: str, items: Collection[str], rubric: Sequence[str]
) -> ReviewFile:
    """Read one reviewer's file, which need not be complete.

    Args:
        data: Its content.
        name: Its name, for messages.
        review: Digest of the review that it must be of.
        items: Names of the items there are.
        rubric: The criteria there are.

    Raises:
        ReviewFileError: It is damaged, of another review, or says what nobody can choose.
    """
    body = _parse(data, name)
    if body.get("kind") != KIND:
        raise ReviewFileError(
            f"{name} is no file of verdicts (kind {KIND}); give what the page has saved, "
            "and bring files of Argilla in with `finetune review import`"
        )
    if body.get("review") != review:
        raise ReviewFileError(
            f"{name} is about another review ({_short(body.get('review'))}, this one is "
            f"{_short(review)}): its reviewer must judge the answers of this run"
        )
    reviewer = check_reviewer(body.get("reviewer"), name)
    verdicts = body.get("verdicts")
    if not isinstance(verdicts, dict):
        raise ReviewFileError(f"{name} has no verdicts; save it again from the page")
    known = set(items)
    strange = [item for item in verdicts if item not in known]
    if strange:
        raise ReviewFileError(
            f"{name} judges {len(strange)} item(s) that this review does not have, such as "
            f"{_short(strange[0])}: the file was changed by hand; save it again from the page"
        )
    read = {item: _read_verdict(each, f"{name}: item {item}", rubric)
            for item, each in verdicts.items()}  # fmt: skip
    return ReviewFile(review=review, reviewer=reviewer, items=read)


def check_reviewer(reviewer: object, name: str) -> str:
    """Return a reviewer's name.

    Args:
        reviewer: As given.
        name: Where it stands, for the message.

    Raises:
        ReviewFileError: It is none.
    """
    text = " ".join(reviewer.split()) if isinstance(reviewer, str) else ""
    if not text or len(text) > MAX_NAME_CHARACTERS or not text.isprintable():
        raise ReviewFileError(
            f"{name} does not say who judged: the reviewer's name must have 1 to "
            f"{MAX_NAME_CHARACTERS} printable characters"
        )
    return text


def require_panel(
    files: Mapping[str, ReviewFile], *, items: Sequence[str], rubric: Sequence[str], reviewers: int
) -> None:
    """Refuse what is no whole panel.

    Args:
        files: Verdicts by the name of their file.
        items: Names of all items.
        rubric: All criteria.
        reviewers: How many different people must have judged everything.

    Raises:
        ReviewFileError: Names every file that is incomplete or by the same person, and the
            number that is missing.
    """
    problems = []
    owners: dict[str, str] = {}
    for name, file in files.items():
        person = file.reviewer.casefold()
        if person in owners:
            problems.append(
                f"{owners[person]} and {name} are both by {file.reviewer}: give one file of each "
                "reviewer, the later one"
            )
        owners.setdefault(person, name)
        missing = file.count_missing(items, rubric)
        if missing:
            problems.append(
                f"{name}: {file.reviewer} has not judged {missing} of {len(items)} items by "
                f"{', '.join(rubric)}; load the file into the page and go on"
            )
    if len(owners) < reviewers:
        problems.append(
            f"{len(owners)} reviewer(s) of the {reviewers} that evaluation.review.reviewers asks "
            "for; give the files of all in one command"
        )
    if problems:
        raise ReviewFileError("\n".join(problems))


def _parse(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > MAX_FILE_BYTES:
        raise ReviewFileError(f"{name} has {len(data):,} bytes, more than any file of verdicts")
    try:
        # Editors on Windows put a byte order mark in front.
        body = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ReviewFileError(
            f"{name} is damaged, it is no JSON ({error}); save it again from the page"
        ) from error
    if not isinstance(body, dict):
        raise ReviewFileError(f"{name} is no file of verdicts; give what the page has saved")
    return body


def _read_verdict(value: object, where: str, rubric: Sequence[str]) -> Verdict:
    choices = value.get("choices", {}) if isinstance(value, dict) else None
    comment = value.get("comment", "") if isinstance(value, dict) else None
    if not isinstance(choices, dict) or not isinstance(comment, str):
        raise ReviewFileError(f"{where} is damaged; save the file again from the page")
    for criterion, choice in choices.items():
        if criterion not in rubric:
            raise ReviewFileError(
                f"{where} is judged by {_short(criterion)}; this review asks for "
                f"{', '.join(rubric)}"
            )
        if choice not in CHOICES:
            raise ReviewFileError(
                f"{where}: {criterion} is {_short(choice)}, it must be left, same or right"
            )
    return Verdict(choices=choices, comment=comment[:MAX_COMMENT_CHARACTERS])


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 24 else f"{text[:12]}..."
