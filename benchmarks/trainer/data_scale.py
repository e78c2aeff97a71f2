"""Rows per second and peak memory from a file of many rows to the ranks, without training.

Each part runs in a process of its own, so that the peaks are its own: ``start`` the imports of
``prepare``, ``prepare`` the whole stage; ``parent`` what the parent of a training run does with the
data set; ``libraries`` the imports of a rank, ``rank`` what each rank does with the data set, with
one pass over all rows in a drawn order as an epoch makes.

``peak_mib`` counts pages of mapped files too, which the kernel drops when memory is short;
``anonymous_mib`` is what cannot be dropped, at the end of the part.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

from rows import WORDS  # noqa: E402

from base_model import ensure_model  # noqa: E402

PARTS = ("start", "prepare", "parent", "libraries", "rank")
SHAPES = ("pairs", "chat")


def make_rows(shape: str, num_rows: int) -> Iterator[dict[str, Any]]:
    """Yield rows of about 100 tokens: one turn as a pair, or two turns as a conversation."""
    rng = random.Random(7)
    for number in range(num_rows):
        words = rng.choices(WORDS, k=76)
        question = f"{number} {' '.join(words[:40])}"
        if shape == "pairs":
            yield {"prompt": question, "completion": " ".join(words[40:])}
        else:
            texts = (question, " ".join(words[40:50]), " ".join(words[50:56]), " ".join(words[56:]))
            roles = ("user", "assistant", "user", "assistant")
            messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
            yield {"messages": messages}


def make_job(folder: Path) -> Any:
    """Return the job over ``folder/rows.jsonl``, all at defaults."""
    from finetune_api.protocol.trainer import resolve_job
    from finetune_api.v1alpha1.finetunejob import FineTuneJob

    spec = {
        "model": {"uri": f"file://{ensure_model()}"},
        "dataset": {"sources": [{"uri": f"file://{folder}/rows.jsonl"}]},
        "output": {"uri": f"file://{folder}/out"},
        "resources": {"gpusPerNode": 0},
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "data-scale"}, "spec": spec})
    return resolve_job(job, namespace="benchmark", uid="benchmark")


def make_context(folder: Path, part: str) -> Any:
    """Return the context of a stage whose events go to a file."""
    from finetune_api.protocol.trainer import Stage
    from finetune_trainer.context import StageContext
    from finetune_trainer.report.events import EventEmitter

    events = (folder / f"events-{part}.jsonl").open("w")
    work = folder / f"work-{part}"
    work.mkdir(exist_ok=True)
    return StageContext(
        job=make_job(folder),
        emit=EventEmitter(Stage.PREPARE, stream=events),
        work_dir=work,
        cache_dir=folder / "cache",
    )


def run_start(folder: Path) -> int:
    """Import and load what ``prepare`` needs, for comparison."""
    from finetune_trainer.process import hide_torch

    hide_torch()
    make_context(folder, "start").model.load_tokenizer()
    return 0


def run_prepare(folder: Path) -> int:
    """Prepare as the stage does; returns the rows."""
    from finetune_trainer.prepare.stage import prepare
    from finetune_trainer.process import hide_torch

    hide_torch()
    result = prepare(make_context(folder, "prepare"))
    return result.rows.train + result.rows.validation + result.rows.test


def run_parent(folder: Path) -> int:
    """Fetch the data set as the parent of a training run does."""
    from finetune_trainer.data.prepared import read_tokens

    context = make_context(folder, "parent")
    return read_tokens(context.storage.output, context.job, context.work_dir).report.rows.train


def run_libraries(folder: Path) -> int:
    """Import what a rank imports, for comparison."""
    import trl  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    return 0


def run_rank(folder: Path) -> int:
    """Read every example once, in batches and in a drawn order, as an epoch does."""
    import torch
    from datasets import Dataset
    from trl import SFTTrainer  # noqa: F401

    from finetune_trainer.data.rows import Side
    from finetune_trainer.data.token_files import mapped_file

    data = next((folder / "work-parent" / "datasets").iterdir())
    dataset = Dataset.from_file(str(mapped_file(data, Side.TRAIN)))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(42)).tolist()
    for start in range(0, len(order), 64):
        dataset[order[start : start + 64]]
    return len(dataset)


def measure(part: str, folder: Path) -> dict[str, Any]:
    """Run one part in this process."""
    start = time.perf_counter()
    num_rows = RUN[part](folder)
    return {
        "part": part,
        "rows": num_rows,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "anonymous_mib": _read_status("RssAnon") // 1024,
    }


RUN = {
    "start": run_start,
    "prepare": run_prepare,
    "parent": run_parent,
    "libraries": run_libraries,
    "rank": run_rank,
}


def _read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Generate rows and measure every part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shape", choices=SHAPES, default="pairs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(measure(arguments.part, arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = folder / "rows.jsonl"
        if not rows.exists():
            with rows.open("w") as stream:
                for row in make_rows(arguments.shape, arguments.rows):
                    stream.write(json.dumps(row) + "\n")
        for part in arguments.parts:
            subprocess.run(
                [sys.executable, __file__, "--part", part, "--folder", str(folder)], check=True
            )


if __name__ == "__main__":
    main()
