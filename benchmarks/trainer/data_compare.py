"""Rows per second and peak memory of comparing rows with each other, and of dividing them.

The rows are those of ``data_scale.py``. ``spool`` takes them in (normalised prompts, digests),
``compare`` looks for copies, near prompts and contradictions, ``divide`` divides what is left.
Seconds are of the processor. ``--copies`` adds a share of near copies, so that there is something
to find.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

from data_scale import make_rows  # noqa: E402

from finetune_api.v1alpha1.spec.dataset import Dataset  # noqa: E402
from finetune_trainer.data.rows import Example, make_example  # noqa: E402
from finetune_trainer.prepare.duplicates.comparing import compare_rows  # noqa: E402
from finetune_trainer.prepare.rows.spool import Spool, pack_rows  # noqa: E402
from finetune_trainer.prepare.split import divide_compared  # noqa: E402

PIECE_ROWS = 500


def make_examples(num_rows: int, copies: float) -> Iterator[Example]:
    """Yield rows, and after some of them the same question with a greeting."""
    rng = random.Random(3)
    line = 0
    for row in islice(make_rows("pairs", num_rows), num_rows):
        several = [row]
        if rng.random() < copies:
            several.append({**row, "prompt": f"hello there, {row['prompt']} thanks"})
        for one in several:
            line += 1
            if line > num_rows:
                return
            yield make_example(one, file="rows.jsonl", line=line, side=None, group_value=None)


def measure(num_rows: int, copies: float) -> Iterator[dict[str, Any]]:
    """Take in, compare and divide; yields what each part took."""
    dataset = Dataset.model_validate({"sources": [{"uri": "file:///rows.jsonl"}]})
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder) / "rows.jsonl") as spool:
        seconds = 0.0
        examples = make_examples(num_rows, copies)
        while piece := list(islice(examples, PIECE_ROWS)):
            start = time.process_time()
            spool.add(pack_rows(piece))
            seconds += time.process_time() - start
        yield _result("spool", num_rows, seconds)
        start = time.process_time()
        compared = compare_rows(spool, dataset)
        seconds = time.process_time() - start
        found = {finding.name: finding.num_flagged for finding in compared.findings}
        yield _result("compare", num_rows, seconds) | found
        start = time.process_time()
        division = divide_compared(compared, dataset.split)
        yield _result("divide", num_rows, time.process_time() - start) | {
            "groups": division.num_groups
        }


def _result(part: str, num_rows: int, seconds: float) -> dict[str, Any]:
    return {
        "part": part,
        "rows": num_rows,
        "cpu_seconds": round(seconds, 1),
        "rows_per_second": round(num_rows / max(seconds, 1e-9)),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure and print one JSON line per part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--copies", type=float, default=0.05)
    arguments = parser.parse_args()
    for result in measure(arguments.rows, arguments.copies):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
