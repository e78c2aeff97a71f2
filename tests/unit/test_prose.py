"""The check of prose: which sentences it finds, numbers that only fall, and the glossary."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "prose.py"
GLOSSARY = TOOL.parents[1] / "docs" / "glossary.md"
WORDS = """generated = ["docs/reference/cli.md"]
[instead]
'\\btold\\b' = "reports"
'^def tell' = "set_condition"
[rooms]
"docs" = 1
"""


def check(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = root / "words.toml"
    if not words.exists():
        words.write_text(WORDS)
    command = [sys.executable, str(TOOL), "--root", str(root), "--words", str(words), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""Names it.\n\nIt is\ntold.\n"""\n', 3),
        ("x = 1\n# One fact.\n# It is told.\n", 3),
        ("x = 1  # it is told\n", 1),
        ('x = 1\ny = f"{x} is told"\n', 2),
        ("x = 1\ndef tell_it(): ...\n", 2),
    ],
)
def test_hits_in_python_are_named_by_line(tmp_path: Path, source: str, line: int) -> None:
    write(tmp_path, "operator/module.py", source)
    result = check(tmp_path)
    assert result.returncode == 1
    assert f"operator/module.py:{line}: " in result.stdout


def test_code_blocks_and_generated_pages_are_not_prose(tmp_path: Path) -> None:
    write(tmp_path, "docs/page.md", "```\nit is told\n```\n\nIt reports.\n")
    write(tmp_path, "docs/reference/cli.md", "It is told.\n")
    assert "docs: 0 hits" in check(tmp_path).stdout


def test_a_sentence_counts_once_and_a_row_ends_one(tmp_path: Path) -> None:
    write(tmp_path, "docs/page.md", "It is told and told.\nIt reports.\n\n| told | told |\n")
    result = check(tmp_path)
    assert "docs: 3 hits, at most 1 allowed" in result.stdout
    assert "docs/page.md:4: " in result.stdout


def test_a_folder_without_a_number_may_have_no_hit(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "It is told.\n")
    result = check(tmp_path)
    assert result.returncode == 1
    assert "README.md: 1 hits, at most 0 allowed" in result.stdout


def test_numbers_fall_and_never_rise(tmp_path: Path) -> None:
    write(tmp_path, "docs/page.md", "It reports.\n")
    assert "run tools/prose.py --lower" in check(tmp_path).stdout
    check(tmp_path, "--lower")
    write(tmp_path, "docs/page.md", "It is told.\n")
    assert check(tmp_path, "--lower").returncode == 1
    assert '"docs" = 0\n' in (tmp_path / "words.toml").read_text()


def test_the_glossary_has_forty_words_at_most_and_names_what_the_code_has() -> None:
    root = TOOL.parents[1]
    rows = re.findall(r"^\| ([a-z][^|]*) \| .* \| `(\w+)` \|$", GLOSSARY.read_text(), re.MULTILINE)
    words = [word for word, _ in rows]
    assert 0 < len(words) <= 40
    assert words == sorted(set(words))
    sources = [
        path.read_text()
        for folder in ("operator", "trainer_image")
        for path in (root / folder).rglob("*.py")
    ]
    found = set(re.findall(r"\w+", "\n".join(sources)))
    assert [name for _, name in rows if name not in found] == []
