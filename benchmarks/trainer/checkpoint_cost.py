"""What a checkpoint costs training. Bar: at ``everySteps: 50`` at most 3 % of step time.

Trains SmolLM2-135M with a checkpoint every few steps, into a local folder and into a store that
takes a fixed number of bytes per second, and looks at each save: how long training stood still
(states written to the local disk, and the wait for the checkpoint before), and how much longer the
next step took while the upload ran beside it.

Usage: python benchmarks/trainer/checkpoint_cost.py [--steps 16] [--every 4]
Writes benchmarks/results/checkpoint_cost.md; takes some five minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from measure import benchmark_job, ours  # noqa: E402
from rows import chat_rows  # noqa: E402

from finetune_trainer.storage.local import FileStore  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "checkpoint_cost.md"
EVERY_STEPS = 50
BAR_PERCENT = 3.0
WARMUP = 2


class SlowStore(FileStore):
    """A folder that takes its time, like a bucket far away."""

    def __init__(self, root: Path, bytes_per_second: float) -> None:
        super().__init__(root)
        self.bytes_per_second = bytes_per_second
        self.num_bytes = 0

    def upload_file(self, path: Path, key: str, **options: Any) -> None:
        self.num_bytes += path.stat().st_size
        time.sleep(path.stat().st_size / self.bytes_per_second)
        super().upload_file(path, key, **options)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one kind of store costs.

    Attributes:
        step_seconds: Median of a step without a checkpoint beside it.
        still_seconds: Median of how long training stood still at a save.
        beside_seconds: Median of how much longer the step beside an upload took.
        num_bytes: Of one checkpoint.
    """

    step_seconds: float
    still_seconds: float
    beside_seconds: float
    num_bytes: int

    @property
    def percent(self) -> float:
        """Share of 50 steps' time that one checkpoint costs."""
        cost = self.still_seconds + max(0.0, self.beside_seconds)
        return 100 * cost / (EVERY_STEPS * self.step_seconds)


def make_clock() -> Any:
    """Return a callback that notes begin and end of every step, and the steps that were saved."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        begins: list[float]
        ends: list[float]
        saved: set[int]

        def __init__(self) -> None:
            self.begins, self.ends, self.saved = [], [], set()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.begins.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.ends.append(time.perf_counter())

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved.add(state.global_step)

    return Clock()


def measure_cost(bytes_per_second: float, *, num_steps: int, every_steps: int) -> Cost:
    """Train once and compare the steps around the saves with the others."""
    clock = make_clock()
    job = benchmark_job(num_steps, {"globalBatchSize": 4}, every_steps=every_steps)
    with tempfile.TemporaryDirectory() as folder:
        store = SlowStore(Path(folder), bytes_per_second)
        ours(job, num_steps, WARMUP, chat_rows(128), store=store, callbacks=[clock])
    # Index i is step i + 1; the last save has no step after it.
    saves = sorted(step for step in clock.saved if step < num_steps)
    seconds = [end - begin for begin, end in zip(clock.begins, clock.ends, strict=True)]
    gaps = [after - end for end, after in zip(clock.ends, clock.begins[1:], strict=False)]
    quiet = [s for i, s in enumerate(seconds) if i >= WARMUP and i not in saves]
    quiet_gaps = [gap for i, gap in enumerate(gaps) if i >= WARMUP and i + 1 not in saves]
    return Cost(
        step_seconds=statistics.median(quiet),
        still_seconds=statistics.median(gaps[step - 1] for step in saves)
        - statistics.median(quiet_gaps),
        beside_seconds=statistics.median(seconds[step] for step in saves)
        - statistics.median(quiet),
        num_bytes=store.num_bytes // len(clock.saved),
    )


def main() -> int:
    """Measure both stores and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--every", type=int, default=4)
    arguments = parser.parse_args()
    stores = {"local folder": 1e12, "50 MB/s": 50e6, "10 MB/s": 10e6}
    lines = []
    worst = 0.0
    for name, bytes_per_second in stores.items():
        cost = measure_cost(
            bytes_per_second, num_steps=arguments.steps, every_steps=arguments.every
        )
        worst = max(worst, cost.percent)
        lines.append(
            f"| {name} | {cost.num_bytes / 1e6:.1f} | {cost.step_seconds:.2f} "
            f"| {cost.still_seconds:.2f} | {cost.beside_seconds:+.2f} | {cost.percent:.2f} % |"
        )
        print(lines[-1], flush=True)
    table = "\n".join(lines)
    RESULTS.write_text(
        f"# Cost of a checkpoint, {date.today()}\n\n"
        f"`python benchmarks/trainer/checkpoint_cost.py`: SmolLM2-135M-Instruct, LoRA rank 16 on "
        f"all linear layers, batches of 4,\n{os.cpu_count()} cores without a GPU; "
        f"{arguments.steps} steps with a checkpoint every {arguments.every}, medians. Bar: one "
        f"checkpoint costs at most {BAR_PERCENT:g} % of the\ntime of {EVERY_STEPS} steps.\n\n"
        "| store | checkpoint, MB | step, s | training stands still, s | step beside the upload, s "
        f"| share of {EVERY_STEPS} steps |\n|---|---|---|---|---|---|\n{table}\n\n"
        "Training stands still while the states are written to the local disk, and if the "
        "checkpoint before is still on its way;\nthe upload itself runs beside the next steps.\n"
    )
    return 0 if worst <= BAR_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
