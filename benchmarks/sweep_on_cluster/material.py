"""What is trained on, and the sweep over it."""

from __future__ import annotations

import copy
import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster_bucket import point_to_bucket, write_example_data
from cluster_place import REPOSITORY, TEAM, Place

EXAMPLE = REPOSITORY / "examples" / "04-three-experiments" / "sweep.yaml"
NUM_INTENTS, ROWS_PER_INTENT = 10, 40
NUM_STEPS, FIRST_RUNG = 90, 10
"""Rungs at a ninth and a third. A trial goes on for some steps while its loss and the decision are
under way, which weigh little only where rungs are some tens of seconds apart."""
PARALLELISM = 2
PARAMETERS = (
    {"path": "hyperparameters.learningRate", "values": ["1e-4", "3e-4", "1e-3", "2e-3"]},
    {"path": "method.adapter.rank", "values": [8, 32]},
)
NUM_TRIALS = 8
POD = {"gpusPerNode": 0, "cpu": "900m", "memory": "4Gi"}
"""Two of them share two cores with the operator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Rows to learn from.

    Attributes:
        words: What they are.
        files: One for each source.
        dataset: ``spec.dataset``; None for the example's.
        goal: ``spec.goal``; None for the example's.
    """

    words: str
    files: Sequence[Path]
    dataset: dict[str, Any] | None = None
    goal: dict[str, Any] | None = None


def read_material(data: Path | None, scratch: Path) -> Material:
    """Return ten intents of banking77, or the headlines of the example where no folder is named.

    Args:
        data: Folder with ``banking77/train.csv``.
        scratch: Folder for the rows that are taken.

    Raises:
        RuntimeError: There is no such file below the folder.
    """
    if data is None:
        return Material(words="headlines of the example", files=write_example_data())
    source = data / "banking77" / "train.csv"
    if not source.is_file():
        raise RuntimeError(
            f"--data {data} holds no banking77/train.csv (columns text and category): name the "
            "folder that banking77 lies in, or leave --data out for the example's own headlines"
        )
    return Material(
        words=f"banking77, {NUM_INTENTS} intents x {ROWS_PER_INTENT}",
        files=[_take_intents(source, scratch / "banking77.csv")],
        dataset={
            "sources": [
                {
                    "format": "Csv",
                    "columns": {"completion": "category"},
                    "template": "Which intent is this banking query? {{ text }}",
                }
            ],
            "split": {"testPercent": 20, "validationPercent": 10},
        },
        goal={"metric": "exactMatch", "atLeast": "0.60", "overBase": "0.30"},
    )


def _take_intents(source: Path, target: Path) -> Path:
    rows: dict[str, list[dict[str, str]]] = defaultdict(list)
    with source.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows[row["category"]].append(row)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        for intent in sorted(rows)[:NUM_INTENTS]:
            writer.writerows(rows[intent][:ROWS_PER_INTENT])
    return target


def sweep_document(
    name: str, place: Place, material: Material, files: Sequence[str], *, stops: bool
) -> dict[str, Any]:
    """Return a sweep of eight trials, two at a time.

    Args:
        name: Its name.
        place: Where it runs.
        material: What it trains on.
        files: URIs of the material's files.
        stops: Whether hopeless trials are stopped; else all are trained to their end.
    """
    document: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    template = document["spec"]["template"]
    template["dataset"] = copy.deepcopy(material.dataset or template["dataset"])
    template["goal"] = material.goal or template["goal"]
    template["hyperparameters"] = {
        "maxSteps": NUM_STEPS,
        "globalBatchSize": 4,
        "maxSequenceLength": 256,
        "seed": 42,
    }
    template["checkpoint"] = {"everySteps": NUM_STEPS // 3, "validateEverySteps": FIRST_RUNG}
    # Asked once, as it is: how the base is asked changes nothing between the two sweeps.
    template["evaluation"] = {"baseline": "AsIs"}
    template["resources"] = dict(POD)
    point_to_bucket(place, template, files)
    stopping = {"method": "Halving", "minSteps": FIRST_RUNG, "reduction": 3}
    document["metadata"] = {"name": name, "namespace": TEAM}
    document["spec"] = {
        "template": template,
        "parameters": [dict(parameter) for parameter in PARAMETERS],
        "search": "Grid",
        "parallelism": PARALLELISM,
        # What is measured here is what halving costs: both sweeps choose by what all trials have.
        "objective": {"metric": "validationLoss"},
        "earlyStopping": stopping if stops else {"method": "None"},
    }
    return document
