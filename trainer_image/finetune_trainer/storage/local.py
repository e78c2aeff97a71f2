"""A folder as an object store.

Writes go to a hidden temporary file, are flushed to disk, and are then renamed: readers never see
half an object. ``if_absent`` uses a hard link, which fails when the name is taken. Links that leave
the root are refused: they could publish a mounted Secret.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage.errors import AlreadyExists, ObjectNotFound, local_writes
from finetune_trainer.storage.store import ObjectInfo, OnBytes, check_key
from finetune_trainer.storage.stream import CHUNK_BYTES, partial_path

_TEMPORARY_SUFFIX = ".uploading"

# Some network and FUSE file systems have no hard links.
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class FileStore:
    """Objects are the files below one folder, which is created by the first write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = root.as_uri()

    def read_bytes(self, key: str) -> bytes:
        """Return the whole object."""
        with self._open(key) as file, self._reading(key):
            return file.read()

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """Yield the object in order."""
        with self._open(key) as file, self._reading(key):
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write the whole object at once."""

        def fill(file: BinaryIO) -> None:
            file.write(data)

        self._put(key, fill, num_bytes=len(data), if_absent=if_absent)

    def upload_file(
        self, path: Path, key: str, *, if_absent: bool = False, on_bytes: OnBytes | None = None
    ) -> None:
        """Copy a local file into the store."""
        num_bytes = path.stat().st_size

        def fill(file: BinaryIO) -> None:
            with path.open("rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))

        self._put(key, fill, num_bytes=num_bytes, if_absent=if_absent)

    def download_file(self, key: str, path: Path) -> None:
        """Copy an object to a local file; a local copy is fast enough to start over."""
        with self._open(key) as source:
            num_bytes = os.fstat(source.fileno()).st_size
            with local_writes(path, num_bytes):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = partial_path(path)
                with partial.open("wb") as target:
                    shutil.copyfileobj(source, target, CHUNK_BYTES)
                    target.flush()
                    os.fsync(target.fileno())
                partial.replace(path)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in key order."""
        folder = prefix.rpartition("/")[0]
        top = self.root / check_key(folder) if folder else self.root
        keys = sorted(
            key
            for path in _walk_files(top)
            if (key := path.relative_to(self.root).as_posix()).startswith(prefix)
        )
        for key in keys:
            try:
                status = (self.root / key).stat()
            except FileNotFoundError:
                continue  # removed since it was listed
            yield ObjectInfo(
                key=key,
                num_bytes=status.st_size,
                version=f"{status.st_mtime_ns}-{status.st_size}",
                written=datetime.fromtimestamp(status.st_mtime, UTC),
            )

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        return self._path(key).is_file()

    def delete(self, key: str) -> None:
        """Remove the object, the folders it leaves empty, and what killed processes left of it."""
        path = self._path(key)
        self._refuse_escape(path.parent)
        with local_writes(path):
            path.unlink(missing_ok=True)
            for unfinished in _unfinished_writes(path):
                unfinished.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.root or not folder.is_relative_to(self.root):
                return
            if not _remove_empty_folder(folder):
                return

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _refuse_escape(self, path: Path) -> None:
        """Raise ``LinkLeavesStore`` for a path that a link leads out of the root."""
        target = path.resolve()
        if not target.is_relative_to(self.root.resolve()):
            raise UserError(
                "LinkLeavesStore",
                f"{path} leads to {target}, outside of {self.root}: links are followed inside the "
                "folder only. Name the target itself in the job, or copy it here.",
            )

    def _open(self, key: str) -> BinaryIO:
        path = self._path(key)
        self._refuse_escape(path)
        try:
            return path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ObjectNotFound(f"There is no file {path}.") from error
        except OSError as error:
            raise _unreadable(path, error) from error

    def _reading(self, key: str) -> _Reading:
        return _Reading(self._path(key))

    def _put(
        self, key: str, fill: Callable[[BinaryIO], None], *, num_bytes: int, if_absent: bool
    ) -> None:
        path = self._path(key)
        self._refuse_escape(path.parent)
        if if_absent and path.exists():
            raise AlreadyExists(f"{path} exists already; it was left as it is.")
        with local_writes(path, num_bytes):
            temporary, file = _create_beside(path)
            try:
                with file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                if if_absent:
                    _link_new(temporary, path)
                else:
                    temporary.replace(path)
                _sync_folder(path.parent)
            except FileExistsError as error:
                raise AlreadyExists(f"{path} exists already; it was left as it is.") from error
            finally:
                temporary.unlink(missing_ok=True)


class _Reading:
    """Context that turns read errors of one file into a typed error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _unreadable(self._path, error) from error


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        "LocalIoError",
        f"Cannot read {path}: {error.strerror or error}. Check its permissions and the disk.",
    )


def _create_beside(path: Path) -> tuple[Path, BinaryIO]:
    """Create a temporary file in the target's folder, which another delete may remove meanwhile."""
    name = f"{_temporary_stem(path)}{uuid.uuid4().hex[:12]}{_TEMPORARY_SUFFIX}"
    temporary = path.with_name(name)
    last: OSError | None = None
    for _ in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return temporary, temporary.open("xb")
        except (FileNotFoundError, FileExistsError) as error:
            last = error  # a delete removed the empty folder again, or a file lies in its place
    raise NotADirectoryError(errno.ENOTDIR, f"cannot make its folder ({last})", str(path)) from last


def _remove_empty_folder(folder: Path) -> bool:
    """Remove a folder that holds only empty folders; return whether it is gone."""
    if _remove_if_empty(folder):
        return True
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove_if_empty(Path(entry))
    return _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> bool:
    """Remove a folder if it is empty; return whether it is gone."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _temporary_stem(path: Path) -> str:
    return f".{path.name[:200]}."


def _unfinished_writes(path: Path) -> list[Path]:
    """Return the temporary files beside a target; none where another delete took the folder."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    stem = _temporary_stem(path)
    return [
        path.with_name(name)
        for name in names
        if name.startswith(stem) and name.endswith(_TEMPORARY_SUFFIX)
    ]


def _link_new(temporary: Path, path: Path) -> None:
    """Give a complete file its name; FileExistsError when the name is taken."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        # Exclusive creation is the only other operation with one winner. Readers may see the file
        # grow, which for a manifest reads as "not finished".
        with path.open("xb") as target, temporary.open("rb") as source:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
            target.flush()
            os.fsync(target.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some file systems cannot sync a folder; all others must
    finally:
        os.close(descriptor)


def _walk_files(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        for name in names:
            if not (name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX)):
                yield Path(folder, name)
