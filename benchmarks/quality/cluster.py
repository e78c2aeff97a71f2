"""The two real data sets through a real Kubernetes: one goal met, one missed, pages to look at.

banking77 (77 intents, 20 rows each) asks what it reaches and is published; e2e asks for more than
it reaches and is held back with the reason. The base is asked in every way it can be. Each job's
status, description and report are written to ``--out``, and a table is printed. The cluster is the
dev cluster, or the current context as `make cluster-demo` takes it.

Usage: python benchmarks/quality/cluster.py [--data DIR] [--only CASE] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from benchmarks.quality.run import ANSWER_TOKENS, CASES, DEFAULT_DATA  # noqa: E402

import base_model  # noqa: E402
from cluster_bucket import (  # noqa: E402
    BUCKET,
    SECRET,
    give_credentials,
    open_bucket,
    upload_data,
    upload_model,
)
from cluster_chart import install_chart  # noqa: E402
from cluster_place import TEAM, Place, find_place, follow  # noqa: E402
from finetune_trainer.storage import ObjectStore, StorageAccess, open_store  # noqa: E402

GOALS = {
    "banking77": {"metric": "exactMatch", "atLeast": "0.50", "overBase": "0.20"},
    "e2e": {"metric": "rougeL", "atLeast": "0.60", "overBase": "0.10"},
}
"""What banking77 reaches (0.59 here) and e2e does not (0.50)."""
EXPECTED = {"banking77": "Succeeded", "e2e": "Failed"}


def main() -> int:
    """Run the jobs one after the other; exit code 1 where one ended otherwise than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("FINETUNE_BENCHMARK_DATA") or DEFAULT_DATA
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "data-sets-on-cluster")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        print(f"skipped: no data sets in {arguments.data} (see --help)")
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    place = find_place()
    install_chart(place)
    store = open_bucket(place)
    upload_model(store)
    results = [
        run_case(place, store, name, arguments.data, arguments.out)
        for name in ([arguments.only] if arguments.only else CASES)
    ]
    print_table(results)
    return 0 if all(r["phase"] == EXPECTED[r["data"]] for r in results) else 1


def run_case(place: Place, store: ObjectStore, name: str, data: Path, out: Path) -> dict[str, Any]:
    """Apply the job of one data set, follow it to its end and keep its pages."""
    table = out / f"{name}.csv"
    columns = CASES[name][0](data, table)
    upload_data(store, [table])
    job = f"{name}-{time.strftime('%H%M%S')}"
    give_credentials(place)
    document = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": job, "namespace": TEAM},
        "spec": job_spec(name, columns, place.endpoint),
    }
    began = time.monotonic()
    place.apply(document)
    status = follow(place, "ftj", job)
    seconds = time.monotonic() - began
    (out / f"{name}.status.json").write_text(json.dumps(status, indent=2))
    described = place.run_kubectl("-n", TEAM, "describe", "ftj", job)
    (out / f"{name}.describe.txt").write_text(described)
    report = keep_report(place, status["evaluation"]["reportUri"], out, name)
    return {
        "data": name,
        "phase": status["phase"],
        "message": status["evaluation"]["message"],
        "seconds": seconds,
        "score": next(s for s in report["result"]["scores"] if s["name"] == GOALS[name]["metric"]),
        "rows": report["result"]["numSamples"],
    }


def job_spec(name: str, columns: dict[str, Any], endpoint: str) -> dict[str, Any]:
    """Return the spec: every default but the length of answers, and a side to test on."""
    bucket, reference = f"s3://{BUCKET}", {"credentialsRef": {"name": SECRET}}
    source = {"uri": f"{bucket}/data/{name}.csv", "format": "Csv", **reference, **columns}
    return {
        "goal": GOALS[name],
        "model": {"uri": f"{bucket}/model", "name": base_model.NAME, **reference},
        "dataset": {
            "sources": [source],
            "split": {"testPercent": 20, "validationPercent": 0},
        },
        "hyperparameters": {"epochs": "1", "maxSequenceLength": 256, "seed": 42},
        "evaluation": {"maxNewTokens": ANSWER_TOKENS[GOALS[name]["metric"]]},
        "output": {"uri": f"{bucket}/models", **reference},
        "s3": {"endpoint": endpoint},
        "resources": {"gpusPerNode": 0},
    }


def keep_report(place: Place, uri: str, out: Path, name: str) -> dict[str, Any]:
    """Write the report's page to ``out``; return what it is made from."""
    folder = uri.rpartition("/")[0]
    store = open_store(folder, StorageAccess(endpoint=place.endpoint))
    (out / f"{name}.report.html").write_bytes(store.read_bytes("report.html"))
    report: dict[str, Any] = json.loads(store.read_bytes("report.json"))
    return report


def print_table(results: list[dict[str, Any]]) -> None:
    """Print what each way of asking the base gave, and how the job ended."""
    print(f"\n{date.today()}, {os.cpu_count()} cores, one epoch, SmolLM2-135M-Instruct\n")
    print("| data | rows | metric | base, by way of asking | tuned (95 %) | ended | s |")
    print("|---|---|---|---|---|---|---|")
    for r in results:
        score = r["score"]
        ways = ", ".join(f"{w['asked']} {w['value']}" for w in score.get("baselines") or [])
        print(
            f"| {r['data']} | {r['rows']} | {score['name']} | {ways or score['base']} | "
            f"{score['tuned']} ({score['tunedLow']}-{score['tunedHigh']}) | {r['phase']} | "
            f"{r['seconds']:.0f} |"
        )
    for r in results:
        print(f"\n{r['data']}: {r['message']}")


if __name__ == "__main__":
    sys.exit(main())
