"""Write every file that is generated from the API models, or check that none has drifted.

``python tools/generate.py`` writes; ``--check`` writes nothing and exits 1 on drift.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "operator"))

from api_reference import render_exit_codes, render_kind, render_reasons  # noqa: E402
from cli_reference import render_cli  # noqa: E402
from finetune_api.crd import CUSTOM_KINDS, CustomKind, build_crd  # noqa: E402

HEADER = (
    "# Generated from operator/finetune_api/v1alpha1/{source} by tools/generate.py.\n"
    "# Do not edit: change the model and run `make generate`.\n"
)
MARKDOWN_HEADER = "<!-- Generated from operator/ by tools/generate.py. Do not edit. -->\n\n"


class _Dumper(yaml.SafeDumper):
    """Writes shared parts of the schema in full: anchors confuse readers and some tools."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def render_files() -> dict[str, str]:
    """Return the generated files: path below the repository, content."""
    files: dict[str, str] = {}
    for custom in CUSTOM_KINDS:
        files[f"charts/finetune-operator/crds/{custom.plural}.yaml"] = _render_crd(custom)
        page = f"docs/reference/{custom.kind.lower()}.md"
        files[page] = MARKDOWN_HEADER + render_kind(custom)
    return files | {
        "docs/reference/cli.md": MARKDOWN_HEADER + render_cli(),
        "docs/reference/exit-codes.md": MARKDOWN_HEADER + render_exit_codes(),
        "docs/reference/reasons.md": MARKDOWN_HEADER + render_reasons(),
    }


def _render_crd(custom: CustomKind) -> str:
    header = HEADER.format(source=custom.source)
    return header + yaml.dump(
        build_crd(custom), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=False
    )


def write_files(root: Path) -> list[str]:
    """Write what differs; return the paths written."""
    written = []
    for name, content in render_files().items():
        path = root / name
        if path.exists() and path.read_text() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        written.append(name)
    return written


def find_drift(root: Path) -> list[str]:
    """Return one unified diff per file that is not what the models say."""
    drift = []
    for name, content in render_files().items():
        path = root / name
        found = path.read_text() if path.exists() else ""
        if found != content:
            diff = difflib.unified_diff(
                found.splitlines(), content.splitlines(), name, f"{name} (generated)", lineterm=""
            )
            drift.append("\n".join(list(diff)[:40]))
    return drift


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 on drift")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="where the files lie")
    options = parser.parse_args(arguments)
    if options.check:
        drift = find_drift(options.root)
        for diff in drift:
            print(diff)
        if drift:
            print(f"{len(drift)} generated file(s) differ: run `make generate`", file=sys.stderr)
        return 1 if drift else 0
    for name in write_files(options.root):
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
