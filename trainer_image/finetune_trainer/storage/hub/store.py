"""Read-only ``hf://``: a repository of the Hugging Face Hub at one commit.

huggingface_hub resolves addresses and tokens. The bytes are read here, with ranges, because its own
download starts a file over after a killed process. Large files come by hf-xet, the rest by plain
HTTP. Only safetensors and text are served, no pickles.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NoReturn

from finetune_trainer.errors import UserError
from finetune_trainer.storage.access import StorageAccess
from finetune_trainer.storage.errors import ChecksumMismatch, InterruptedRead, ObjectNotFound
from finetune_trainer.storage.hub.address import HubAddress, parse_hub_uri
from finetune_trainer.storage.hub.errors import translate, translate_status, translating
from finetune_trainer.storage.hub.xet import XetSource
from finetune_trainer.storage.store import ObjectInfo, OnBytes, check_key
from finetune_trainer.storage.stream import OpenBody, download, read_object

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import DatasetInfo, ModelInfo

_MODEL_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
_DATASET_SUFFIXES = (
    ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt", ".md", ".gz",
    ".zst",
)  # fmt: skip
_DOCUMENTS = re.compile(r"(README|LICEN[SC]E|NOTICE|USE_POLICY)[^/]*", re.IGNORECASE)
_READ_TIMEOUT_SECONDS = 60.0
_TRUE = {"1", "ON", "TRUE", "YES"}


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a commit.

    ``sha256`` is set for large files. ``blob_id``, Git's object id, is set for small ones.
    """

    num_bytes: int
    sha256: str
    blob_id: str


class HubStore:
    """The files of one repository at one commit; every write is refused.

    ``tell`` is called with messages for people.
    """

    def __init__(
        self,
        address: HubAddress,
        access: StorageAccess,
        *,
        allow_code: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.address = address
        self.revision = address.revision or "main"
        self.uri = f"{address.uri}@{self.revision}"
        self._access = access
        self._allow_code = allow_code
        self._token = access.read_optional_credential("HF_TOKEN")
        self._xet = XetSource(tell)
        self._lock = threading.Lock()
        self._commit = ""
        self._files: dict[str, HubFile] = {}

    @property
    def commit(self) -> str:
        """The commit the revision stands for, asked once; later pushes change nothing here."""
        with self._lock:
            if not self._commit:
                self._resolve()
            return self._commit

    def read_bytes(self, key: str) -> bytes:
        """Return the whole file."""
        return b"".join(self.read_chunks(key))

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """Yield the file in order, surviving cut connections."""
        self._file(key)
        return read_object(self, key, uri=f"{self.uri}/{key}")

    def download_file(self, key: str, path: Path) -> None:
        """Write a file to a local one and compare it with the commit's checksum."""
        file = self._file(key)
        download(self, key, path, uri=f"{self.uri}/{key}")
        got = _hash_as(file, path)
        expected = file.sha256 or file.blob_id
        if expected and got != expected:
            path.unlink(missing_ok=True)
            raise ChecksumMismatch(
                f"{self.uri}/{key} arrived damaged: expected {expected}, got {got}. Run again; if "
                "it happens again, a proxy or mirror between here and the Hub serves wrong bytes."
            )

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the files that are safe to load and start with ``prefix``, in key order."""
        _ = self.commit
        for key, file in sorted(self._files.items()):
            if key.startswith(prefix) and self._is_safe(key):
                yield ObjectInfo(
                    key=key, num_bytes=file.num_bytes, version=file.sha256 or file.blob_id
                )

    def exists(self, key: str) -> bool:
        """Whether the commit has this file."""
        check_key(key)
        return bool(self.commit) and key in self._files

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Refuse: the Hub is read-only here."""
        self._refuse_write()

    def upload_file(
        self, path: Path, key: str, *, if_absent: bool = False, on_bytes: OnBytes | None = None
    ) -> None:
        """Refuse: the Hub is read-only here."""
        self._refuse_write()

    def delete(self, key: str) -> None:
        """Refuse: the Hub is read-only here."""
        self._refuse_write()

    def open_range(self, key: str, offset: int, version: str) -> OpenBody:
        """Open a file at an offset; the commit in the address pins its content."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        file = self._file(key)
        tag = file.sha256 or file.blob_id
        if offset and offset == file.num_bytes:
            return OpenBody(offset=offset, num_bytes=offset, version=tag, chunks=iter(()))
        url = hf_hub_url(
            self.address.repo_id,
            self._repo_path(key),
            repo_type=self.address.repo_type,
            revision=self.commit,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
        headers = build_hf_headers(token=self._token) | {"Accept-Encoding": "identity"}
        by_xet = self._xet.open(url, headers, offset=offset, num_bytes=file.num_bytes, version=tag)
        if by_xet is not None:
            return by_xet
        answer, close = self._ask(url, key, headers, offset)
        return OpenBody(
            offset=offset if answer.status_code == 206 else 0,
            num_bytes=file.num_bytes,
            version=tag,
            chunks=_iterate(answer),
            close=close,
        )

    def _ask(
        self, url: str, key: str, headers: dict[str, str], offset: int
    ) -> tuple[httpx2.Response, Callable[[], None]]:
        """Return the answer to a request for the bytes from an offset on, and what closes it."""
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        if offset:
            headers = headers | {"Range": f"bytes={offset}-"}
        stack = ExitStack()
        try:
            answer = stack.enter_context(
                get_session().stream(
                    "GET",
                    url,
                    headers=headers,
                    follow_redirects=True,
                    timeout=_READ_TIMEOUT_SECONDS,
                )
            )
            if answer.status_code >= 500 or answer.status_code == 429:
                raise InterruptedRead(f"HTTP {answer.status_code} from {answer.url.host}")
            if answer.status_code >= 400:
                raise translate_status(answer.status_code, f"{self.uri}/{key}", self._token_words())
        except OfflineModeIsEnabled as error:
            stack.close()
            raise translate(error, self.uri, self._token_words()) from error
        except httpx2.TransportError as error:
            stack.close()
            raise InterruptedRead(str(error) or type(error).__name__) from error
        except BaseException:
            stack.close()
            raise
        return answer, stack.close

    def _resolve(self) -> None:
        from huggingface_hub import HfApi

        ask: Callable[..., ModelInfo | DatasetInfo]
        with translating(self.uri, self._token_words()):
            hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=self._token)
            ask = hub.dataset_info if self.address.repo_type == "dataset" else hub.model_info
            info = ask(self.address.repo_id, revision=self.revision, files_metadata=True)
        if not info.sha or not info.siblings:
            raise UserError(
                "ModelNotFound", f"{self.uri} has no files. Check the name and the revision."
            )
        start = f"{self.address.folder}/" if self.address.folder else ""
        self._files = {
            sibling.rfilename[len(start) :]: HubFile(
                num_bytes=(sibling.lfs.size if sibling.lfs else sibling.size) or 0,
                sha256=sibling.lfs.sha256 if sibling.lfs else "",
                blob_id=sibling.blob_id or "",
            )
            for sibling in info.siblings
            if sibling.rfilename.startswith(start)
        }
        for key in self._files:
            check_key(key)  # names come from whoever made the repository
        self._commit = info.sha

    def _file(self, key: str) -> HubFile:
        check_key(key)
        _ = self.commit
        if key not in self._files:
            raise ObjectNotFound(f"There is no file {key} in {self.uri} (commit {self._commit}).")
        if not self._is_safe(key):
            raise UserError(
                "UnsafeFile",
                f"{self.uri}/{key} is not read: only safetensors and text files are, because "
                "other formats can run code when they are loaded. Use a repository with "
                "safetensors weights.",
            )
        return self._files[key]

    def _is_safe(self, key: str) -> bool:
        name = PurePosixPath(key).name
        if self.address.repo_type == "dataset":
            return name.endswith(_DATASET_SUFFIXES) or bool(_DOCUMENTS.fullmatch(name))
        allowed = (*_MODEL_SUFFIXES, ".py") if self._allow_code else _MODEL_SUFFIXES
        return name.endswith(allowed) or (
            bool(_DOCUMENTS.fullmatch(name)) and PurePosixPath(name).suffix in ("", ".md")
        )

    def _repo_path(self, key: str) -> str:
        return f"{self.address.folder}/{key}" if self.address.folder else key

    def _token_words(self) -> str:
        if self._token:
            return f"the token HF_TOKEN of {self._access.describe_credentials()}"
        if self._access.has_secret:
            return f"no token (Secret {self._access.credentials_name!r} has no key 'HF_TOKEN')"
        return "the token of the environment, if any"

    def _refuse_write(self) -> NoReturn:
        raise UserError(
            "ReadOnlyStore",
            f"Cannot write to {self.uri}: hf:// is read-only. Give an s3:// or file:// URI as "
            "output.",
        )


def open_hub_store(uri: str, access: StorageAccess) -> HubStore:
    """Open an ``hf://`` URI with the Secret's ``HF_TOKEN``, else the environment's token.

    Raises:
        UserError: ``InvalidUri``, ``MissingDependency``.
    """
    address = parse_hub_uri(uri)
    try:
        import huggingface_hub  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise UserError(
            "MissingDependency",
            "hf:// needs the package huggingface_hub; install finetune-operator[trainer].",
        ) from error
    return HubStore(address, access)


def find_in_hub_cache(address: HubAddress, revision: str) -> tuple[Path, str]:
    """Return folder and commit of a repository in huggingface_hub's own cache.

    Raises:
        UserError: ``ModelNotFound``: it is not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot = Path(
            snapshot_download(
                address.repo_id,
                repo_type=address.repo_type,
                revision=revision,
                local_files_only=True,
            )
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            "ModelNotFound",
            f"{address.uri}@{revision} is neither in the model cache nor in huggingface_hub's "
            "cache, and HF_HUB_OFFLINE forbids asking the Hub. Unset it, fill HF_HOME before, or "
            "name a folder or bucket that holds the model.",
        ) from error
    return (snapshot / address.folder if address.folder else snapshot), snapshot.name


def is_offline() -> bool:
    """Whether the environment forbids asking the Hub (``HF_HUB_OFFLINE``)."""
    return any(
        os.environ.get(name, "").upper() in _TRUE
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _hash_as(file: HubFile, path: Path) -> str:
    if file.sha256:
        with path.open("rb") as body:
            return hashlib.file_digest(body, "sha256").hexdigest()
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _iterate(answer: httpx2.Response) -> Iterator[bytes]:
    """Yield a body; whatever breaks it off becomes ``InterruptedRead``."""
    import httpx2

    try:
        # Without a chunk size: what waits for a chunk to fill is lost when the line is cut.
        yield from answer.iter_raw()
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise InterruptedRead(str(error) or type(error).__name__) from error
