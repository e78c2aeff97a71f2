"""Patterns of an administrator's allow-lists, and how a tenant's value is held against them.

``*`` is the only wildcard. It stands for any text without ``/``. A last part ``/*`` or ``/**``
stands for everything below. The bare ``*`` allows all. Host and path, label and value, key and
effect are matched apart, so that no part of a value can pass for another. The chart's admission
policy turns the same patterns into CEL (``templates/_patterns.tpl``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

ALL = "*"
_TEXT = "[^/]*"
_HOST_TEXT = "[^/@:?#]+"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_AUTHORITY = re.compile(r"[a-z0-9._-]+(:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?")


def check_pattern(pattern: str) -> str:
    """Return a pattern of names as it is.

    Raises:
        ValueError: It is empty or has a wildcard other than ``*``.
    """
    if not pattern or set(pattern) & set("?[] \t\r\n"):
        raise ValueError(
            f"{pattern!r} is not a pattern: write a name, in which only '*' stands for any text"
        )
    return pattern


def check_bucket_pattern(pattern: str) -> str:
    """Return a pattern of ``s3://`` URIs as it is.

    Raises:
        ValueError: It names no bucket, or has a detour or a blank.
    """
    if pattern != ALL and (
        not re.fullmatch(r"s3://[^/\s]+(/\S*)?", pattern) or ".." in pattern.split("/")
    ):
        raise ValueError(
            f"{pattern!r} is not a pattern of buckets: write s3://bucket/*, or"
            " s3://bucket/{namespace}/* for a folder of each namespace"
        )
    return pattern


def check_url_pattern(pattern: str) -> str:
    """Return a pattern of URLs as it is.

    Raises:
        ValueError: It has no scheme or a query, a fragment, a user or a blank.
    """
    if pattern != ALL and not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", pattern):
        raise ValueError(
            f"{pattern!r} is not a pattern of URLs: write scheme and host, such as"
            " https://judge.corp/*, without user, query and blanks"
        )
    return pattern


@lru_cache(maxsize=1024)
def _compiled(pattern: str, text: str) -> re.Pattern[str]:
    return re.compile(text.join(re.escape(part) for part in pattern.split("*")))


def _matches_text(text: str, pattern: str, *, wildcard: str = _TEXT) -> bool:
    return _compiled(pattern, wildcard).fullmatch(text) is not None


def _matches_path(path: str, pattern: str, *, or_root: bool = False) -> bool:
    """Match a path; a last part ``*`` or ``**`` is for all below, with ``or_root`` for its root."""
    root, slash, last = pattern.rpartition("/")
    if last not in ("*", "**"):
        return _matches_text(path, pattern)
    num_parts = root.count("/") + 1 if slash else 0
    parts = path.split("/")
    is_deep_enough = len(parts) > num_parts - or_root
    return is_deep_enough and _matches_text("/".join(parts[:num_parts]), root)


def matches_name(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches a pattern: of a service account, a variable, a class."""
    return any(pattern == ALL or _matches_text(name, pattern) for pattern in patterns)


def matches_pair(key: str, value: str | None, patterns: Iterable[str]) -> bool:
    """Return whether a key with its value matches ``key`` (any value) or ``key=value``.

    Args:
        key: Key of a node label, an annotation or a taint.
        value: Its value; None stands for all values, which only a pattern without value allows.
        patterns: The allow-list.
    """
    for pattern in patterns:
        key_pattern, separator, value_pattern = pattern.partition("=")
        if pattern == ALL:
            return True
        if not _matches_text(key, key_pattern):
            continue
        if not separator or (
            value is not None and _matches_text(value, value_pattern, wildcard=".*")
        ):
            return True
    return False


def matches_bucket(uri: str, patterns: Iterable[str]) -> bool:
    """Return whether an ``s3://`` URI matches a pattern, and leads out of no folder."""
    path = uri.removeprefix("s3://").rstrip("/")
    if ".." in unquote(path).split("/"):
        return ALL in patterns
    return any(
        pattern == ALL or _matches_path(path, pattern.removeprefix("s3://"), or_root=True)
        for pattern in patterns
    )


def matches_image(image: str, patterns: Iterable[str]) -> bool:
    """Return whether an image matches a pattern; the registry is matched apart from the path."""
    registry, slash, path = image.partition("/")
    for pattern in patterns:
        if pattern == ALL:
            return True
        registry_pattern, has_path, path_pattern = pattern.partition("/")
        if not has_path or not slash:
            if has_path == slash and _matches_text(image, pattern):
                return True
        elif _matches_text(registry, registry_pattern, wildcard=_HOST_TEXT) and _matches_path(
            path, path_pattern
        ):
            return True
    return False


def matches_url(url: str, patterns: Iterable[str]) -> bool:
    """Return whether a URL matches a pattern: scheme, host, port and path apart.

    A URL with a user, a query, a fragment, a backslash or a ``..`` segment matches nothing but the
    bare ``*``. A pattern that ends in ``/*`` is for what stands before that as well.
    """
    parts = _split_url(url)
    for pattern in patterns:
        if pattern == ALL:
            return True
        scheme, authority, path = _split_pattern(pattern)
        if (
            parts is not None
            and parts[0] == scheme
            and _matches_text(parts[1], authority, wildcard=_HOST_TEXT)
            and _matches_path(parts[2], path, or_root=True)
        ):
            return True
    return False


def _split_url(url: str) -> tuple[str, str, str] | None:
    """Return scheme, host with port, and path; None for what clients may read in several ways."""
    scheme, separator, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    scheme, authority = scheme.lower(), authority.lower()
    if not separator or not _AUTHORITY.fullmatch(authority) or set(url) & set("?#\\@"):
        return None
    if ".." in unquote(path).replace("\\", "/").split("/") or not url.isprintable():
        return None
    return scheme, authority.removesuffix(_DEFAULT_PORTS.get(scheme, "")), path.rstrip("/")


def _split_pattern(pattern: str) -> tuple[str, str, str]:
    scheme, _, rest = pattern.partition("://")
    authority, _, path = rest.partition("/")
    scheme, authority = scheme.lower(), authority.lower()
    return scheme, authority.removesuffix(_DEFAULT_PORTS.get(scheme, "")), path.rstrip("/")
