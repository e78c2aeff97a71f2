"""Endpoint and credentials of a store.

Credentials are mounted files, one per key: ``<credentials_dir>/<credentials_name>/<key>``. No
message shows a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_trainer.errors import UserError

Addressing = Literal["Auto", "Path", "Virtual"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageAccess:
    """Everything except the URI that is needed to open a store.

    Attributes:
        endpoint: URL of an S3 compatible server; None means AWS.
        region: Signing region; None means the client's default, ``us-east-1`` with an endpoint.
        addressing: ``Auto``: path style with an endpoint, virtual-host style on AWS.
        credentials_dir: Folder with one sub-folder per Secret; None when nothing is mounted.
        credentials_name: The Secret; None for the client's own chain.
    """

    endpoint: str | None = None
    region: str | None = None
    addressing: Addressing = "Auto"
    credentials_dir: Path | None = None
    credentials_name: str | None = None

    @property
    def has_secret(self) -> bool:
        """Whether credentials come from a mounted Secret; a local run has none mounted."""
        return self.credentials_dir is not None and self.credentials_name is not None

    def describe_credentials(self) -> str:
        """Say in words where the credentials come from, for messages."""
        if self.has_secret:
            return f"Secret {self.credentials_name!r}"
        return "the default credential chain (environment, profile, instance role)"

    def credentials_remedy(self) -> str:
        """Return the remedy for missing credentials, on a cluster or on one machine."""
        if self.credentials_dir is None:
            return (
                "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on this machine, or run `aws "
                "configure`; a credentialsRef is read on a cluster only. To keep results here "
                "instead, write output: {uri: file://./out}."
            )
        return "Name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in credentialsRef."

    def read_credential(self, key: str) -> str:
        """Read one key of the mounted Secret.

        Raises:
            UserError: ``CredentialsMissing``; names the Secret and the key.
        """
        value = self.read_optional_credential(key)
        if value is None:
            raise UserError(
                "CredentialsMissing",
                f"Secret {self.credentials_name!r} has no key {key!r} (looked for "
                f"{self._file_of(key)}). Add the key to the Secret, or name another Secret in "
                "credentialsRef.",
            )
        return value

    def read_optional_credential(self, key: str) -> str | None:
        """Read one key of the mounted Secret, or None when it is absent or empty."""
        if not self.has_secret:
            return None
        try:
            # A trailing newline is the most common fault of a Secret made from a file.
            return self._file_of(key).read_text(encoding="utf-8").strip() or None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                "CredentialsUnreadable",
                f"Cannot read key {key!r} of Secret {self.credentials_name!r} at "
                f"{self._file_of(key)}: {type(error).__name__}. It must be a readable text file.",
            ) from error

    def _file_of(self, key: str) -> Path:
        assert self.credentials_dir is not None and self.credentials_name is not None  # noqa: PT018
        return self.credentials_dir / self.credentials_name / key


def mask(identifier: str) -> str:
    """Mask an access key id: only its owner recognises it."""
    return f"{identifier[:4]}****" if len(identifier) > 8 else f"{identifier[:2]}****"
