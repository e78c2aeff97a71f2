"""`finetune compare` as a person runs it, over runs on this machine."""

from __future__ import annotations

import json
from pathlib import Path

from kit.processes.cli import Cli
from kit.reports.experiment_runs import Made, write_run


def test_runs_of_a_folder_are_compared_in_words_and_json(tmp_path: Path) -> None:
    for made in (Made(name="a", accuracy=0.7), Made(name="b", accuracy=0.9, rank=16)):
        write_run(tmp_path, made)
    cli = Cli(tmp_path, use_fake_trainer=False)
    done = cli("compare", "runs", "-o", "json", "--gpu-hour-price", "2.5")
    assert done.code == 0, done.err
    wire = json.loads(done.out)
    assert [run["cost"] for run in wire["runs"]] == [2.5, 2.5]
    assert wire["differences"][0]["better"] == "b"
    gone = cli("compare", "runs", "--html", "page.html")
    assert gone.code == 2
    assert "No such option: --html; write -o json" in gone.err
    words = cli("compare", "runs/default/a", "runs/default/b", "--against", "b")
    assert "method.adapter.rank   8   16" in words.out, words.err
    assert "a - b" in words.out
