"""The normal form of a path in a container. Compare paths in this form only."""

from __future__ import annotations


def normal_path(path: str) -> str:
    """Return an absolute path without empty segments, ``.`` and a trailing slash.

    The text must be decoded. A leading double slash counts as one, as in the kernel and in
    container runtimes.

    Raises:
        ValueError: The path is relative, has a ``..`` segment, a backslash or a control character.
            The message names the path.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in path):
        raise ValueError(f"{path!r} has a control character")
    if "\\" in path:
        raise ValueError(f"{path!r} has a backslash")
    segments = [segment for segment in path.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise ValueError(f"{path!r} has a '..' segment")
    return "/" + "/".join(segments)


def is_below(path: str, root: str) -> bool:
    """Return whether a path is a root or lies below it; both in their normal form."""
    return root == "/" or path == root or path.startswith(root + "/")
