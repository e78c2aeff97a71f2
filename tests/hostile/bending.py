"""Ways to write a path that some read as one thing and others as another."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hostile import corpus

Object = dict[str, Any]


def template(body: Object) -> Object:
    """Return the podTemplate of an object, made where there is none."""
    found: Object = body["spec"].setdefault("podTemplate", {})
    return found


_LOOKALIKES = {
    "/": ("\uff0f", "\u2215", "\u2044", "\u29f8"),
    ".": ("\u2024", "\uff0e", "\u3002"),
    "e": ("\u0435",),
    "o": ("\u043e",),
    "a": ("\u0430",),
}


def _slashes(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "/"] or [0]


def _double(rng: Random, path: str) -> str:
    at = rng.choice(_slashes(path))
    return path[:at] + "/" * rng.randint(1, 3) + path[at:]


def _dot(rng: Random, path: str) -> str:
    at = rng.choice(_slashes(path))
    return path[:at] + rng.choice(["/.", "/./.", "/x/..", "/data/..", "/..", "/.//."]) + path[at:]


def _climb(rng: Random, path: str) -> str:
    root = rng.choice(["/data", "/mnt", "/data/shared", "/metrics", "/work"])
    ups = "/.." * (root.count("/") + rng.randint(0, 2))
    return root + ups + path


def _look_alike(rng: Random, path: str) -> str:
    letter = rng.choice([each for each in _LOOKALIKES if each in path] or ["/"])
    return path.replace(letter, rng.choice(_LOOKALIKES[letter]), rng.choice([1, -1]))


def _encode(rng: Random, path: str) -> str:
    at = rng.randrange(len(path))
    code = f"%{ord(path[at]):02{rng.choice('xX')}}"
    return path[:at] + rng.choice([code, code.replace("%", "%25")]) + path[at + 1 :]


def _insert(rng: Random, path: str) -> str:
    at = rng.randrange(len(path) + 1)
    odd = rng.choice(["\0", "\n", "\t", " ", "\\", "\u200b", "\u202e", "\x7f", ":", "${HOME}", "~"])
    return path[:at] + odd + path[at:]


def _swap_case(rng: Random, path: str) -> str:
    return "".join(rng.choice([letter.upper(), letter]) for letter in path)


def _lengthen(rng: Random, path: str) -> str:
    return rng.choice(["/." * 250, "/" * 490, "/data" + "/x/.." * 80]) + path


_CHANGES: tuple[Callable[[Random, str], str], ...] = (
    *(_double, _double, _dot, _climb, _look_alike, _encode, _insert, _swap_case, _lengthen),
    lambda _, path: path + "/",
    lambda _, path: path,
    lambda _, path: "/" + path,
    lambda _, path: path.lstrip("/"),
    lambda _, path: path.replace("/", "\\"),
)


def bent(rng: Random, path: str) -> str:
    """Return a path that some would read as the one given, and others as another."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        path = rng.choice(_CHANGES)(rng, path or "/")
    return path


def hidden(rng: Random) -> str:
    """Return a place that no tenant may mount over."""
    path = rng.choice(corpus.HIDEABLE_PATHS)
    if rng.random() < 0.2:
        path = path.rstrip("/") + "/" + rng.choice(["x", "lib", "token", "sitecustomize.py"])
    return path
