"""What ``finetune validate`` says of one text, by the lines of its file."""

from __future__ import annotations

from pathlib import Path

from finetune_cli.local.validation import judge_file


def judge_text(folder: Path, text: str, *, with_data: bool = False) -> tuple[bool, list[str]]:
    """Return whether the text's one object is valid, and the lines without the file's name."""
    file = folder / "object.yaml"
    file.write_text(text)
    (verdict,) = judge_file(str(file), with_data=with_data)
    return verdict.is_valid, [line.removeprefix(f"{file}:") for line in verdict.lines]
