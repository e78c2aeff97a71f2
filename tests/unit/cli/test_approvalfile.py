"""``finetune validate`` of a FineTuneApproval: what ``finetune approve -o yaml`` prints for Git."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_cli.cluster.approval import make_approval
from finetune_cli.files.documents import to_yaml
from kit.reports.judged_text import judge_text

GOOD = to_yaml(
    make_approval(
        job="headlines",
        namespace="team-a",
        digest="d" * 64,
        user="rita@example.org",
        is_approval=False,
        reason="rows of last year",
    )
)


def test_a_decision_printed_for_git_is_valid(tmp_path: Path) -> None:
    is_valid, (line,) = judge_text(tmp_path, GOOD, with_data=True)
    assert is_valid, line
    assert line.startswith(" headlines-rejected-dddddddd-")
    assert line.endswith(" is valid")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("decision: Rejected", "decision: Nay", '10: spec.decision: Unsupported value: "Nay"'),
        ("reason: rows of last year", "reason: ''", "12: spec.reason: Invalid value: \"\": reason"),
        ("digest: d", "digest: x", "9: spec.digest: Invalid value: "),
        ("by: rita", "who: rita", "11: spec.who: unknown field"),
        ("job: headlines", "job: Headlines", '7: spec.job: Invalid value: "Headlines": must be'),
        ("name: headlines", "name: Headlines", "4: metadata.name: Invalid value: "),
        ("apiVersion: finetune.dev/v1alpha1\n", "", "1: apiVersion: Required value"),
    ],
    ids=lambda text: text.strip()[:30],
)  # fmt: skip
def test_what_the_api_server_would_refuse_is_told_by_place(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    is_valid, lines = judge_text(tmp_path, GOOD.replace(old, new, 1), with_data=True)
    assert not is_valid
    assert any(line.startswith(expected) for line in lines), lines
    assert not any("spec.model" in line for line in lines), lines


def test_a_decision_without_a_name_is_told_so(tmp_path: Path) -> None:
    head, _, tail = GOOD.partition("  name: ")
    text = f"{head}  name: ''\n{tail.partition(chr(10))[2]}"
    is_valid, lines = judge_text(tmp_path, text, with_data=True)
    assert not is_valid
    assert any(line.startswith("4: metadata.name: Invalid value: ") for line in lines), lines
