"""Fixtures of the storage tests against a real server."""

from __future__ import annotations

from kit.servers.seaweedfs import s3

__all__ = ["s3"]
