"""Find sentences that are hard to read: ``python tools/prose.py``.

``prose.toml`` lists patterns, what to write instead, and how many hits each room may have. The
check exits 1 if a room has more; ``--lower`` writes smaller numbers down.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOTS = (
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("docs", "operator", "trainer_image"),
)
COMMENT = re.compile(r"(?:^[ \t]*#.*\n)+|  # .*$", re.MULTILINE)
SENTENCE = re.compile(r"\S.*?(?:[.!?:;](?=\s|$)|\||\n\s*\n|\Z)", re.DOTALL)
NEW_BLOCK = re.compile(r"\s*([-*|#>]|\d+\.)\s")


class Hit(NamedTuple):
    """One sentence that matches a pattern."""

    path: str
    line: int
    sentence: str
    instead: str


def read_python(source: str) -> Iterator[tuple[int, str]]:
    """Yield first line and text of each comment, string and ``def name``."""
    for match in COMMENT.finditer(source):
        yield source.count("\n", 0, match.start()) + 1, match.group().replace("#", " ")
    parts: set[int] = set()  # of f-strings; their parent comes first
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, f"def {node.name}"
        elif isinstance(node, ast.JoinedStr):
            parts |= {id(part) for part in node.values}
            texts = (getattr(part, "value", "") for part in node.values)
            yield node.lineno, "".join(text if isinstance(text, str) else "{}" for text in texts)
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            yield node.lineno, node.value if isinstance(node.value, str) else ""


def read_markdown(source: str) -> Iterator[tuple[int, str]]:
    """Yield first line and text of each paragraph, list item and row outside code blocks."""
    first, block, in_code = 1, "", False
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        fence = line.lstrip().startswith("```")
        in_code ^= fence
        skipped = fence or in_code or not line.strip()
        if skipped or NEW_BLOCK.match(line):
            yield first, block
            block = ""
        if not skipped:
            first = first if block else number
            block += line + "\n"


def find_hits(root: Path, words: dict[str, Any]) -> Iterator[Hit]:
    """Yield the hits in all checked files below a folder, in order."""
    patterns = [(re.compile(find), instead) for find, instead in words["instead"].items()]
    readers = {".py": read_python, ".md": read_markdown}
    files = [path for name in ROOTS for path in [root / name, *sorted((root / name).rglob("*"))]]
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix not in readers or not path.is_file() or name in words["generated"]:
            continue
        for first, text in readers[path.suffix](path.read_text()):
            for match in SENTENCE.finditer(text):
                sentence = " ".join(match.group().split())
                line = first + text[: match.start()].count("\n")
                found = (instead for pattern, instead in patterns if pattern.search(sentence))
                yield from (Hit(name, line, sentence, instead) for instead in [*found][:1])


def main() -> int:
    """Print the hits of rooms that have more than they may, or lower the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--words", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--lower", action="store_true", help="write smaller numbers down")
    parser.add_argument("--all", action="store_true", help="print every hit")
    arguments = parser.parse_args()
    text = arguments.words.read_text()
    words = tomllib.loads(text)
    rooms: dict[str, list[Hit]] = {room: [] for room in words["rooms"]}
    for hit in find_hits(arguments.root, words):
        inside = [room for room in rooms if f"{hit.path}/".startswith(f"{room}/")]
        rooms.setdefault(max(inside, key=len, default=hit.path), []).append(hit)
    failed = False
    for room, hits in rooms.items():
        allowed = words["rooms"].get(room, 0)
        if arguments.all or len(hits) > allowed:
            print(*(f"{h.path}:{h.line}: {h.sentence}: {h.instead}" for h in hits), sep="\n")
        if len(hits) > allowed:
            failed = True
            print(f"{room}: {len(hits)} hits, at most {allowed} allowed: rewrite the newest")
        elif len(hits) < allowed:
            print(f"{room}: {len(hits)} hits, {allowed} allowed: run tools/prose.py --lower")
            text = text.replace(f'"{room}" = {allowed}\n', f'"{room}" = {len(hits)}\n')
    if arguments.lower:
        arguments.words.write_text(text)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
