"""The one interface to object storage.

A store is rooted at a URI; keys are relative POSIX paths. An object is there whole or not at all,
and ``if_absent`` writes have exactly one winner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from finetune_trainer.errors import UserError

_MAX_KEY_BYTES = 1024  # S3's limit


OnBytes = Callable[[int], None]
"""Called with a number of bytes once the store has them, from several threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """One object of a listing.

    Attributes:
        version: An opaque tag of its content, or empty.
        written: When it was written, by the clock of the storage; None if that is not told.
    """

    key: str
    num_bytes: int
    version: str = ""
    written: datetime | None = None


class ObjectStore(Protocol):
    """Objects below one URI; safe from several threads.

    Every method raises only ``StorageError`` or ``UserError``.
    """

    uri: str

    def read_bytes(self, key: str) -> bytes:
        """Return the whole object. Raises ``ObjectNotFound``."""

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """Yield the object in order, surviving cut connections. Raises ``ObjectNotFound``."""

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write the whole object at once.

        With ``if_absent`` one of several writers succeeds; all others raise ``AlreadyExists``.
        """

    def upload_file(
        self, path: Path, key: str, *, if_absent: bool = False, on_bytes: OnBytes | None = None
    ) -> None:
        """Write a local file as an object; a repeated call may send only what is missing."""

    def download_file(self, key: str, path: Path) -> None:
        """Write an object to a local file; resumes from ``<path>.partial``."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in the server's order."""

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""


def check_key(key: str) -> str:
    """Return a valid key, so that no key leads out of the store or a target folder.

    Raises:
        UserError: ``InvalidKey``: empty, absolute, with empty, ``.`` or ``..`` components,
            backslashes or control characters, or longer than 1024 bytes.
    """
    parts = key.split("/")
    if (
        any(part in ("", ".", "..") for part in parts)
        or "\\" in key
        or any(ord(character) < 32 or ord(character) == 127 for character in key)
        or len(key.encode("utf-8", "surrogatepass")) > _MAX_KEY_BYTES
    ):
        raise UserError(
            "InvalidKey",
            f"{key!r} is not a storage key: it must be a relative path of at most "
            f"{_MAX_KEY_BYTES} bytes, without '..', empty components, backslashes or control "
            "characters.",
        )
    return key


def join_key(*parts: str) -> str:
    """Join non-empty parts to a checked key: ``join_key("", "a/", "b") == "a/b"``."""
    return check_key("/".join(part.strip("/") for part in parts if part.strip("/")))


def join_uri(uri: str, key: str) -> str:
    """Write the full address of a key, for messages and status."""
    return f"{uri.rstrip('/')}/{key}" if key else uri


def is_local(uri: str) -> bool:
    """Whether the URI names a folder of this machine."""
    scheme, separator, _ = uri.partition("://")
    return not separator or scheme.lower() == "file"


def local_path(uri: str) -> Path:
    """Return the absolute path of a ``file://`` URI or a plain path.

    Raises:
        UserError: ``InvalidUri``.
    """
    if "://" not in uri:
        if not uri.strip():
            raise UserError("InvalidUri", "The storage URI is empty; give a folder or a URI.")
        return Path(uri).expanduser().absolute()
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise UserError(
            "InvalidUri",
            f"{uri!r} must be file:///absolute/path with three slashes "
            f"(got the host {parts.netloc!r}).",
        )
    return Path(unquote(parts.path))
