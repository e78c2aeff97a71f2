"""Reads large files from the Xet storage of the Hub, with hf-xet.

hf-xet fetches many ranges of a file at once. Plain HTTP reads a file over one connection. Whatever
fails here is read by plain HTTP instead: a mirror may have no Xet storage, and a firewall may allow
the Hub only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from finetune_trainer.storage.errors import InterruptedRead
from finetune_trainer.storage.stream import OpenBody

if TYPE_CHECKING:
    from hf_xet import XetDownloadStream, XetDownloadStreamGroup, XetSession

MIN_BYTES = 16_000_000
"""Smaller files arrive sooner by plain HTTP."""
_SETTINGS = {
    "client.connect_timeout": "10s",
    "client.read_timeout": "60s",
    "client.retry_max_duration": "30s",
}
"""Limits of hf-xet. Its own let an unreachable server hold a pod's GPUs for six minutes."""


class XetSource:
    """The Xet storage of one repository at one commit; safe to call from several threads.

    ``tell`` is called once if files are read by plain HTTP although the Hub offers Xet storage.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._is_off = False
        self._group: XetDownloadStreamGroup | None = None

    def open(
        self, url: str, headers: Mapping[str, str], *, offset: int, num_bytes: int, version: str
    ) -> OpenBody | None:
        """Open a file at an offset; None if plain HTTP has to read it.

        Args:
            url: Address of the file on the Hub.
            headers: Headers of requests to the Hub, with the token.
            offset: First byte that is missing.
            num_bytes: Size of the whole file.
            version: Tag of its content.
        """
        from httpx2 import HTTPError
        from huggingface_hub import get_hf_file_metadata

        if num_bytes < MIN_BYTES or self._is_off or not _is_available():
            return None
        endpoint = os.environ.get("HF_ENDPOINT")
        try:
            found = get_hf_file_metadata(
                url, token=False, headers=dict(headers), endpoint=endpoint
            ).xet_file_data
        except (HTTPError, OSError, ValueError):
            return None  # plain HTTP meets the same error, and names it
        if found is None:
            return None
        try:
            group = self._open_group(found.refresh_route, headers)
            stream = _open_stream(group, found.file_hash, offset, num_bytes)
        except Exception as error:  # hf-xet raises errors of many kinds
            self._turn_off(error)
            return None
        return OpenBody(
            offset=offset,
            num_bytes=num_bytes,
            version=version,
            chunks=self._iterate(stream, num_bytes - offset),
            close=stream.cancel,
        )

    def _open_group(self, refresh_url: str, headers: Mapping[str, str]) -> XetDownloadStreamGroup:
        """Return the connections of all files; made once, since the token is for all of them."""
        with self._lock:
            if self._group is None:
                public = {k: v for k, v in headers.items() if k.lower() != "authorization"}
                self._group = _session().new_download_stream_group(
                    token_refresh_url=refresh_url,
                    token_refresh_headers=dict(headers),
                    custom_headers=public,
                )
            return self._group

    def _iterate(self, stream: XetDownloadStream, num_missing: int) -> Iterator[bytes]:
        num_read = 0
        problem: Exception | str = "its stream ended early"
        try:
            for chunk in stream:
                num_read += len(chunk)
                yield chunk
        except Exception as error:  # hf-xet raises errors of many kinds
            problem = error
        if num_read < num_missing:
            if not num_read:
                self._turn_off(problem)
            raise InterruptedRead(f"Xet storage: {problem}")

    def _turn_off(self, problem: Exception | str) -> None:
        with self._lock:
            is_first, self._is_off = not self._is_off, True
        if is_first:
            self._tell(
                f"the Hub's Xet storage cannot be read ({problem}); plain HTTP reads the files, "
                "which is slower. Allow *.hf.co in the network policies and proxies of the "
                "pods, or set HF_HUB_DISABLE_XET=1 in config.trainerEnvironment"
            )


def _is_available() -> bool:
    from huggingface_hub.constants import HF_HUB_DISABLE_XET

    return not HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


_made: XetSession | None = None
_lock = threading.Lock()


def _session() -> XetSession:
    """Return the session of this process. Variables ``HF_XET_*`` take precedence."""
    from hf_xet import XetConfig, XetSession

    global _made  # its threads and connections serve all repositories
    with _lock:
        if _made is None:
            changes = {
                name: value
                for name, value in _SETTINGS.items()
                if f"HF_XET_{name.replace('.', '_').upper()}" not in os.environ
            }
            _made = XetSession(XetConfig().with_config(changes))
        return _made


def _open_stream(
    group: XetDownloadStreamGroup, file_hash: str, offset: int, num_bytes: int
) -> XetDownloadStream:
    from hf_xet import XetFileInfo

    return group.download_stream(XetFileInfo(file_hash, num_bytes), start=offset or None)
