"""Files of kept answers below a run: what was asked and paid for is not asked twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from finetune_trainer.storage import ObjectStore

Header = Callable[[bytes], bytes]
"""Returns the first line of a file for the bytes that follow, which it covers."""


class DamagedAnswersError(Exception):
    """The stored bytes are not those that were written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerStore:
    """Where the answers of one run are stored.

    Attributes:
        store: The run's storage, to read from; it may wait and retry.
        direct: The same without waiting, to write to.
        prefix: Key prefix of the run.
    """

    store: ObjectStore
    direct: ObjectStore
    prefix: str

    def key_of(self, name: str) -> str:
        """Return the key of a file."""
        return f"{prefix_of(self.prefix)}/{name}"

    def read(self, name: str, header: Header) -> bytes | None:
        """Return the content of a file; None if there is no such file.

        Raises:
            DamagedAnswersError: Its first line is not that of the rest.
            StorageError: The store failed.
        """
        key = self.key_of(name)
        if not self.store.exists(key):
            return None
        first, _, body = self.store.read_bytes(key).partition(b"\n")
        if first != header(body):
            raise DamagedAnswersError
        return body

    def write(self, name: str, body: bytes, header: Header) -> None:
        """Write a file in place of the earlier one.

        Raises:
            StorageError: The store failed.
        """
        self.direct.write_bytes(self.key_of(name), header(body) + b"\n" + body)


def prefix_of(run_prefix: str) -> str:
    """Return the key prefix of a run's kept answers."""
    return f"{run_prefix}/answers"


def drop_answers(store: ObjectStore, run_prefix: str) -> None:
    """Remove all stored answers of a run, once its evaluation is published.

    Raises:
        StorageError: The store failed.
    """
    for item in list(store.list(f"{prefix_of(run_prefix)}/")):
        store.delete(item.key)
