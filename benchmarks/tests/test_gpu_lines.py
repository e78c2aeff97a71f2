"""The GPU table: which lines it has, which are kept, and what keeps a line from being measured."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.gpu.run import (
    Bench,
    Line,
    NotMeasuredError,
    list_lines,
    measure_lines,
    plan_line,
    write_page,
)
from plain_trl import init_options
from recipes import axolotl_config, launch_command

from finetune_trainer.planning.throughput import GPUS

GIB = 2**30


def test_every_combination_is_a_line_of_its_own() -> None:
    lines = list_lines(["llama3-8b", "llama3-70b"], ["ours", "trl"])
    assert len({line.name for line in lines}) == len(lines)
    assert sum(not line.variant for line in lines) == 2 * 3 * 3 * 2 * 2


def test_real_weights_come_first_and_need_a_folder() -> None:
    first = list_lines(["llama3-8b"], ["ours"])[0]
    assert (first.variant, first.method, first.nodes * first.gpus) == ("real", "LoRA", 1)
    bench = Bench(scratch=Path("/scratch"), num_gpus=1, steps=3, seconds=1)
    assert "--weights" in bench.find_obstacle(first)
    real = replace(bench, weights=Path("/models/llama"))
    assert real.find_obstacle(first) == ""
    assert real.folder_of(first) == Path("/models/llama")
    assert real.folder_of(Line(shape="llama3-8b")) == Path("/scratch/llama3-8b")


@pytest.mark.parametrize(
    ("shape", "method", "is_sharded"),
    [
        ("llama3-8b", "LoRA", False),
        ("llama3-8b", "QLoRA", False),
        ("llama3-8b", "Full", True),
        ("llama3-70b", "LoRA", True),
    ],
)
def test_plain_trl_shares_weights_as_ours_does(shape: str, method: str, is_sharded: bool) -> None:
    line = Line(shape=shape, method=method, gpus=8, engine="trl")
    command = launch_command(line, {"rank": "0", "host": "127.0.0.1"})
    assert ("--use_fsdp" in command) == is_sharded


@pytest.mark.parametrize(
    ("method", "library", "options"),
    [
        ("LoRA", "trl", {"dtype": "bfloat16"}),
        ("LoRA", "unsloth", None),
        ("QLoRA", "trl", None),
        ("Full", "trl", None),
    ],
)
def test_plain_trl_holds_a_frozen_base_in_bfloat16(
    method: str, library: str, options: dict[str, str] | None
) -> None:
    assert init_options(Namespace(method=method, library=library)) == options


def test_the_page_has_the_seconds_of_the_start_first() -> None:
    line = Line(shape="tiny")
    measured = {
        "startup_seconds": 41.6,
        "tokens_per_second": 9000.0,
        "peak_bytes": GIB,
        "what": "w",
    }
    page = write_page([line], {line.name: measured}, device="d", gpu=None)
    assert "| line | start-up s | tokens/s |" in page
    assert f"| {line.name} | 42 | 9,000 | - | 1.0 |" in page


def test_a_mixture_of_30_billion_is_planned_on_one_gpu() -> None:
    for method in ("LoRA", "QLoRA"):
        plan = plan_line(Line(shape="qwen3-30b-a3b", method=method, packed=True), GPUS["h100"])
        assert 60 * GIB < plan.recipe.estimated_memory_bytes < 0.85 * GPUS["h100"].memory


def test_a_finished_line_is_kept_and_one_that_cannot_run_here_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(_: Bench, line: Line) -> dict[str, Any]:
        measured.append(line.method)
        if line.method == "Full":
            raise NotMeasuredError("it took longer than the limit of a line")
        return {"tokens_per_second": 5.0}

    monkeypatch.setattr(Bench, "measure", measure)
    monkeypatch.setattr("benchmarks.gpu.run.make_model", lambda *_: 0)
    bench = Bench(scratch=tmp_path, num_gpus=0, steps=3, seconds=1)
    lines = [Line(shape="tiny", method=method) for method in ("LoRA", "QLoRA", "Full")]
    lines += [Line(shape="tiny", gpus=8), Line(shape="tiny", nodes=2, gpus=8)]
    state = tmp_path / "gpu.json"
    for _ in range(2):
        results = measure_lines(bench, lines, state)
    assert measured == ["LoRA", "Full"]
    assert set(json.loads(state.read_text())) == {lines[0].name, lines[2].name}
    failed = [results[line.name].get("failed", "") for line in lines]
    assert failed == [
        "",
        "4-bit weights need a GPU",
        "it took longer than the limit of a line",
        "it takes 8 GPUs of a node, and this one has 0",
        "it takes 2 node(s), and 1 run this (--nodes)",
    ]


def test_an_engine_that_is_not_installed_is_named() -> None:
    bench = Bench(scratch=Path(), num_gpus=1, steps=3, seconds=1)
    assert bench.find_obstacle(Line(shape="tiny", engine="axolotl")) == "axolotl is not installed"


def test_axolotl_gets_the_method_and_the_layout_of_the_line() -> None:
    line = Line(shape="tiny", method="QLoRA", packed=True, engine="axolotl")
    config = axolotl_config(line, Path("/m"), Path("/rows.jsonl"), steps=3)
    assert (config["adapter"], config["load_in_4bit"], config["sample_packing"]) == (
        "qlora", True, True,
    )  # fmt: skip
    assert "adapter" not in axolotl_config(
        Line(shape="tiny", method="Full"), Path("/m"), Path("/rows.jsonl"), steps=3
    )
