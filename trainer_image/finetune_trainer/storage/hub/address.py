"""``hf://`` URIs: repository, revision and folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from finetune_trainer.errors import UserError
from finetune_trainer.storage.store import check_key

RepoType = Literal["model", "dataset"]

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]{0,254}", re.ASCII)
# References with slashes that the Hub itself makes; other slashes are written %2F.
_SPECIAL_REVISION = re.compile(r"refs/(pr|convert)/[^/]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class HubAddress:
    """The parts of an ``hf://`` URI.

    ``revision`` is None and ``folder`` empty when the URI names none.
    """

    repo_type: RepoType
    repo_id: str
    revision: str | None
    folder: str = ""

    @property
    def uri(self) -> str:
        """The URI without the revision."""
        kind = "datasets/" if self.repo_type == "dataset" else ""
        return f"hf://{kind}{self.repo_id}" + (f"/{self.folder}" if self.folder else "")


def parse_hub_uri(uri: str) -> HubAddress:
    """Parse ``hf://[datasets/]org/name[@revision][/folder]``.

    Raises:
        UserError: ``InvalidUri``.
    """
    rest = uri.partition("://")[2].strip("/")
    repo_type: RepoType = "model"
    if rest.startswith("datasets/"):
        repo_type, rest = "dataset", rest.removeprefix("datasets/")
    rest = rest.removeprefix("models/")
    head, at, tail = rest.partition("@")
    if at:
        special = _SPECIAL_REVISION.match(tail)
        revision = special.group() if special else tail.partition("/")[0]
        repo_id, folder = head, tail[len(revision) :].strip("/")
        revision = unquote(revision)
    else:
        parts = head.split("/")
        repo_id, folder, revision = "/".join(parts[:2]), "/".join(parts[2:]), ""
    if (
        not _REPO_ID.fullmatch(repo_id)
        or (at and not _REVISION.fullmatch(revision))
        or ".." in repo_id + revision
    ):
        raise UserError(
            "InvalidUri",
            f"{uri!r} must be hf://org/name, hf://org/name@revision or "
            "hf://datasets/org/name@revision; slashes in a revision are written %2F.",
        )
    folder = unquote(folder)
    return HubAddress(
        repo_type=repo_type,
        repo_id=repo_id,
        revision=revision or None,
        folder=check_key(folder) if folder else "",
    )


def is_commit(revision: str) -> bool:
    """Whether a revision is a full commit id, which never changes."""
    return bool(_COMMIT.fullmatch(revision))
