"""How many weights of a QLoRA adapter two steps leave as they are, by the type that holds them.

Usage: python benchmarks/trainer/adapter_types.py [--base FOLDER]
Two ranks train under DDP on CPU. The base is random and in bfloat16, or that of FOLDER in 4 bits.
Prints the table of benchmarks/results/trainer.md; takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # for the ranks
RATES = ("1e-5", "5e-5", "2e-4")


def train_on_two_ranks(base: str) -> list[dict[str, Any]]:
    """Return what the first rank says of each rate and type."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {
        **os.environ,
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"},
        **{"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    with tempfile.TemporaryDirectory() as scratch:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "kit.models.two_rank_adapter", scratch, base, *RATES],
                stdout=subprocess.PIPE,
                text=True,
                env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        found = [rank.communicate()[0].splitlines()[-1] for rank in ranks]
    lines: list[dict[str, Any]] = json.loads(found[0])
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="bfloat16", help="folder of a model to load in 4 bits")
    lines = train_on_two_ranks(parser.parse_args().base)
    print("| learning rate | adapter in | weights that two steps do not move |\n|---|---|---|")
    for line in lines:
        held = ", ".join(kind.removeprefix("torch.") for kind in line["types"])
        print(f"| {line['rate']:g} | {held} | {100 * line['unmoved']:.1f} % |")


if __name__ == "__main__":
    main()
