"""Fetches the files of a source to the work folder and computes their checksums.

Local files are copied too, so that the checksum belongs to the parsed bytes. The encoding is found
here, because it counts into the data set's version. In a URI ``*`` and ``?`` match characters of
one name and ``**`` folders of any depth. Tool folders of a local folder (`.git`, `.venv`,
`node_modules`, `cache` ...) are left out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.files.encodings import UTF8, TextEncoding, choose_encoding
from finetune_trainer.prepare.reading.files.file_types import (
    HEADER_EXTENSIONS,
    KNOWN_ENDINGS,
    SHEET_EXTENSIONS,
    TEXT_EXTENSIONS,
    extension_of,
    is_plain,
    is_text,
)
from finetune_trainer.prepare.reading.people import People
from finetune_trainer.storage import (
    MANIFEST_NAME,
    ObjectNotFound,
    ObjectStore,
    is_local,
    local_path,
)

NUM_NAMES_SHOWN = 5

_WILDCARDS = frozenset("*?")

_NOT_DATA = frozenset({MANIFEST_NAME, "dataset_info.json", "dataset_infos.json", "state.json"})
"""JSON files that describe rows: ours, the Hub's and LLaMA-Factory's."""

_PROGRAMS = frozenset({"node_modules", "__pycache__", "venv", "site-packages"})
"""Folders that hold programs and no data, as hidden ones do. A URI that names one reads it."""
_LOCAL_CACHES = frozenset({"cache", "caches"})
"""On a machine, unlike a bucket, these hold caches of programs."""

_CAPTURED = re.compile(
    r"/traffic/+[^/]+/+[^/]+/+"
    r"(segments/+\d{4}-\d\d-\d\d/|(feedback|people)/+\d{14}-|monitor/+(evidence|report)\.)"
)
"""What a recorder and a monitor write, below any folder."""

_DOCUMENTS = re.compile(r"(README|LICEN[SC]E|NOTICE|USE_POLICY|requirements)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """One fetched file: name below the source, local copy, size, hex sha256, encoding.

    ``encoding`` is None for a table. ``people`` says who gave the feedback, if it is feedback.
    """

    name: str
    path: Path
    num_bytes: int
    sha256: str
    encoding: TextEncoding | None = UTF8
    people: People | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """The parts of a source URI.

    Attributes:
        root: URI of the store.
        key: Object below it; empty for the whole root.
        pattern: Pattern of the keys below it; empty without one.
    """

    root: str
    key: str
    pattern: str = ""


def locate(uri: str) -> Location:
    """Split the URI of a source into a store and a key.

    A known extension names a file, any other a folder. On the Hub a source is always a data set.
    """
    scheme, _, rest = uri.partition("://")
    rest = rest.rstrip("/")
    if scheme == "hf" and not rest.startswith(("datasets/", "models/")):
        rest = f"datasets/{rest}"
    parts = rest.split("/")
    wild = next((n for n, part in enumerate(parts) if _WILDCARDS.intersection(part)), None)
    if wild is not None:
        folder = "/".join(parts[:wild])
        return Location(
            root=f"{scheme}://{folder}", key="", pattern=unquote("/".join(parts[wild:]))
        )
    parent, _, name = rest.rpartition("/")
    if parent and extension_of(name):
        # Stores read %20 in their URI as a blank; the same must hold for the last part.
        return Location(root=f"{scheme}://{parent}", key=unquote(name))
    return Location(root=f"{scheme}://{rest}", key="")


def find_files(uri: str, store: ObjectStore, location: Location) -> dict[str, str]:
    """Return the files of a source: their names by their keys, in the order of the keys.

    Raises:
        UserError: ``DatasetNotFound``: nothing readable lies there; says what does.
            ``CapturedTraffic``: only captured traffic is stored there.
        StorageError: The storage could not be read.
    """
    key = location.key
    if key and store.exists(key):
        if is_captured(location.root, key):
            raise _refuse_captured(uri)
        return {key: key}
    prefix = f"{key}/" if key else _fixed_start(location.pattern)
    if location.root.startswith("file://") and not location.pattern:
        found, _ = walk_folder(local_path(location.root) / key)
        found = [f"{prefix}{name}" for name in found]
    else:
        found = [info.key for info in store.list(prefix)]
    num_found = len(found)
    found = [one for one in found if not is_captured(location.root, one)]
    if num_found and not found:
        raise _refuse_captured(uri)
    cut = f"{key}/" if key else ""  # a folder may have a name like a file's
    is_wanted = _matcher(location.pattern)
    names = {one: one.removeprefix(cut) for one in sorted(found) if is_wanted(one)}
    names = {one: name for one, name in names.items() if _is_data(name)}
    if not all(map(is_plain, names.values())):  # texts beside rows describe them
        names = {one: name for one, name in names.items() if not is_plain(name)}
    if not names:
        raise UserError("DatasetNotFound", _explain_missing(uri, store, found))
    return names


def is_captured(root: str, key: str) -> bool:
    """Whether an object is captured traffic, which only ``traffic://`` reads.

    That leaves out deleted answers, and reads those of the job's own namespace alone. Links in a
    local path do not hide it.
    """
    path = (local_path(root) / key).resolve().as_posix() if is_local(root) else f"{root}/{key}"
    return _CAPTURED.search(unquote(path)) is not None


def _refuse_captured(uri: str) -> UserError:
    return UserError(
        "CapturedTraffic",
        f"dataset.sources: {uri} holds answers that endpoints have captured, some of which may be "
        "deleted; name the endpoint instead: traffic://ENDPOINT",
    )


def find_skipped(location: Location) -> list[str]:
    """Return the folders below a local source that are left out; none of other sources."""
    if not location.root.startswith("file://") or location.pattern:
        return []
    return walk_folder(local_path(location.root) / location.key)[1]


def walk_folder(top: Path) -> tuple[list[str], list[str]]:
    """Return the files below a folder and the tool folders left out, by their paths below it."""
    found: list[str] = []
    skipped: list[str] = []
    for folder, folders, names in os.walk(top):
        where = Path(folder).relative_to(top)
        skipped += [(where / name).as_posix() for name in folders if _is_of_programs(name)]
        folders[:] = [name for name in folders if not _is_of_programs(name)]
        found += [(where / name).as_posix() for name in names]
    return found, sorted(skipped)


def _is_of_programs(folder: str) -> bool:
    return folder.startswith(".") or folder in _PROGRAMS | _LOCAL_CACHES


def fetch_source(
    source: Source, store: ObjectStore, location: Location, folder: Path
) -> list[SourceFile]:
    """Fetch the files of a source to ``folder``, in the order of their names.

    Raises:
        UserError: ``DatasetNotFound``: nothing readable lies there; says what does.
            ``SettingNotApplicable``: a setting fits none of the files.
        DataError: A text file cannot be decoded, or is a damaged archive.
        StorageError: The storage could not be read.
    """
    try:
        names = find_files(source.uri, store, location)
        _require_use(source, list(names))
        return [_fetch(source, store, key, name, folder) for key, name in names.items()]
    except UserError as error:
        if error.reason != "ModelNotFound":  # the Hub's store has models in mind
            raise
        raise UserError("DatasetNotFound", error.message) from error


def _require_use(source: Source, names: list[str]) -> None:
    """Refuse settings that no file of a source can follow."""
    extensions = {extension_of(name) for name in names}
    wanted = [
        ("sheet", source.sheet is not None, SHEET_EXTENSIONS),
        ("header", source.header != "Auto", HEADER_EXTENSIONS),
        ("encoding", source.encoding != "Auto", TEXT_EXTENSIONS),
    ]
    for field, is_set, applicable in wanted:
        if is_set and not extensions.intersection(applicable):
            raise UserError(
                "SettingNotApplicable",
                f"dataset.sources: {field} of {source.uri} is for files ending in "
                f"{', '.join(applicable)}, and there is none; leave it out",
            )


def _fixed_start(pattern: str) -> str:
    """Return the common beginning of all keys that match a pattern, for a short listing."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Return whether a key matches a pattern; every key matches an empty one."""
    if not pattern:
        return lambda _: True
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    regex = re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)
    return lambda key: regex.fullmatch(key) is not None


def _fetch(source: Source, store: ObjectStore, key: str, name: str, folder: Path) -> SourceFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        store.download_file(key, path)
    except ObjectNotFound as error:
        raise UserError(
            "DatasetNotFound", f"{key} vanished from {store.uri} while it was being read"
        ) from error
    path.chmod(0o600)  # it holds what nobody has redacted yet
    return describe_file(path, name=name, wanted_encoding=source.encoding)


def describe_file(path: Path, *, name: str, wanted_encoding: str = "Auto") -> SourceFile:
    """Compute a local file's checksum and find its encoding; ``Auto`` guesses.

    Raises:
        DataError: It is text and cannot be decoded, or a damaged archive.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    encoding = choose_encoding(path, file=name, wanted=wanted_encoding) if is_text(name) else None
    return SourceFile(
        name=name, path=path, num_bytes=path.stat().st_size, sha256=digest, encoding=encoding
    )


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith(".") or part in _PROGRAMS for part in path.parts):
        return False
    if path.name in _NOT_DATA or (is_plain(name) and _DOCUMENTS.match(path.name)):
        return False
    return extension_of(name) is not None


def _explain_missing(uri: str, store: ObjectStore, found: list[str]) -> str:
    if not found:
        # A bucket may hold millions of objects; a few names are enough of a hint.
        found = [info.key for info in islice(store.list(), NUM_NAMES_SHOWN + 1)]
    names = ", ".join(found[:NUM_NAMES_SHOWN])
    if len(found) > NUM_NAMES_SHOWN:
        names += ", ..."
    return (
        f"no data set at {uri}: expected a file, a folder with files, or a pattern with * of files "
        f"ending in {KNOWN_ENDINGS}; {store.uri} holds {names or 'nothing'}. Check the URI"
    )
