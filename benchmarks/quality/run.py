"""Quality on real data: ``finetune run`` beside a hand-written TRL script at its best setting.

Both take the same rows and recipe; the script trains without padding and without recomputation,
and generates answers of the same length. Both score the base and the tuned model; what the base
took in the script is told apart. With ``--defaults`` the job leaves all that can be left to the
product, and alone is run: its evaluation should take at most a quarter of its time.

Needs the data sets banking77 (Casanueva et al. 2020, CC BY 4.0) and e2e (Novikova et al. 2017,
CC BY-SA 4.0) in one folder: ``--data DIR`` or FINETUNE_BENCHMARK_DATA.

Usage: python benchmarks/quality/run.py [--data DIR] [--only CASE] [--seeds 42 43] [--skip-plain]
    [--defaults] [--dropout 0.05]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from base_model import NAME, ensure_model  # noqa: E402

DEFAULT_DATA = ROOT.parent / "shared" / "data"
ROWS_PER_INTENT, NUM_FACTS = 20, 550
STAGES = ("prepare", "train", "evaluate")
SHARE = 0.25
"""Bar: of a job's time at defaults, that of its evaluation."""
ANSWER_TOKENS = {"exactMatch": 24, "rougeL": 96}


def write_banking77(source: Path, target: Path) -> dict[str, Any]:
    """All 77 intents, twenty rows each; return the source of the job."""
    with (source / "banking77/train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        if taken[row["category"]] < ROWS_PER_INTENT:
            taken[row["category"]] += 1
            kept.append(row)
    _write(target, kept, ["text", "category"])
    return {
        "template": "Which intent is this banking query? {{ text }}",
        "columns": {"completion": "category"},
    }


def write_e2e(source: Path, target: Path) -> dict[str, Any]:
    """About 550 facts, one reference each; a meaning is one group."""
    with (source / "e2e/devset.csv").open(newline="") as file:
        rows = list({row["mr"]: row for row in csv.DictReader(file)}.values())[:NUM_FACTS]
    _write(target, rows, ["mr", "ref"])
    return {
        "template": "Describe this restaurant in one or two sentences: {{ mr }}",
        "columns": {"completion": "ref", "group": "mr"},
    }


CASES = {
    "banking77": (write_banking77, "exactMatch", {"overBase": "0.20"}),
    "e2e": (write_e2e, "rougeL", {"overBase": "0.20"}),
}


def run_case(
    name: str, data: Path, scratch: Path, *, seed: int, plain: bool, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Run one data set through the product and, if asked, through the plain script."""
    scratch = scratch / str(seed)
    scratch.mkdir(exist_ok=True)
    write, metric, goal = CASES[name]
    table = scratch / f"{name}.csv"
    source = write(data, table)
    model = ensure_model()
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "goal": {"metric": metric, **goal},
            "model": {"uri": f"file://{model}", "name": NAME},
            "dataset": {
                "sources": [{"uri": f"file://{table}", "format": "Csv", **source}],
                "split": {"testPercent": 20, "validationPercent": 0},
            },
            "hyperparameters": {**recipe.get("hyperparameters", {}), "seed": seed},
            "evaluation": recipe.get("evaluation", {}),
            "method": recipe.get("method", {}),
            "output": {"uri": f"file://{scratch}/{name}-out"},
            "resources": {"gpusPerNode": 0},
        },
    }
    path = scratch / f"{name}.json"
    path.write_text(json.dumps(job))
    spent = cpu_seconds()
    seconds = run_stages(path, scratch / f"{name}-work")
    spent = cpu_seconds() - spent
    report = json.loads(next((scratch / f"{name}-out").rglob("evaluation/report.json")).read_text())
    record = json.loads(next((scratch / f"{name}-out").rglob("adapter/run.json")).read_text())
    score = next(s for s in report["result"]["scores"] if s["name"] == metric)
    result = {
        "data": name, "metric": metric, "base": float(score["base"]),
        "ours": float(score["tuned"]), "low": score["tunedLow"], "high": score["tunedHigh"],
        "questions": report["result"]["numSamples"], "seed": seed,
        "seconds": seconds["all"], "train_seconds": seconds["train"],
        "share": seconds["evaluate"] / seconds["all"],
        "cpu_seconds": spent,
    }  # fmt: skip
    print(json.dumps(result), flush=True)
    if plain:
        settled = scratch / f"{name}-recipe.json"
        settled.write_text(json.dumps(record["recipe"]))
        prepared = next((scratch / f"{name}-out" / "datasets").iterdir())
        began = time.monotonic()
        spent = cpu_seconds()
        output = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("plain_trl.py")), "--model", str(model),
             "--data", str(prepared), "--recipe", str(settled), "--metric", metric,
             "--max-new-tokens", str(ANSWER_TOKENS[metric]), "--seed", str(seed)],
            check=True, stdout=subprocess.PIPE, text=True,
        ).stdout  # fmt: skip
        measured = json.loads(output.strip().splitlines()[-1])
        result["plain"] = measured["score"]
        result["plain_base"] = measured["base_score"]
        result["plain_train_seconds"] = measured["train_seconds"]
        result["plain_base_seconds"] = measured["base_seconds"]
        result["plain_seconds"] = time.monotonic() - began
        result["plain_cpu_seconds"] = cpu_seconds() - spent
        print(json.dumps(result), flush=True)
    return result


def recipe_of(name: str) -> dict[str, Any]:
    """Return what both sides are told: one epoch, and the base asked once, as the script does."""
    return {
        "hyperparameters": {"epochs": "1", "maxSequenceLength": 256},
        "evaluation": {"maxNewTokens": ANSWER_TOKENS[CASES[name][1]], "baseline": "AsIs"},
    }


def cpu_seconds() -> float:
    """Return the processor time of all ended children; other work beside them changes it little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_stages(job: Path, work: Path) -> dict[str, float]:
    """Run the job; returns the seconds of each stage and of all of it.

    Raises:
        SystemExit: The run failed; a missed goal is no failure.
    """
    began = time.monotonic()
    command = [sys.executable, "-m", "finetune_cli", "run", str(job), "-o", "json"]
    code = subprocess.run(
        [*command, "--work-dir", str(work)], stdout=subprocess.DEVNULL, check=False
    ).returncode
    ended = time.time()
    if code not in (0, 1):
        raise SystemExit(f"{job.stem}: finetune run ended with {code}")
    starts = [read_start(next(work.rglob(f"{stage}.log"))) for stage in STAGES]
    ends = [*starts[1:], ended]
    return {
        **{s: end - start for s, start, end in zip(STAGES, starts, ends, strict=True)},
        "all": time.monotonic() - began,
    }


def read_start(log: Path) -> float:
    """Return when a stage began, in seconds since the epoch, as its log's first line says."""
    stamp = log.read_text().split(maxsplit=2)[1]
    return datetime.fromisoformat(stamp).timestamp()


def main() -> int:
    """Run the cases and print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("FINETUNE_BENCHMARK_DATA") or DEFAULT_DATA
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--skip-plain", action="store_true")
    parser.add_argument("--defaults", action="store_true", help="leave all to the product")
    parser.add_argument("--dropout", help="of the product's adapter, with --skip-plain")
    arguments = parser.parse_args()
    defaults, dropout = arguments.defaults, arguments.dropout
    method = {"method": {"adapter": {"dropout": dropout}}} if dropout else {}
    if not arguments.data.exists():
        print(f"skipped: no data sets in {arguments.data} (see --help)")
        return 0
    with tempfile.TemporaryDirectory(prefix="finetune-quality-") as scratch:
        results = [
            run_case(
                name,
                arguments.data,
                Path(scratch),
                seed=seed,
                plain=not arguments.skip_plain and not defaults,
                recipe=({} if defaults else recipe_of(name)) | method,
            )
            for seed in arguments.seeds
            for name in ([arguments.only] if arguments.only else CASES)
        ]
    how = ("defaults" if defaults else "one epoch") + (f", dropout {dropout}" if dropout else "")
    print(f"\n{date.today()}, {os.cpu_count()} cores, {how}, SmolLM2-135M-Instruct\n")
    print(
        "| data | seed | metric | n | base | finetune run (95 %) | plain TRL "
        "| training s: ours / plain | whole s: ours / plain / plain without base "
        "| whole CPU s: ours / plain | the evaluation's share of ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for r in results:
        plain = f"{r['plain']:.3f}" if "plain" in r else "-"
        print(
            f"| {r['data']} | {r['seed']} | {r['metric']} | {r['questions']} | {r['base']:.3f} | "
            f"{r['ours']:.3f} ({r['low']}-{r['high']}) | {plain} | "
            f"{r['train_seconds']:.0f} / {r.get('plain_train_seconds', 0):.0f} | "
            f"{r['seconds']:.0f} / {r.get('plain_seconds', 0):.0f} / "
            f"{r.get('plain_seconds', 0) - r.get('plain_base_seconds', 0):.0f} | "
            f"{r['cpu_seconds']:.0f} / {r.get('plain_cpu_seconds', 0):.0f} | {r['share']:.2f} |"
        )
    if defaults:
        return 0 if all(r["share"] <= SHARE for r in results) else 1
    return 0 if all(r["ours"] - r["base"] >= 0.2 for r in results) else 1


def _write(path: Path, rows: list[dict[str, str]], columns: list[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
