"""Golden files of rendered objects: one case in full, every other as its difference from that one.

``UPDATE_GOLDEN=1 pytest ...`` writes them anew; read the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from difflib import unified_diff
from pathlib import Path
from typing import Any

import yaml

GOLDEN = Path(__file__).parents[2] / "golden"


class ReadableDumper(yaml.SafeDumper):
    """Writes texts of several lines, such as the job file, as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True


ReadableDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


def dump_objects(objects: Iterable[dict[str, Any]]) -> dict[str, str]:
    return {
        f"{each['kind']} {each['metadata']['name']}": yaml.dump(
            each, Dumper=ReadableDumper, sort_keys=False, width=100
        )
        for each in objects
    }


def check_golden(case: str, base: Path, render: Callable[[Path], Iterable[dict[str, Any]]]) -> None:
    """Compare what a case renders to with its golden file.

    Args:
        case: Name of the folder with ``in.yaml``, beside the base's.
        base: Folder of the case whose output is kept whole.
        render: Renders a case from its folder.
    """
    folder = base.parent / case
    objects = dump_objects(render(folder))
    if folder == base:
        golden, text = folder / "out.yaml", "---\n".join(objects.values())
    else:
        golden, text = folder / "out.diff", _diff(base.name, dump_objects(render(base)), objects)
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def _diff(base_name: str, base: dict[str, str], objects: dict[str, str]) -> str:
    lines: list[str] = []
    for name in [*objects, *sorted(base.keys() - objects.keys())]:
        before, after = (texts.get(name, "").splitlines() for texts in (base, objects))
        lines += unified_diff(before, after, f"{base_name}: {name}", name, n=1, lineterm="")
    return "".join(f"{line}\n" for line in lines)
