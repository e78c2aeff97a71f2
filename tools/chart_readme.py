"""Write the table of values into the chart's README from the comments of its values.yaml.

``python tools/chart_readme.py`` rewrites it; ``--check`` exits 1 when it is out of date. A comment
that starts with ``# --`` documents the value below it; every value needs one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "charts" / "finetune-operator"
BEGIN = "<!-- values: written by tools/chart_readme.py from values.yaml -->"
END = "<!-- /values -->"
MARK = "# --"


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """One documented value of the chart."""

    path: str
    default: Any
    description: str


class MissingCommentError(Exception):
    """A value has no ``# --`` comment; the message names it and its line."""


def read_values(text: str) -> list[Value]:
    """Return the documented values of a values.yaml, in its order.

    Raises:
        MissingCommentError: A value that is not a group of others has no ``# --`` comment.
    """
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, (), lines))


def _walk(node: yaml.MappingNode, parents: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, value in node.value:
        path = (*parents, key.value)
        description = _comment_above(lines, key.start_mark.line)
        if description:
            default = yaml.load(yaml.serialize(value), Loader=yaml.SafeLoader)
            yield Value(path=".".join(path), default=default, description=description)
        elif isinstance(value, yaml.MappingNode) and value.value:
            yield from _walk(value, path, lines)
        else:
            raise MissingCommentError(
                f"values.yaml:{key.start_mark.line + 1}: {'.'.join(path)} has no comment;"
                f" write '{MARK} what it is for' above it"
            )


def _comment_above(lines: list[str], line: int) -> str:
    comment: list[str] = []
    for text in reversed(lines[:line]):
        stripped = text.strip()
        if not stripped.startswith("#"):
            break
        if stripped.startswith(MARK):
            comment.insert(0, stripped.removeprefix(MARK).strip())
            return " ".join(comment)
        comment.insert(0, stripped.removeprefix("#").strip())
    return ""


def render_table(values: list[Value]) -> str:
    """Render values as a Markdown table."""
    rows = ["| Value | Default | What it is for |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default).replace("|", "\\|")
        description = value.description.replace("|", "\\|")
        rows.append(f"| `{value.path}` | `{default}` | {description} |")
    return "\n".join(rows)


def update(readme: str, table: str) -> str:
    """Put the table between the README's marks."""
    head, _, rest = readme.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def main() -> int:
    """Rewrite the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")
    arguments = parser.parse_args()
    path = CHART / "README.md"
    before = path.read_text()
    after = update(before, render_table(read_values((CHART / "values.yaml").read_text())))
    if after == before:
        return 0
    if arguments.check:
        print(f"{path} is out of date: run python tools/chart_readme.py", file=sys.stderr)
        return 1
    path.write_text(after)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
