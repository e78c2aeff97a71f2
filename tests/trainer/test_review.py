"""What an evaluation leaves for reviewers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from finetune_cli.verify import verify_uri
from finetune_trainer.evaluate.review.files import read_items, read_key
from support.stages import Workbench


def test_an_evaluation_leaves_a_page_for_reviewers_and_its_key_beside_it(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    review = {"sample": 6, "rubric": ["voice", "accuracy"]}
    workbench = undisturbed[0].fork(tmp_path / "run", {"evaluation": {"review": review}})
    shutil.rmtree(workbench.run_folder / "evaluation")
    ended = workbench.run_to("evaluate")
    folder = workbench.run_folder / "evaluation"
    names = {file.path for file in verify_uri(f"file://{folder}").files}
    assert {"review/page.html", "review/items.json", "review/key.json"} <= names
    hidden = read_items((folder / "review/items.json").read_bytes())
    key, facts = read_key((folder / "review/key.json").read_bytes())
    assert hidden.rubric == ("voice", "accuracy")
    assert 0 < len(hidden.items) <= 6
    assert f"{len(hidden.items)} questions wait for 2 reviewer(s): finetune review open" in (
        ended.messages
    )
    lines = (folder / "samples.jsonl").read_text().splitlines()
    samples = {(s["base"], s["tuned"]): s["prompt"] for s in map(json.loads, lines)}
    for item in hidden.items:
        entry = key[item.id]
        compared = entry.compared
        assert samples[compared.base, compared.tuned]
        tuned = item.left if entry.left == "tuned" else item.right
        assert tuned == compared.tuned.strip()
    assert facts["questions"]["asked"] == len(lines)
    page = (folder / "review/page.html").read_text()
    assert hidden.digest in page
    assert "tiny/llama" not in page
