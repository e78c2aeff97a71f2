"""Every example of the guide to data formats is read as it says, by the reader itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.v1alpha1.spec.dataset import DatasetFormat, Source
from finetune_trainer.data.rows import Example, RawRow
from finetune_trainer.prepare.reading.examples import open_source
from finetune_trainer.prepare.reading.files.file_types import COMPRESSIONS, EXTENSIONS
from finetune_trainer.prepare.reading.sources import describe_file

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "how-to" / "data-formats.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """What stands below one heading."""

    title: str
    blocks: tuple[tuple[str, str], ...]


def find_sections() -> Iterator[Section]:
    for text in GUIDE.split("\n## ")[1:]:
        yield Section(title=text.partition("\n")[0], blocks=tuple(BLOCK.findall(text)))


SECTIONS = list(find_sections())
EXAMPLES = [section for section in SECTIONS if len(section.blocks) == 2]
SOURCES = [yaml.safe_load(text) for s in SECTIONS for kind, text in s.blocks if kind == "yaml"]


def read(section: Section, folder: Path) -> tuple[str, list[Any]]:
    (kind, data), (_, text) = section.blocks
    path = folder / f"rows.{kind}"
    path.write_text(data, encoding="utf-8")
    (source,) = (Source.model_validate(entry) for entry in yaml.safe_load(text))
    opened = open_source(
        source,
        [describe_file(path, name=path.name)],
        index=0,
        label="",
        conversational=True,
        objective="DPO" if source.format == "Preference" else "SFT",
    )
    assert opened.conversion is not None
    assert opened.recognised is not None
    convert = opened.conversion.build()
    rows = [convert(file, row) if isinstance(row, RawRow) else row for file, row in opened.rows]
    return opened.recognised.format, rows


@pytest.mark.parametrize("section", EXAMPLES, ids=lambda section: section.title)
def test_an_example_is_read_without_a_bad_row(section: Section, tmp_path: Path) -> None:
    _, rows = read(section, tmp_path)
    assert rows
    assert all(isinstance(row, Example) for row in rows), rows


def test_there_is_an_example_of_every_format_and_every_ending(tmp_path: Path) -> None:
    assert {read(section, tmp_path)[0] for section in EXAMPLES} == {
        name for name in DatasetFormat.__args__ if name != "Auto"
    }
    assert all(f"`{ending}`" in GUIDE for ending in (*EXTENSIONS, *COMPRESSIONS))


def test_every_source_of_the_guide_is_valid() -> None:
    assert len(SOURCES) >= len(EXAMPLES)
    for sources in SOURCES:
        for source in sources:
            Source.model_validate(source)


def test_what_the_guide_says_of_answers_is_what_is_learned(tmp_path: Path) -> None:
    (section,) = (s for s in EXAMPLES if s.title == "Answers that are numbers or JSON")
    _, rows = read(section, tmp_path)
    answers = [row.row["completion"][0]["content"] for row in rows]
    assert answers[0] == "5"
    assert f"`{answers[1]}`" in GUIDE
    assert answers[2] == "true"
    (section,) = (s for s in EXAMPLES if s.title.startswith("A table with several columns"))
    _, rows = read(section, tmp_path)
    assert rows[0].row["prompt"][0]["content"] == "Subject: Card\nMessage: I lost it on the train"
