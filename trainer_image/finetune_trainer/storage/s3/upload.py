"""Large objects in parts: conditional, checked by CRC32, and continued where they broke off."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.storage.s3.errors import error_code, is_passing
from finetune_trainer.storage.store import OnBytes

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

PART_BYTES = 8 * 1024 * 1024
"""Larger files are uploaded in parts of this size or more."""

_MAX_PARTS = 10_000  # S3's limit
_NUM_THREADS = 4


@dataclass(kw_only=True, slots=True)
class _Upload:
    """An upload that has begun; ``source`` is path, size and time of its file."""

    id: str
    source: tuple[str, int, int]
    parts: dict[int, dict[str, Any]] = field(default_factory=dict)
    num_failures: int = 0


class PartUploads:
    """The uploads of one bucket. s3transfer cannot pass a condition on, so parts are made here."""

    def __init__(self, bucket: str) -> None:
        self._bucket = bucket
        self._unfinished: dict[str, _Upload] = {}

    def put(
        self,
        client: S3Client,
        path: Path,
        key: str,
        *,
        if_absent: bool,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Upload a file.

        Raise the client's exceptions. If the server may return, its parts are kept for the next
        call. Otherwise the upload is aborted, because stored parts cost money.
        """
        status = path.stat()
        source = (str(path), status.st_size, status.st_mtime_ns)
        upload = self._unfinished.pop(key, None)
        if upload is not None and upload.source != source:
            self._abort(client, key, upload)
            upload = None
        is_resumed = upload is not None
        if upload is None:
            upload = self._begin(client, key, source)
        try:
            self._put_missing(client, path, key, upload, on_bytes)
            self._complete(client, key, upload, if_absent=if_absent)
        except BaseException as error:
            if is_resumed and error_code(error) == "NoSuchUpload":
                self.put(client, path, key, if_absent=if_absent, on_bytes=on_bytes)
                return
            if is_passing(error):
                upload.num_failures += 1
                self._unfinished[key] = upload
            else:
                self._abort(client, key, upload)
            raise

    def _begin(self, client: S3Client, key: str, source: tuple[str, int, int]) -> _Upload:
        created = client.create_multipart_upload(
            Bucket=self._bucket, Key=key, ChecksumAlgorithm="CRC32"
        )
        return _Upload(id=created["UploadId"], source=source)

    def _put_missing(
        self, client: S3Client, path: Path, key: str, upload: _Upload, on_bytes: OnBytes | None
    ) -> None:
        num_bytes = upload.source[1]
        part_bytes = max(PART_BYTES, -(-num_bytes // _MAX_PARTS))

        def put_part(number: int) -> None:
            with path.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            answer = client.upload_part(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload.id,
                PartNumber=number,
                Body=data,
                ChecksumAlgorithm="CRC32",
            )
            part: dict[str, Any] = {"PartNumber": number, "ETag": answer["ETag"]}
            if "ChecksumCRC32" in answer:  # AWS wants it back; other servers do not return it
                part["ChecksumCRC32"] = answer["ChecksumCRC32"]
            upload.parts[number] = part
            if on_bytes:
                on_bytes(len(data))

        numbers = range(1, -(-num_bytes // part_bytes) + 1)
        missing = [number for number in numbers if number not in upload.parts]
        # On a slow link parts in parallel run into the time limit together; one may get through.
        num_threads = _NUM_THREADS if upload.num_failures == 0 else 1
        with ThreadPoolExecutor(num_threads, "s3-part") as pool:
            for _ in pool.map(put_part, missing):
                pass

    def _complete(self, client: S3Client, key: str, upload: _Upload, *, if_absent: bool) -> None:
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if if_absent else {}
        parts: Any = [upload.parts[number] for number in sorted(upload.parts)]
        client.complete_multipart_upload(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload.id,
            MultipartUpload={"Parts": parts},
            **condition,
        )

    def _abort(self, client: S3Client, key: str, upload: _Upload) -> None:
        with suppress(Exception):
            client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload.id)
