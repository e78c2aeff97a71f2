"""Translates an S3 client's exceptions, with remedies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.storage.errors import (
    AlreadyExists,
    CredentialsRefused,
    ObjectNotFound,
)

_UNKNOWN_KEY = {"InvalidAccessKeyId", "SignatureDoesNotMatch"}
_DENIED = {
    "403",
    "AccessDenied",
    "AllAccessDisabled",
    "Forbidden",
    "UnauthorizedAccess",
    *_UNKNOWN_KEY,
}
_EXPIRED = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
_WRONG_REGION = {
    "301",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
}
_FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}
_DAMAGED = {
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_MISSING_KEY = {"404", "NoSuchKey", "NotFound"}


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Location:
    """Bucket, address, endpoint, credentials in words and masked key id, for messages."""

    bucket: str
    uri: str
    endpoint: str
    credentials: str
    key_id: str


@contextmanager
def translating(location: S3Location, action: str) -> Iterator[None]:
    """Turn the client's exceptions into ours; ``action`` is the verb of the message."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise translate(error, location, action) from error


def error_code(error: BaseException) -> str:
    """Return the S3 error code of a ClientError: ``NoSuchKey``, or the HTTP status as text."""
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code == "" or (code == "400" and status != "400"):
        return status
    return code


def http_status(error: BaseException) -> int:
    """Return the HTTP status of a ClientError; 0 when there is none."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, an overload, a key being rotated."""
    from botocore.exceptions import ClientError, HTTPClientError

    if isinstance(error, ClientError):
        status, code = http_status(error), error_code(error)
        return status >= 500 or status in (401, 403, 408, 429) or code in _DAMAGED | _EXPIRED
    return isinstance(error, HTTPClientError)


def translate(error: Exception, location: S3Location, action: str) -> TrainerError:
    """Choose class, reason and words for an exception of the client."""
    from botocore.exceptions import (
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )

    tried = f"Cannot {action} {location.uri} at {location.endpoint}"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return UserError(
            "CredentialsMissing",
            f"{tried}: {error}. Credentials were looked for in {location.credentials}. On a "
            "cluster, name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "credentialsRef. On this machine, set these two variables.",
        )
    if isinstance(error, ParamValidationError):
        return UserError("InvalidUri", f"{tried}: {error}. Check the bucket name and the prefix.")
    if not isinstance(error, ClientError):
        return StorageError(
            "Unreachable",
            f"{tried}: {error}. All attempts failed; check the endpoint's host, port and scheme, "
            "DNS, network policies and whether the server runs.",
        )
    return _translate_answer(error, location, tried)


def _translate_answer(error: Exception, location: S3Location, tried: str) -> TrainerError:
    return (
        _translate_place(error, location, tried)
        or _translate_refusal(error, location, tried)
        or _translate_failure(error, tried)
    )


def _translate_place(error: Exception, location: S3Location, tried: str) -> TrainerError | None:
    """Translate errors about the bucket or the object; return None for others."""
    code, said = error_code(error), _said(error)
    if code in ("PreconditionFailed", "412"):
        return AlreadyExists(f"{location.uri} exists already; it was left as it is.")
    if code == "NoSuchBucket":
        return UserError(
            "BucketNotFound",
            f"{tried}: there is no bucket {location.bucket!r} ({said}). Create it, or correct the "
            "URI; also check that the endpoint is the server you mean.",
        )
    if code == "InvalidBucketName":
        return UserError(
            "BucketNotFound",
            f"{tried}: {location.bucket!r} is not a bucket name ({said}). Names have 3-63 lower "
            "case letters, digits, dots and hyphens.",
        )
    if code in _MISSING_KEY:
        return ObjectNotFound(f"There is no object {location.uri} at {location.endpoint}.")
    return None


def _translate_refusal(error: Exception, location: S3Location, tried: str) -> TrainerError | None:
    """Translate authentication errors; return None for others."""
    code, said = error_code(error), _said(error)
    if code in _EXPIRED:
        return CredentialsRefused(
            "CredentialsExpired",
            f"{tried}: {said}. The session of access key {location.key_id} from "
            f"{location.credentials} is over; renew it.",
        )
    if code == "RequestTimeTooSkewed":
        return StorageError("ClockSkew", f"{tried}: {said}. Correct the clock of this node.")
    if code in _DENIED:
        kind = CredentialsRefused if code in _UNKNOWN_KEY else UserError
        return kind(
            "AccessDenied",
            f"{tried}: {said}. Access key {location.key_id} came from {location.credentials}; "
            f"check that key and secret belong together and that it may read, write and list "
            f"bucket {location.bucket!r} (without the list right a missing object is refused, "
            "not reported missing).",
        )
    return None


def _translate_failure(error: Exception, tried: str) -> TrainerError:
    """Translate errors of the server or the network, and all unknown errors."""
    code, status, said = error_code(error), http_status(error), _said(error)
    if code in _WRONG_REGION:
        return UserError(
            "WrongRegion", f"{tried}: {said}. Set the region to the one the bucket lies in."
        )
    if code in _FULL:
        return StorageError(
            "BucketFull", f"{tried}: {said}. Free space or raise the quota of the bucket."
        )
    if code == "NotImplemented" or status == 501:
        return StorageError(
            "Unsupported",
            f"{tried}: the server lacks something this program needs ({said}). It must support "
            "conditional writes (If-None-Match), multipart uploads and version 4 signatures.",
        )
    if code in _DAMAGED:
        return StorageError(
            "DamagedInTransit",
            f"{tried}: {said}. What was sent arrived damaged; check the network's equipment "
            "between this node and the server.",
        )
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling", "429"):
        return StorageError(
            "Unreachable",
            f"{tried}: {said}, also after several attempts. Check the server's health and load.",
        )
    return StorageError("StorageFailed", f"{tried}: {said}.")


def _said(error: Exception) -> str:
    """Quote the server: code, status and message."""
    response = getattr(error, "response", None) or {}
    details = response.get("Error", {})
    text = (details.get("Message") or "no message").rstrip(".")
    return f"the server said {error_code(error)} ({http_status(error)}): {text}"
