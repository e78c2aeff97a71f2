"""`finetune init` proposes what the stage prepare takes, or says at once what it would refuse."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.models.tiny_tokenizer import make_tokenizer
from kit.processes.cli import Cli

WORDS = [
    "lamp",
    "stone",
    "river",
    "cloud",
    "horse",
    "paper",
    "glass",
    "metal",
    "wood",
    "bread",
    "salt",
    "wine",
    "milk",
    "snow",
    "fire",
]
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, use_fake_trainer=False)


def write_rows(folder: Path, number: int) -> None:
    """Write pairs that have little in common."""
    rng = random.Random(7)
    rows = [
        {"prompt": " ".join(rng.sample(WORDS, 7)), "completion": " ".join(rng.sample(WORDS, 9))}
        for _ in range(number)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_enough_prompts_are_held_out_of_few_rows(cli: Cli) -> None:
    write_rows(cli.folder, 130)
    done = cli("init", "--data", "rows.jsonl")
    assert (done.code, done.err) == (0, "")
    job = yaml.safe_load((cli.folder / "job.yaml").read_text())
    assert job["spec"]["dataset"]["split"]["testPercent"] == 25
    done = cli("validate", "--data", "job.yaml")
    assert done.code == 0, done.out


@pytest.mark.parametrize(("number", "at_least"), [(200, "0.80"), (1500, "0.90")])
def test_the_goal_is_one_that_the_held_out_rows_can_show(
    cli: Cli, number: int, at_least: str
) -> None:
    rng = random.Random(7)
    rows = [
        {"text": " ".join(rng.sample(WORDS, 9)), "label": ("late", "lost", "paid", "other")[n % 4]}
        for n in range(number)
    ]
    (cli.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = cli("init", "--data", "rows.jsonl")
    assert done.code == 0, done.err
    text = (cli.folder / "job.yaml").read_text()
    assert yaml.safe_load(text)["spec"]["goal"]["atLeast"] == at_least
    assert ("# 0.90 is too high for 40 test rows" in text) == (at_least != "0.90")


def test_too_few_rows_are_told_at_once_with_the_number_needed(cli: Cli) -> None:
    write_rows(cli.folder, 40)
    done = cli("init", "--data", "rows.jsonl")
    assert "TooFewHeldOutPrompts" in done.err
    assert "At least 60 groups are needed to hold out 30 prompts" in done.err
    assert (done.code, done.out.splitlines()[-1]) == (
        0,
        "wrote job.yaml; it will be refused until TooFewHeldOutPrompts is mended; check it with: "
        "finetune validate --data job.yaml",
    )
    assert (cli.folder / "job.yaml").exists()


def test_a_template_that_drops_the_tools_of_rows_is_told_at_once(cli: Cli) -> None:
    def talk(n: int) -> dict[str, Any]:
        turns = [("user", f"Where is parcel {n}?"), ("assistant", f"In town {n}.")]
        return {"tools": TOOLS, "messages": [{"role": r, "content": text} for r, text in turns]}

    lines = [json.dumps(talk(n)) + "\n" for n in range(200)]
    (cli.folder / "rows.jsonl").write_text("".join(lines))
    make_tokenizer().save_pretrained(cli.folder / "model")
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300}
    (cli.folder / "model" / "config.json").write_text(json.dumps(config))
    done = cli("init", "--data", "rows.jsonl", "--model", "model")
    assert "(TemplateDropsTools)" in done.err
    assert "until TemplateDropsTools is mended" in done.out
    assert done.out.endswith("finetune validate --data --with-model job.yaml\n")
    done = cli("init", "--data", "rows.jsonl", "--model", "nowhere", "--force")
    assert "the model's chat template was not read" in done.err
    done = cli("init", "--data", "rows.jsonl", "--force")
    proposed = yaml.safe_load((cli.folder / "job.yaml").read_text())["spec"]["model"]["uri"]
    assert proposed == "hf://Qwen/Qwen2.5-0.5B-Instruct"


def test_fields_that_are_left_out_are_named(cli: Cli) -> None:
    row = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "why": "it is far more polite"}
    (cli.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(3)))
    done = cli("init", "--data", "rows.jsonl")
    assert "chosen is better than rejected, left out: why" in done.out


def test_a_folder_of_texts_is_proposed_whole_and_its_empty_files_are_told(cli: Cli) -> None:
    (cli.folder / "notes" / ".venv").mkdir(parents=True)
    (cli.folder / "notes" / ".venv" / "licence.txt").write_text("no note")
    (cli.folder / "notes" / "none.md").write_text("---\ntitle: none\n---\n")
    write_rows(cli.folder, 70)
    for n, line in enumerate((cli.folder / "rows.jsonl").read_text().splitlines()):
        (cli.folder / "notes" / f"{n}.txt").write_text(json.loads(line)["completion"])
    done = cli("init", "--data", "notes")
    assert (done.code, done.err) == (0, "")
    assert "format Text (from 70 rows)" in done.out
    done = cli("data", "inspect", "notes")
    assert "these files have no text to learn: none.md" in done.out
    assert "and 61 more" in done.out
