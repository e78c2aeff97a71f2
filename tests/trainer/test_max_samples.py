"""``evaluation.maxSamples: auto`` from the data set to the verdict, as processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from kit.processes.stages import Workbench, write_rows

HELD_OUT = 100


def test_a_run_asks_as_many_questions_as_its_goal_takes(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    # A low goal and little certainty: 90 questions of the 100 that are held out.
    goal = {"metric": "rougeL", "atLeast": "0.01", "certainty": "0.5"}
    gate = {"name": "file", "metric": "contains", "atLeast": "0", "slice": {"source": "many.jsonl"}}
    change = {
        "goal": goal,
        "evaluation": {"maxSamples": "auto", "baseline": "AsIs", "gates": [gate]},
    }
    data = write_rows(tmp_path / "many.jsonl", num_rows=4 * HELD_OUT)
    workbench = bench(change, data=data)

    prepared = workbench.run_to("prepare")
    chosen = prepared.result["questions"]
    assert prepared.result["rows"]["test"] == HELD_OUT
    assert chosen["number"] == 90
    assert chosen["enough"]
    assert f"{chosen['number']} of 100 held-out questions are asked: goal.atLeast 0.01 takes" in (
        prepared.messages
    )
    assert prepared.termination["result"]["questions"] == chosen

    workbench.run_to("train")
    evaluated = workbench.run_to("evaluate").result
    assert evaluated["numSamples"] == chosen["number"]
    folder = workbench.run_folder / "evaluation"
    assert json.loads((folder / "report.json").read_text())["questions"] == chosen
    assert chosen["message"] in (folder / "report.html").read_text()
    samples = (folder / "samples.jsonl").read_text().splitlines()
    assert len(samples) == chosen["number"]


def test_too_few_held_out_rows_are_told_and_all_are_asked(
    bench: Callable[..., Workbench],
) -> None:
    goal = {"metric": "exactMatch", "atLeast": "0.50"}
    workbench = bench({"goal": goal, "evaluation": {"maxSamples": "auto"}})
    prepared = workbench.run_to("prepare")
    chosen, held_out = prepared.result["questions"], prepared.result["rows"]["test"]
    assert (chosen["number"], chosen["enough"]) == (held_out, False)
    assert f"{held_out} of {held_out} held-out questions are asked, too few: goal.atLeast 0.50" in (
        prepared.messages
    )


def test_a_verdict_names_a_customer_that_has_most_of_the_questions(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    def write(name: str, num_rows: int, num_of_one: int) -> str:
        path = write_rows(tmp_path / name, num_rows=num_rows)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["prompt"] = f"{name}: {row['prompt']}"
            row["customer"] = f"{name} {max(0, number - num_of_one + 1)}"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return f"file://{path}"

    columns = {"group": "customer"}
    sources = [
        {"uri": write("train.jsonl", 24, 1), "columns": columns, "side": "Train"},
        {"uri": write("test.jsonl", 20, 12), "columns": columns, "side": "Test"},
    ]
    change = {
        "dataset": {"sources": sources, "duplicates": {"near": "Keep"}},
        "goal": {"metric": "rougeL", "atLeast": "0.1"},
        "evaluation": {"minPrompts": 1, "baseline": "AsIs"},
        "hyperparameters": {"maxSteps": 2},
    }
    workbench = bench(change)
    workbench.run_to("prepare")
    workbench.run_to("train")
    told = workbench.run_to("evaluate")
    words = "one group alone has 12 of them, more than 5 %"
    assert "The 20 questions are of 9 groups, and each group counts once" in told.result["grouped"]
    assert words in told.result["grouped"]
    assert words in told.messages
    for name in ("report.html", "README.md"):
        assert words in (workbench.run_folder / "evaluation" / name).read_text()
