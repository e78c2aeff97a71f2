"""Wall time of stage ``evaluate`` beside plain batched ``generate`` and vLLM, on the same rows.

Each side is a process from its start to its end and asks base and tuned model 500 held-out
questions: short labels, and long answers. The stage also scores the likelihood of every reference,
measures, resamples, writes its report and publishes. The plain script takes the batch size that is
fastest on some of the rows. Bar: at most 1.0 of its time. Processor seconds stand beside the wall
time: other work on the machine changes them little.

Rows come from the examples' generators, or from banking77 and e2e with ``--data``. vLLM, where it
is installed (``tools/locked_environment.py vllm``), is asked by a script, and with ``--engine`` by
the stage: that server takes the adapter beside its weights, which on a CPU takes it long.

Usage: python benchmarks/trainer/evaluation_time.py [--data DIR] [--only CASE] [--questions N]
    [--no-vllm] [--engine] [--folder DIR]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from base_model import NAME, ensure_model  # noqa: E402
from finetune_trainer.evaluate.tokenized import read_encoded  # noqa: E402
from finetune_trainer.model.chat_format import read_format  # noqa: E402
from finetune_trainer.publish.merge import MergePlan, merge_adapter  # noqa: E402
from kit.processes.stages import Workbench  # noqa: E402
from kit.servers.ports import free_port  # noqa: E402
from kit.servers.vllm_server import serve, stand_beside  # noqa: E402
from locked_environment import find_vllm  # noqa: E402

PLAIN = Path(__file__).with_name("plain_generate.py")
NUM_STEPS = 60
ROWS_PER_INTENT = 20
SPARE = 60
"""Rows that are held out beyond these: some are left out, and the split is by groups."""
SIZES = (8, 16, 32, 64, 128)
VLLM_NUM_AT_ONCE = 64
BAR = 1.0

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One kind of rows.

    Attributes:
        made: Makes rows with the example's generator in a folder.
        read: Reads rows from the public data.
        source: How the job reads them.
    """

    made: Callable[[Path], Rows]
    read: Callable[[Path], Rows]
    source: dict[str, Any]


def generate(example: str, names: Sequence[str], seeds: Sequence[int]) -> Callable[[Path], Rows]:
    """Return what runs an example's generator with several seeds; each row is kept once."""

    def make(folder: Path) -> Rows:
        rows: dict[str, dict[str, str]] = {}
        for seed in seeds:
            out = folder / f"{example}-{seed}"
            script = ROOT / "examples" / example / "generate.py"
            command = [sys.executable, str(script), "--out", str(out), "--seed", str(seed)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for name in names:
                found = _read(out / f"{name}.csv")
                rows.update({next(iter(row.values())): row for row in found})
        return list(rows.values())

    return make


def read_banking77(data: Path) -> Rows:
    """All 77 intents, some rows each."""
    taken: Counter[str] = Counter()
    kept = []
    for row in _read(data / "banking77/train.csv"):
        taken[row["category"]] += 1
        if taken[row["category"]] <= ROWS_PER_INTENT:
            kept.append({"question": row["text"], "answer": row["category"]})
    return kept


def read_e2e(data: Path) -> Rows:
    """All meanings, one reference each."""
    rows = {
        row["mr"]: {"question": row["mr"], "answer": row["ref"]}
        for name in ("devset", "testset_w_refs")
        for row in _read(data / f"e2e/{name}.csv")
    }
    return list(rows.values())


CASES = {
    "labels": Case(
        made=generate("01-headline-sentiment", ("train", "test"), range(7, 12)),
        read=read_banking77,
        source={"template": "Which label has this? {{ question }}"},
    ),
    "answers": Case(
        made=generate("02-product-copy", ("products",), range(11, 15)),
        read=read_e2e,
        source={"template": "Describe this in one or two sentences: {{ question }}"},
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a process took from its start to its end, in seconds.

    Attributes:
        wall: By the clock.
        processor: On all cores, its children included.
    """

    wall: float
    processor: float


@contextmanager
def spending(into: list[Spent]) -> Iterator[None]:
    """Add what the block's processes take."""
    before, began = cpu_seconds(), time.monotonic()
    yield
    into.append(Spent(wall=time.monotonic() - began, processor=cpu_seconds() - before))


def cpu_seconds() -> float:
    """Return the processor time of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(name: str, scratch: Path, data: Path | None, num_questions: int) -> Workbench:
    """Prepare the rows of a case and train an adapter on them for a minute or two."""
    case = CASES[name]
    rows = case.read(data) if data else [_plain_row(row) for row in case.made(scratch)]
    table = scratch / f"{name}.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    share = -(-100 * (num_questions + SPARE) // len(rows))
    source = {
        "uri": f"file://{table}",
        "format": "Csv",
        "columns": {"completion": "answer"},
        **case.source,
    }
    bench = Workbench(
        folder=scratch / name,
        model=ensure_model(),
        data=table,
        change={
            "model": {"name": NAME},
            "dataset": {
                "sources": [source],
                "split": {"testPercent": min(75, share), "validationPercent": 0},
            },
            "method": {"adapter": {"rank": 16, "alpha": 32}},
            "hyperparameters": {
                **{"maxSteps": NUM_STEPS, "globalBatchSize": 8, "learningRate": "auto"},
                "precision": "Auto",
            },
            "checkpoint": {"everySteps": 1000},
            # The script asks its base once, as it is; so does this job.
            "evaluation": {
                **{"maxSamples": num_questions, "maxNewTokens": "auto", "baseline": "AsIs"},
                "numBootstrapSamples": None,
            },
        },
        env={"OMP_NUM_THREADS": str(os.cpu_count())},
    )
    bench.run_to("prepare", "train", timeout=3600)
    return bench


def time_stage(bench: Workbench, into: list[Spent]) -> None:
    """Evaluate and publish from the start."""
    shutil.rmtree(bench.run_folder / "evaluation", ignore_errors=True)
    shutil.rmtree(bench.output / "versions", ignore_errors=True)
    with spending(into):
        bench.run_to("evaluate", timeout=7200)


def write_task(bench: Workbench) -> dict[str, Any]:
    """Return what the plain script is told: the prompts that the stage has asked, and how."""
    asked = bench.work / "asking"
    encoded, chat_format = read_encoded(asked), read_format(asked)
    record = json.loads((bench.run_folder / "adapter" / "run.json").read_text())
    stop = sorted(chat_format.stop_ids)
    return {
        "model": str(bench.model),
        "adapter": str(bench.run_folder / "adapter"),
        "dtype": "bfloat16" if record["recipe"]["bfloat16"] else "float32",
        "prompts": encoded.prompts,
        "maxNewTokens": encoded.answer_tokens,
        "stop": stop,
        "pad": stop[0],
    }


def run_plain(task: Path, *arguments: str) -> dict[str, Any]:
    """Run the plain script; return what it says."""
    env = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "PYTHONWARNINGS": "ignore"}
    output = subprocess.run(
        [sys.executable, str(PLAIN), str(task), *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env,
    ).stdout  # fmt: skip
    said: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return said


def time_vllm(bench: Workbench, samples: list[dict[str, Any]], task: dict[str, Any]) -> str:
    """Ask vLLM the same questions; the adapter is merged, which is fastest there.

    Its updates beside the weights have no kernels for CPUs.
    """
    python = find_vllm()
    if python is None:
        return "not installed (`python tools/locked_environment.py vllm`)"
    prompts = [sample["prompt"] for sample in samples]
    said = []
    for side, folder in {"base": bench.model, "tuned": write_merged(bench)}.items():
        began = time.monotonic()
        log = bench.folder / f"vllm-{side}.log"
        with serve(python, folder, {}, name=NAME, dtype=task["dtype"], log=log) as server:
            ready = time.monotonic()
            tokens = task["maxNewTokens"]
            server.ask_all(NAME, prompts, max_tokens=tokens, num_at_once=VLLM_NUM_AT_ONCE)
            ended = time.monotonic()
        said.append(f"{side} {ended - ready:.0f} s after {ready - began:.0f} s of its start")
        print(f"vLLM: {said[-1]}", flush=True)
    return ", ".join(said)


def write_merged(bench: Workbench) -> Path:
    """Write the tuned model as one folder, as a published merged model is."""
    folder = bench.folder / "merged"
    folder.mkdir()
    plan = MergePlan(
        model_dir=str(bench.model),
        adapter_dir=str(bench.run_folder / "adapter"),
        target_dir=str(folder),
        failure="",
        trust_remote_code=False,
    )
    merge_adapter(plan)
    return folder


def time_engine(bench: Workbench) -> str:
    """Have the stage ask a server that stands beside it; say how long it took, its start too."""
    python = find_vllm()
    if python is None:
        return "not installed"
    served = bench.fork(bench.folder / "served", {"evaluation": {"engine": "VLLM"}})
    shutil.rmtree(served.run_folder / "evaluation")
    spent: list[Spent] = []
    with stand_beside(python, served.folder / "engine", free_port()) as told:
        served.env |= told
        time_stage(served, spent)
    return f"{spent[0].wall:.0f} s"


def measure(name: str, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one case; ours and the plain script in turns, every other time the other way."""
    bench = train(name, scratch, arguments.data, arguments.questions)
    ours: list[Spent] = []
    plain: list[Spent] = []
    time_stage(bench, ours)
    task = write_task(bench)
    path = bench.folder / "task.json"
    path.write_text(json.dumps(task))
    by_size = run_plain(path, "--sizes", *map(str, SIZES))
    size = min(by_size, key=by_size.__getitem__)
    print(f"{name}: seconds of the plain script by batch size: {by_size}", flush=True)
    path.write_text(json.dumps({**task, "batchSize": int(size)}))
    said: dict[str, Any] = {}
    while len(ours) < arguments.repeats or len(plain) < arguments.repeats:
        if len(plain) <= len(ours) and len(plain) < arguments.repeats:
            with spending(plain):
                said = run_plain(path)
        else:
            time_stage(bench, ours)
        print(f"{name}: ours {ours}, plain {plain}", flush=True)
    print(f"{name}: of the plain script's, answering by model: {said['seconds']}", flush=True)
    lines = (bench.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    return {
        "name": name,
        "rows": len(samples),
        "tokens": task["maxNewTokens"],
        "ours": _median(ours),
        "plain": _median(plain),
        "size": size,
        "equal": {
            side: sum(s[side] == t for s, t in zip(samples, said["texts"][side], strict=True))
            for side in ("base", "tuned")
        },
        "vllm": time_vllm(bench, samples, task) if arguments.vllm else "not asked",
        "engine": time_engine(bench) if arguments.engine else "not asked",
    }


@contextmanager
def open_folder(kept: Path | None) -> Iterator[Path]:
    """Yield the folder that is to be kept, or one that is gone afterwards."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="finetune-evaluation-") as scratch:
        yield Path(scratch)


def _median(runs: Sequence[Spent]) -> Spent:
    return Spent(
        wall=statistics.median(run.wall for run in runs),
        processor=statistics.median(run.processor for run in runs),
    )


def main() -> int:
    """Measure the cases and print the table; exit code 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with banking77 and e2e")
    parser.add_argument("--only", choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--vllm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--folder", type=Path, help="keep what is trained there, for another run")
    parser.add_argument("--engine", action="store_true", help="the stage with vLLM as its engine")
    arguments = parser.parse_args()
    with open_folder(arguments.folder) as folder:
        results = [
            measure(name, folder, arguments)
            for name in ([arguments.only] if arguments.only else CASES)
        ]
    print(f"\n{date.today()}, {os.cpu_count()} cores, {NAME}\n")
    print(
        "| rows | questions | tokens of an answer, at most | wall s: stage, plain, ratio "
        "| processor s: stage, plain, ratio | plain at batch size | equal answers: base, tuned "
        "| vLLM | stage with vLLM as engine |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for r in results:
        ours, plain = r["ours"], r["plain"]
        print(
            f"| {r['name']} | {r['rows']} | {r['tokens']} | "
            f"{ours.wall:.0f}, {plain.wall:.0f}, {ours.wall / plain.wall:.2f} | "
            f"{ours.processor:.0f}, {plain.processor:.0f}, "
            f"{ours.processor / plain.processor:.2f} | {r['size']} | "
            f"{r['equal']['base']}, {r['equal']['tuned']} | {r['vllm']} | {r['engine']} |"
        )
    return 0 if all(r["ours"].wall <= BAR * r["plain"].wall for r in results) else 1


def _read(path: Path) -> Rows:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _plain_row(row: dict[str, str]) -> dict[str, str]:
    question, answer, *_ = row.values()
    return {"question": question, "answer": answer}


if __name__ == "__main__":
    sys.exit(main())
