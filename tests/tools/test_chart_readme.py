"""The table of the chart's values is written from their comments; `--check` keeps it true."""

from __future__ import annotations

import pytest

from chart_readme import MissingCommentError, read_values


def test_a_value_without_comment_is_named() -> None:
    with pytest.raises(MissingCommentError, match=r"values.yaml:4: a\.c has no comment"):
        read_values("a:\n  b: 1\n  c: 1\n".replace("  b", "  # -- documented\n  b"))
