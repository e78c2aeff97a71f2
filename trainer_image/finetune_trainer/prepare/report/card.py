"""``README.md`` of a prepared data set: a dataset card.

Croissant needs licence, creator and date, which this stage does not know.
"""

from __future__ import annotations

import json

from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.prepare.report.page import describe_labels

CARD_NAME = "README.md"
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
# Source: hub-docs, datasetcard.md (`configs`, `size_categories`).


def render_card(report: DatasetReport) -> str:
    """Render the card; the same report gives the same text."""
    rows = report.rows
    numbers = {Side.TRAIN: rows.train, Side.VALIDATION: rows.validation, Side.TEST: rows.test}
    total = sum(numbers.values())
    size = next((name for below, name in _SIZES if total < below), "10M<n<100M")
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for side, number in numbers.items():
        if number:
            lines += [f"  - split: {side}", f"    path: {side}.jsonl"]
    lines += ["size_categories:", f"- {json.dumps(size)}", "---", ""]
    lines += [f"# Data set {report.digest[:12]}", ""]
    lines += [f"Version `{report.digest}`, made by recipe {report.recipe_version} from:", ""]
    for source in report.sources:
        for file in source.files:
            name = file.name.replace("`", "'")
            lines.append(f"- `{name}` ({file.rows:,} rows, sha256 `{file.sha256}`)")
    lines += ["", "| side | rows | file |", "|---|---:|---|"]
    lines += [f"| {side} | {number:,} | {side}.jsonl |" for side, number in numbers.items()]
    lines += [
        "",
        "A row holds `messages`, or `prompt` and `completion`, or `text`; `metadata` says which",
        "file and line it comes from, and which rows belong together (`group`).",
        "",
        f"{report.invalid_rows.total:,} rows could not be used. What was found and changed is in",
        "`report.html`, for machines in `report.json`; `manifest.json` holds the checksum of every",
        "file.",
    ]
    if report.labels:
        lines += ["", describe_labels(report.labels)]
    return "\n".join(lines) + "\n"
