"""API keys: digests in files of mounted Secrets, one folder for each Secret.

A file holds lines ``sha256:<hex>``; each opens the endpoints that name the Secret. The file's name
is the name of its keys. The files are read again when they change. A Secret that is not there opens
nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from finetune_trainer.serve.errors import Refused

logger = logging.getLogger(__name__)

MAX_FILES = 1000
MAX_FILE_BYTES = 64 * 1024
_LINE = re.compile(r"sha256:([0-9a-f]{64})\Z")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_PREFIX = 8

Digests = Mapping[str, tuple[tuple[str, str], ...]]
"""Digests, each with the name of its file, by their first characters."""
OnRead = Callable[[str, int | None], None]
"""Takes a Secret, and how many of its files hold keys that are not read; None once it is gone."""


class Keys:
    """The keys of a namespace's endpoints.

    Args:
        folder: Holds a folder for each Secret.
        on_read: Is called for each Secret that has changed.
    """

    def __init__(self, folder: Path, on_read: OnRead = lambda *_: None) -> None:
        self._folder = folder
        self._on_read = on_read
        self._lock = threading.Lock()
        self._stamps: dict[str, object] = {}
        self._secrets: dict[str, Digests] = {}
        self._owners: Digests = {}

    def name_of(self, secret: str, digest: str) -> str | None:
        """Return the name of the key with this digest in a Secret; None if it is not there."""
        found = None
        for each, name in self._secrets.get(secret, {}).get(digest[:_PREFIX], ()):
            if hmac.compare_digest(each, digest):
                found = name if found is None else found
        return found

    def opens(self, secret: str, digest: str | None) -> bool:
        """Tell whether a key with this digest is in a Secret."""
        return digest is not None and self.name_of(secret, digest) is not None

    def owner_of(self, digest: str | None) -> str:
        """Return Secret and entry of a key, which stand for all keys of the entry; else nothing."""
        digest = digest or ""
        known = self._owners.get(digest[:_PREFIX], ())
        return min((name for each, name in known if hmac.compare_digest(each, digest)), default="")

    def count_of(self, secret: str) -> int:
        """Return the number of entries with keys in a Secret."""
        found = self._secrets.get(secret, {}).values()
        return len({name for keys in found for _, name in keys})

    def may_open(self, digest: str | None) -> bool:
        """Tell whether a key may open anything: a quick look, and no proof."""
        return digest is not None and digest[:_PREFIX] in self._owners

    def has_read(self, secrets: Iterable[str]) -> bool:
        """Tell whether all of these Secrets have been read once."""
        return _valid(secrets) <= self._stamps.keys()

    def refresh(self, secrets: Callable[[], Iterable[str]]) -> None:
        """Read what has changed of the Secrets that are wanted now, and forget all others."""
        with self._lock:
            self._refresh(_valid(secrets()))

    def _refresh(self, wanted: Iterable[str]) -> None:
        stamps = {secret: _stamp_of(self._folder / secret) for secret in wanted}
        if stamps == self._stamps:
            return
        # Replaced as a whole: the event loop reads while another thread is here.
        self._secrets = {
            secret: self._secrets[secret]
            if self._stamps.get(secret) == stamp and secret in self._secrets
            else self._read(secret)
            for secret, stamp in stamps.items()
        }
        for gone in self._stamps.keys() - stamps.keys():
            self._on_read(gone, None)
        owners: dict[str, tuple[tuple[str, str], ...]] = {}
        for secret, digests in self._secrets.items():
            for prefix, keys in digests.items():
                mine = tuple((digest, f"{secret}/{name}") for digest, name in keys)
                owners[prefix] = owners.get(prefix, ()) + mine
        self._owners = owners
        self._stamps = stamps

    def _read(self, secret: str) -> Digests:
        digests: dict[str, tuple[tuple[str, str], ...]] = {}
        files, num_cut = _files_of(self._folder / secret), 0
        for file in files[:MAX_FILES]:
            try:
                with file.open(encoding="utf-8") as lines:
                    text = lines.read(MAX_FILE_BYTES)
                    num_cut += bool(lines.read(1))
            except (OSError, ValueError) as error:
                logger.warning("keys in %s cannot be read: %s", file, type(error).__name__)
                continue
            for line in text.split():
                found = _LINE.match(line)
                if found is None:
                    logger.warning("a line of %s is no key: write sha256:<64 hex digits>", file)
                    continue
                digest = found.group(1)
                prefix = digest[:_PREFIX]
                digests[prefix] = (*digests.get(prefix, ()), (digest, file.name))
        if num_unread := max(0, len(files) - MAX_FILES) + num_cut:
            logger.warning(
                "%d files of keys in Secret %s are not read, or not to their end: a Secret may have"
                " %d files of %d characters; use another Secret",
                num_unread, secret, MAX_FILES, MAX_FILE_BYTES,
            )  # fmt: skip
        self._on_read(secret, num_unread)
        return digests


def digest_of(header: str) -> str | None:
    """Return the digest of the key in an ``Authorization`` header; None if there is no key."""
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        return None
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def no_key() -> Refused:
    """Return the refusal of a request without a valid key."""
    message = "Send a valid API key: `Authorization: Bearer KEY`."
    return Refused(401, "invalid_api_key", message)


def _valid(secrets: Iterable[str]) -> set[str]:
    return {secret for secret in secrets if _NAME.match(secret)}


def _files_of(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names]


def _stamp_of(folder: Path) -> object:
    files = _files_of(folder)
    stamps: list[object] = [len(files)]
    for file in files[:MAX_FILES]:
        try:
            stat = file.stat()
        except OSError:
            continue
        stamps.append((file.name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return stamps
