"""What a server or client says becomes the right class, reason and remedy."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
)

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import AlreadyExists, ObjectNotFound
from finetune_trainer.storage.errors import CredentialsRefused
from finetune_trainer.storage.s3.errors import S3Location, translate

LOCATION = S3Location(
    bucket="models",
    uri="s3://models/run/a",
    endpoint="http://s3.test:9000",
    credentials="Secret 's3-rw'",
    key_id="AKIA****",
)


def answer(code, status, message="server text"):
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
        "PutObject",
    )


@pytest.mark.parametrize(
    ("error", "kind", "reason", "parts"),
    [
        (answer("NoSuchBucket", 404), UserError, "BucketNotFound", ["'models'", "Create it"]),
        (answer("InvalidBucketName", 400), UserError, "BucketNotFound", ["3-63"]),
        (answer("NoSuchKey", 404), ObjectNotFound, "ObjectNotFound", ["s3://models/run/a"]),
        (answer("404", 404), ObjectNotFound, "ObjectNotFound", []),
        (answer("AccessDenied", 403), UserError, "AccessDenied", ["AKIA****", "'s3-rw'"]),
        (answer("403", 403), UserError, "AccessDenied", ["AKIA****"]),
        (answer("InvalidAccessKeyId", 403), CredentialsRefused, "AccessDenied", ["AKIA****"]),
        (
            answer("SignatureDoesNotMatch", 403),
            CredentialsRefused,
            "AccessDenied",
            ["belong together"],
        ),
        (answer("ExpiredToken", 400), CredentialsRefused, "CredentialsExpired", ["renew"]),
        (answer("RequestTimeTooSkewed", 403), StorageError, "ClockSkew", ["clock"]),
        (answer("PermanentRedirect", 301), UserError, "WrongRegion", ["region"]),
        (answer("PreconditionFailed", 412), AlreadyExists, "AlreadyExists", []),
        (answer("NotImplemented", 501), StorageError, "Unsupported", ["If-None-Match"]),
        (answer("QuotaExceeded", 403), StorageError, "BucketFull", ["quota"]),
        (answer("SlowDown", 503), StorageError, "Unreachable", ["several attempts"]),
        (answer("InternalError", 500), StorageError, "Unreachable", ["server text"]),
        (answer("Teapot", 418), StorageError, "StorageFailed", ["server text"]),
        (NoCredentialsError(), UserError, "CredentialsMissing", ["credentialsRef"]),
        (ParamValidationError(report="bad name"), UserError, "InvalidUri", ["bad name"]),
        (
            EndpointConnectionError(endpoint_url="http://s3.test:9000"),
            StorageError,
            "Unreachable",
            ["http://s3.test:9000", "DNS"],
        ),
        (
            ConnectTimeoutError(endpoint_url="http://s3.test:9000"),
            StorageError,
            "Unreachable",
            ["network policies"],
        ),
    ],
)
def test_failures_are_told_apart(error, kind, reason, parts):
    got = translate(error, LOCATION, "write")
    assert type(got) is kind
    assert got.reason == reason
    for part in parts:
        assert part in got.message
