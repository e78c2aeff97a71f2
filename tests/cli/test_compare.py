"""`finetune compare` as a person runs it, over runs on this machine."""

from __future__ import annotations

import json
from pathlib import Path

from kit.processes.cli import Cli
from kit.reports.experiment_runs import Made, write_run


def test_runs_of_a_folder_are_compared_in_words_json_and_a_page(tmp_path: Path) -> None:
    for made in (Made(name="a", accuracy=0.7), Made(name="b", accuracy=0.9, rank=16)):
        write_run(tmp_path, made)
    cli = Cli(tmp_path, use_fake_trainer=False)
    done = cli("compare", "runs", "--html", "page.html", "-o", "json", "--gpu-hour-price", "2.5")
    assert done.code == 0, done.err
    wire = json.loads(done.out)
    assert [run["cost"] for run in wire["runs"]] == [2.5, 2.5]
    assert wire["differences"][0]["better"] == "b"
    assert done.err == "wrote page.html\n"
    assert "2 runs side by side" in (tmp_path / "page.html").read_text()
    words = cli("compare", "runs/default/a", "runs/default/b", "--against", "b")
    assert "method.adapter.rank   8   16" in words.out, words.err
    assert "a - b" in words.out


def test_what_cannot_be_done_is_said_before_anything_is_read(tmp_path: Path) -> None:
    cli = Cli(tmp_path, use_fake_trainer=False)
    done = cli("compare", "nothing/here", "--html", "no/such/page.html")
    assert (done.code, done.err) == (
        64,
        "error: --html no/such/page.html: there is no folder no/such\n",
    )
