"""The real S3 server as a fixture; import ``s3`` into a conftest to use it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import local_s3
from finetune_trainer.storage import ObjectStore, StorageAccess, open_store


@dataclass(kw_only=True)
class SeaweedS3:
    """A running server and Secrets for each of its identities."""

    server: Any
    credentials_dir: Path

    @property
    def endpoint(self) -> str:
        return self.server.endpoint

    @property
    def identities(self) -> dict[str, Any]:
        return self.server.identities

    def client(self, role: str = "admin") -> Any:
        return self.server.client(role)

    def new_uri(self) -> str:
        """Return a prefix of its own in a common bucket; much faster than a new bucket."""
        return f"s3://common/{uuid.uuid4().hex[:12]}"

    def new_bucket(self) -> str:
        """Create a bucket of its own for one test."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def access(self, role: str = "read-write", endpoint: str | None = None) -> StorageAccess:
        """Return the access of a role, by the Secret ``s3-<role>``."""
        return StorageAccess(
            endpoint=endpoint or self.endpoint,
            credentials_dir=self.credentials_dir,
            credentials_name=f"s3-{role}",
        )

    def rotate(self, role: str = "read-write") -> None:
        """Give a role new keys; its Secret still has the old ones."""
        self.server.rotate(role)

    def renew_secret(self, role: str = "read-write") -> None:
        """Bring a role's keys to its Secret, as the kubelet does after a while."""
        self.server.write_credentials(self.credentials_dir, f"s3-{role}", role)

    def open(self, uri: str, role: str = "read-write", endpoint: str | None = None) -> ObjectStore:
        return open_store(uri, self.access(role, endpoint))


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedS3]:
    """A SeaweedFS server for the whole session."""
    credentials = tmp_path_factory.mktemp("secrets")
    with local_s3.start(tmp_path_factory.mktemp("s3"), buckets=("common",)) as server:
        for role in server.identities:
            server.write_credentials(credentials, f"s3-{role}", role)
        yield SeaweedS3(server=server, credentials_dir=credentials)
