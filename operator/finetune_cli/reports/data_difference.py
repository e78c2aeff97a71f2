"""Compares two data sets, prepared ones or files that are read as prepare reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli.errors import CliError
from finetune_cli.files.data import read_whole
from finetune_cli.reports.data import REPORT_NAME, fetch_files
from finetune_cli.views.display import printable

if TYPE_CHECKING:
    from finetune_trainer.data.difference import Contents, Difference, Place

NUM_PLACES_SHOWN = 5
NUM_LABELS_SHOWN = 10


def compare_data(
    before: str, after: str, *, endpoint: str | None = None, region: str | None = None
) -> Difference:
    """Compare two data sets, each a local data file or the folder of a prepared data set.

    Raises:
        CliError: One of them cannot be read.
    """
    from finetune_trainer.data.difference import compare

    both = [_read(place, endpoint, region) for place in (before, after)]
    return compare(both[0], both[1])


def describe_difference(difference: Difference) -> str:
    """Write a difference for a terminal."""
    d = difference
    lines = [f"rows           {d.num_before:,} before, {d.num_after:,} after"]
    if d.is_empty:
        return "\n".join([*lines, "no row differs"])
    lines += _named("added", d.num_added, [_place(place) for place in d.added])
    lines += _named("removed", d.num_removed, [_place(place) for place in d.removed])
    changed = [f"{_place(old)} -> {_place(new)}" for old, new in d.changed]
    lines += _named("changed answer", d.num_changed, changed)
    if d.num_moved:
        lines.append(f"other side     {d.num_moved:,}")
    lines.append(f"mean words     {d.words[0]:.1f} before, {d.words[1]:.1f} after")
    if d.labels:
        lines.append("labels (before, after):")
        shown = list(d.labels.items())[:NUM_LABELS_SHOWN]
        lines += [f"  {label}: {old:,}, {new:,}" for label, (old, new) in shown]
        if len(d.labels) > len(shown):
            lines.append(f"  ... and {len(d.labels) - len(shown)} more")
    return printable("\n".join(lines))


def _named(what: str, number: int, places: list[str]) -> list[str]:
    if not number:
        return []
    shown = places[:NUM_PLACES_SHOWN]
    more = ", ..." if number > len(shown) else ""
    return [f"{what:<14} {number:,} ({', '.join(shown)}{more})"]


def _place(place: Place) -> str:
    return f"{place.file}:{place.line}"


def _read(place: str, endpoint: str | None, region: str | None) -> Contents:
    if "://" not in place and Path(place).is_file():
        return _read_file(Path(place))
    if "://" not in place and not Path(place).exists():
        raise CliError(f"{place}: no such file or folder")
    return _read_prepared(place, endpoint, region)


def _read_prepared(uri: str, endpoint: str | None, region: str | None) -> Contents:
    from finetune_trainer.data.difference import Contents, Place
    from finetune_trainer.data.rows import Side
    from finetune_trainer.prepare.checks.labels import label_of

    names = {side: f"{side}.jsonl" for side in Side}
    folder = fetch_files(uri, [REPORT_NAME, *names.values()], endpoint=endpoint, region=region)
    has_labels = bool(json.loads((folder / REPORT_NAME).read_text()).get("labels"))
    contents = Contents()
    for side, name in names.items():
        with (folder / name).open(encoding="utf-8") as lines:
            for line in lines:
                row: dict[str, Any] = json.loads(line)
                metadata = row["metadata"]
                contents.add(
                    row,
                    side=side,
                    place=Place(file=metadata["source"], line=metadata["line"]),
                    label=label_of(row) if has_labels else None,
                )
    return contents


def _read_file(path: Path) -> Contents:
    from finetune_trainer.data.difference import Contents, Place
    from finetune_trainer.data.rows import Side
    from finetune_trainer.prepare.checks.labels import count_labels, label_of

    examples = list(read_whole(path))
    has_labels = bool(count_labels({Side.TRAIN: [example.row for example in examples]}).counts)
    contents = Contents()
    for example in examples:
        contents.add(
            example.row,
            side="",
            place=Place(file=example.file, line=example.line),
            label=label_of(example.row) if has_labels else None,
        )
    return contents
