"""Ranged reads of S3 objects, pinned to one version of the object."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from finetune_trainer.storage.errors import ChangedObject, DamagedRead, InterruptedRead
from finetune_trainer.storage.s3.errors import error_code
from finetune_trainer.storage.stream import OpenBody

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

# A broken read loses its buffer, so the buffer is small.
_READ_BYTES = 128 * 1024

_Answer = TypeVar("_Answer")


class Ask(Protocol):
    """Sends a request, renews refused keys, and translates errors."""

    def __call__(self, uri: str, action: str, ask: Callable[[S3Client], _Answer], /) -> _Answer:
        """Return the result of ``ask``; ``uri`` and ``action`` are for messages."""


class S3Source:
    """Opens objects of one bucket at an offset."""

    def __init__(self, ask: Ask, bucket: str) -> None:
        self._ask = ask
        self._bucket = bucket

    def open_range(self, key: str, offset: int, version: str) -> OpenBody:
        """Open an object; ``If-Match`` refuses any version but the one begun with."""
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": key}
        if version:
            request["IfMatch"] = f'"{version}"'
        if offset:
            request["Range"] = f"bytes={offset}-"
        else:
            # Only an answer with the whole object can be checked against its checksum.
            request["ChecksumMode"] = "ENABLED"
        uri = f"s3://{self._bucket}/{key}"
        answer = self._ask(uri, "read", lambda client: _get(client, request))
        if answer is None:
            return self._open_end(key, offset, version)
        first, num_bytes = _parse_content_range(answer.get("ContentRange", ""))
        if num_bytes is None:
            num_bytes = answer["ContentLength"]
        tag = answer.get("ETag", "").strip('"')
        if version and tag != version:  # a server that ignores If-Match
            answer["Body"].close()
            raise ChangedObject(key)
        return OpenBody(
            offset=first,
            num_bytes=num_bytes,
            version=tag,
            chunks=_iterate(answer["Body"]),
            close=answer["Body"].close,
        )

    def _open_end(self, key: str, offset: int, version: str) -> OpenBody:
        """Answer a read that starts at or behind the end: nothing is left, or it changed."""
        head = self._ask(
            f"s3://{self._bucket}/{key}",
            "look up",
            lambda client: client.head_object(Bucket=self._bucket, Key=key),
        )
        tag = head.get("ETag", "").strip('"')
        if head["ContentLength"] != offset or tag != version:
            raise ChangedObject(key)
        return OpenBody(offset=offset, num_bytes=offset, version=tag, chunks=iter(()))


def _get(client: S3Client, request: dict[str, Any]) -> Any:
    """Get an object; None when the range begins at its end or behind it.

    Raises:
        ChangedObject: The object has another version.
    """
    from botocore.exceptions import ClientError

    try:
        return client.get_object(**request)
    except ClientError as error:
        code = error_code(error)
        if code in ("PreconditionFailed", "412"):
            raise ChangedObject(request["Key"]) from error
        if code in ("InvalidRange", "416"):
            return None
        raise


def _iterate(body: Any) -> Iterator[bytes]:
    """Yield a body; whatever breaks it off becomes ``InterruptedRead``."""
    from botocore.exceptions import BotoCoreError, FlexibleChecksumError
    from urllib3.exceptions import HTTPError

    try:
        yield from body.iter_chunks(_READ_BYTES)
    except FlexibleChecksumError as error:
        # Every byte came and they are wrong: going on from here would keep them.
        raise DamagedRead(str(error)) from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise InterruptedRead(str(error)) from error


def _parse_content_range(header: str) -> tuple[int, int | None]:
    """Read ``bytes 5-9/10`` as (5, 10); (0, None) when there is no range."""
    unit, _, rest = header.partition(" ")
    span, _, total = rest.partition("/")
    first = span.partition("-")[0]
    if unit != "bytes" or not first.isdigit() or not total.isdigit():
        return 0, None
    return int(first), int(total)
