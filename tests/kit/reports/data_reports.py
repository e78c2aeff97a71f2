"""Reports of prepared data sets as tests want them, and rows to show."""

from __future__ import annotations

from typing import Any

from finetune_api.protocol.stage_results import RowCounts
from finetune_trainer.data.report import (
    CheckReport,
    DatasetReport,
    FileReport,
    InvalidRow,
    InvalidRows,
    LabelReport,
    LengthBin,
    SourceReport,
    SplitReport,
    TokenReport,
)
from finetune_trainer.prepare.report.samples import Piece, Sample


def report(**change: Any) -> DatasetReport:
    values: dict[str, Any] = {
        "digest": "d" * 64,
        "recipe_version": 3,
        "rows": RowCounts(train=750, validation=50, test=1200),
        "sources": [
            SourceReport(
                files=[
                    FileReport(
                        name="rows.csv",
                        bytes=2048,
                        sha256="a" * 64,
                        encoding="Windows-1252",
                        encoding_reason="a sample",
                        rows=2000,
                    )
                ],
                side="Split",
                format="Csv",
                format_reason="columns text and category",
                rows=2000,
                invalid_rows=2,
            )
        ],
        "invalid_rows": InvalidRows(
            total=2,
            by_reason={"NotCsv": 1, "EmptyAnswer": 1},
            first=[
                InvalidRow(file="rows.csv", line=7, reason="NotCsv", message="m7", snippet="SNIP"),
                InvalidRow(
                    file="rows.csv", line=9, reason="EmptyAnswer", message="m9", snippet="SNIP"
                ),
            ],
        ),
        "checks": [CheckReport.model_construct(
            name="duplicateRows", flagged=1234, removed=12, message="1234 rows repeat another"
        )],
        "split": SplitReport.model_construct(
            test_percent=20, validation_percent=5, seed=13, groups=1990, rows_drawn=2000
        ),
        "max_sequence_length": 128,
        "remedies": ["the template was changed"],
        "tokens": {
            "hf://example/tiny@main": {
                "train": TokenReport(
                    rows=750, tokens=30000, p50=40, p95=90, longest=131, truncated_rows=1,
                    truncated_share="0.0013", rows_without_answer=0, examples=750,
                    histogram=[LengthBin(at_least=0, rows=100), LengthBin(at_least=50, rows=649),
                               LengthBin(at_least=100, rows=1)],
                )
            }
        },
        "trained": {},
        "labels": [LabelReport(label="late", train=700, test=1100),
                   LabelReport(label="lost", train=50, validation=50, test=100)],
        **change,
    }  # fmt: skip
    return DatasetReport.model_construct(**values)


def sample(text: str = "Where is it?") -> Sample:
    pieces = (Piece(text=text, is_learned=False), Piece(text="late<|end|>", is_learned=True))
    return Sample(what="the longest", position=4, num_tokens=20, num_learned=2, pieces=pieces)
