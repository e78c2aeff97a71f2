"""S3 and compatible servers: one bucket, one prefix, through boto3.

Changed defaults: signature version 4 everywhere, path addressing for custom endpoints, CRC32 on
every upload, five attempts with back-off, longer time limits. A refused key is read again, because
a mounted Secret may change while a pod runs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import unquote, urlsplit

from finetune_trainer.errors import TrainerError, UserError
from finetune_trainer.storage.access import StorageAccess, mask
from finetune_trainer.storage.errors import ChecksumMismatch, CredentialsRefused
from finetune_trainer.storage.s3.errors import S3Location, error_code, translating
from finetune_trainer.storage.s3.read import S3Source
from finetune_trainer.storage.s3.upload import PART_BYTES, PartUploads
from finetune_trainer.storage.store import ObjectInfo, OnBytes, check_key
from finetune_trainer.storage.stream import READ_ATTEMPTS, download, read_object

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

MAX_ATTEMPTS = 5
CONNECT_TIMEOUT_SECONDS = 5
READ_TIMEOUT_SECONDS = 60

_CONDITION_CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")

_Answer = TypeVar("_Answer")
_Keys = tuple[str, str, str | None]
"""Access key, its secret, and a session's token."""


class S3Store:
    """Objects below ``s3://bucket/prefix``."""

    def __init__(self, uri: str, access: StorageAccess) -> None:
        parts = urlsplit(uri)
        if not parts.netloc or parts.query or parts.fragment:
            raise UserError("InvalidUri", f"{uri!r} must be s3://bucket or s3://bucket/prefix.")
        self.bucket = parts.netloc
        self.prefix = unquote(parts.path).strip("/")
        if self.prefix:
            check_key(self.prefix)
        self.uri = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")
        self._access = access
        self._lock = threading.Lock()
        self._client: S3Client | None = None
        self._keys: _Keys = ("", "", None)
        self._uploads = PartUploads(self.bucket)

    def read_bytes(self, key: str) -> bytes:
        """Return the whole object, read again if it arrives damaged."""
        for _ in range(READ_ATTEMPTS - 1):
            try:
                return b"".join(self.read_chunks(key))
            except ChecksumMismatch:
                continue
        return b"".join(self.read_chunks(key))

    def read_chunks(self, key: str) -> Iterator[bytes]:
        """Yield the object in order, surviving cut connections."""
        return read_object(self._source(), self._full_key(key), uri=self._uri_of(key))

    def write_bytes(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Write the whole object with one request."""
        full_key = self._full_key(key)
        self._ask(
            self._uri_of(key),
            "write",
            lambda client: self._put(client, full_key, data, if_absent=if_absent),
        )

    def upload_file(
        self, path: Path, key: str, *, if_absent: bool = False, on_bytes: OnBytes | None = None
    ) -> None:
        """Upload a local file, in parallel parts when it is large.

        A repeated call for the same file sends only the missing parts.
        """
        full_key, num_bytes = self._full_key(key), path.stat().st_size

        def put(client: S3Client) -> None:
            if num_bytes <= PART_BYTES:
                self._put(client, full_key, path.read_bytes(), if_absent=if_absent)
                if on_bytes:
                    on_bytes(num_bytes)
                return
            # After a conflict S3 wants the whole upload again, not only its completion.
            _repeat_on_conflict(
                lambda: self._uploads.put(
                    client, path, full_key, if_absent=if_absent, on_bytes=on_bytes
                )
            )

        self._ask(self._uri_of(key), "write", put)

    def download_file(self, key: str, path: Path) -> None:
        """Write an object to a local file; goes on where an earlier call stopped."""
        download(self._source(), self._full_key(key), path, uri=self._uri_of(key))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``, in the server's order."""
        root = f"{self.prefix}/" if self.prefix else ""
        request: dict[str, Any] = {"Bucket": self.bucket, "Prefix": root + prefix}
        is_last = False
        while not is_last:
            page = self._ask(
                self._uri_of(prefix), "list", lambda client: client.list_objects_v2(**request)
            )
            for entry in page.get("Contents", []):
                key = entry["Key"][len(root) :]
                if key and not key.endswith("/"):  # a marker some consoles make for folders
                    yield ObjectInfo(
                        key=key,
                        num_bytes=entry["Size"],
                        version=entry.get("ETag", "").strip('"'),
                        written=entry.get("LastModified"),
                    )
            request["ContinuationToken"] = page.get("NextContinuationToken")
            is_last = not page.get("IsTruncated") or not request["ContinuationToken"]

    def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        from botocore.exceptions import ClientError

        full_key = self._full_key(key)

        def look(client: S3Client) -> bool:
            try:
                client.head_object(Bucket=self.bucket, Key=full_key)
            except ClientError as error:
                # A HEAD answer has no body: a missing bucket looks like a missing key here.
                if error_code(error) in ("404", "NoSuchKey", "NotFound"):
                    return False
                raise
            return True

        return self._ask(self._uri_of(key), "look up", look)

    def delete(self, key: str) -> None:
        """Remove the object; nothing happens if there is none."""
        full_key = self._full_key(key)
        self._ask(
            self._uri_of(key),
            "delete",
            lambda client: client.delete_object(Bucket=self.bucket, Key=full_key),
        )

    @property
    def client(self) -> S3Client:
        """The boto3 client, built on first use and shared by all threads."""
        with self._lock:
            if self._client is None:
                self._client, self._keys = make_client(self._access, self.uri)
            return self._client

    def _ask(self, uri: str, action: str, ask: Callable[[S3Client], _Answer]) -> _Answer:
        """Send a request, once more with new keys when the server refuses the current ones."""
        client = self.client
        try:
            with translating(self._location(uri), action):
                return ask(client)
        except UserError as error:
            is_refused = isinstance(error, CredentialsRefused) or error.reason == "AccessDenied"
            if not (is_refused and self._renew(client)):
                raise
        with translating(self._location(uri), action):
            return ask(self.client)

    def _renew(self, used: S3Client) -> bool:
        """Read the keys again; return whether they changed."""
        with self._lock:
            if self._client is not used:
                return True  # another thread has done it
            try:
                client, keys = make_client(self._access, self.uri)
            except TrainerError:
                return False  # the Secret is gone, or being written
            if keys == self._keys:
                return False
            self._client, self._keys = client, keys
            return True

    def _put(self, client: S3Client, full_key: str, data: bytes, *, if_absent: bool) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        _repeat_on_conflict(
            lambda: client.put_object(
                Bucket=self.bucket, Key=full_key, Body=data, ChecksumAlgorithm="CRC32", **condition
            )
        )

    def _source(self) -> S3Source:
        return S3Source(self._ask, self.bucket)

    def _full_key(self, key: str) -> str:
        check_key(key)
        return check_key(f"{self.prefix}/{key}" if self.prefix else key)

    def _uri_of(self, key: str) -> str:
        return f"{self.uri}/{key}" if key else self.uri

    def _location(self, uri: str) -> S3Location:
        client = self.client
        return S3Location(
            bucket=self.bucket,
            uri=uri,
            endpoint=client.meta.endpoint_url,
            credentials=self._access.describe_credentials(),
            key_id=mask(self._keys[0]) if self._keys[0] else "none",
        )


def make_client(access: StorageAccess, uri: str) -> tuple[S3Client, _Keys]:
    """Return a client and the keys it signs with.

    Raises:
        UserError: ``CredentialsMissing``, ``InvalidEndpoint``.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UserError(
            "MissingDependency",
            "s3:// needs the package boto3; install finetune-operator[trainer] or [cli].",
        ) from error
    keys = _read_keys(access)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": _addressing_style(access)},
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        read_timeout=READ_TIMEOUT_SECONDS,
        max_pool_connections=32,
        tcp_keepalive=True,
        request_checksum_calculation="when_supported",
        # Asked for per request: a ranged answer has no checksum of its own to compare with.
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session(**keys)
        credentials = session.get_credentials()
        region = access.region or session.region_name or "us-east-1"
        client: S3Client = session.client(
            "s3", endpoint_url=access.endpoint, region_name=region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            "InvalidEndpoint",
            f"Cannot set up an S3 client for endpoint {access.endpoint!r} and region "
            f"{access.region!r}: {error}. The endpoint must be http(s)://host[:port].",
        ) from error
    if credentials is None:
        raise UserError(
            "CredentialsMissing",
            f"There are no S3 credentials for {uri} in {access.describe_credentials()}. "
            f"{access.credentials_remedy()}",
        )
    frozen = credentials.get_frozen_credentials()
    return client, (frozen.access_key or "", frozen.secret_key or "", frozen.token)


def _read_keys(access: StorageAccess) -> dict[str, Any]:
    """Return a mounted Secret's keys as options of a session; none for the default chain."""
    if not access.has_secret:
        return {}
    return {
        "aws_access_key_id": access.read_credential("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": access.read_credential("AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": access.read_optional_credential("AWS_SESSION_TOKEN"),
    }


def _addressing_style(access: StorageAccess) -> Literal["auto", "path", "virtual"]:
    if access.addressing == "Path":
        return "path"
    if access.addressing == "Virtual":
        return "virtual"
    own_endpoint = (
        access.endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    return "path" if own_endpoint else "auto"


def _repeat_on_conflict(write: Callable[[], object]) -> None:
    """Run a conditional write; 409 means a rival is in the middle of one, so ask again."""
    from botocore.exceptions import ClientError

    for attempt in range(MAX_ATTEMPTS):
        try:
            write()
            return
        except ClientError as error:
            if error_code(error) not in _CONDITION_CONFLICTS or attempt + 1 == MAX_ATTEMPTS:
                raise
            time.sleep(0.1 * 2**attempt)
