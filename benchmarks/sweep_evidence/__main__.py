"""Print the tables of ``benchmarks/results/sweeps.md``.

``python -m benchmarks.sweep_evidence`` prints every table; names of tables print these alone. All
is drawn by seed, so that a figure changes only when the code does, or Optuna.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import optuna
from benchmarks.sweep_evidence import decisions, optimism, stopping

from finetune_operator.finetunesweep.search.halving import Halving
from finetune_operator.finetunesweep.search.stopping import Asha, Rule

NUM_CURVES = 1000
NUM_EQUAL_SWEEPS = (1000, 20_000)
NUM_STOPPED_SWEEPS = 200


def print_decisions() -> None:
    """Print how often the rules of early stopping and Optuna's differ."""
    print(
        "| rule | loss every | at a time | curves | decisions | stopped | different |\n"
        "|---|---|---|---|---|---|---|"
    )
    for line in decisions.agreements(NUM_CURVES):
        print(
            f"| {_rule_words(line.rule)} | {line.interval} steps | {line.parallelism} "
            f"| {line.num_curves} | {line.num_decisions} | {line.num_pruned} "
            f"| {line.num_different} |",
            flush=True,
        )


def print_savings() -> None:
    """Print what early stopping saves and costs."""
    print(
        "| trials | rule | steps trained | chose the best | loss lost | of a spread of |\n"
        "|---|---|---|---|---|---|"
    )
    for line in stopping.savings(NUM_STOPPED_SWEEPS):
        print(
            f"| {line.num_trials} | {_rule_words(line.rule)} | {line.share_trained:.0%} "
            f"| {line.share_best:.0%} | {line.loss_lost:.4f} | {line.spread:.2f} |",
            flush=True,
        )


def print_optimism() -> None:
    """Print how far what is reported of a winner is above the truth."""
    print("| sweeps | the winner is | reported above the truth | holds 0 |\n|---|---|---|---|")
    for num_sweeps in NUM_EQUAL_SWEEPS:
        for line in optimism.optimism(num_sweeps):
            holds = "yes" if line.holds_zero else "no"
            print(
                f"| {num_sweeps} | {line.way} | {line.mean:+.2%} ± {line.half_width:.2%} "
                f"| {holds} |",
                flush=True,
            )


def _rule_words(rule: Rule | Halving) -> str:
    if isinstance(rule, Halving):
        return f"halving, from step {rule.min_steps}, one in {rule.reduction}"
    if isinstance(rule, Asha):
        return f"ASHA, from step {rule.min_steps}, one in {rule.reduction}"
    return f"median, from step {rule.min_steps}, {rule.min_trials} complete"


TABLES: dict[str, Callable[[], None]] = {
    "decisions": print_decisions,
    "savings": print_savings,
    "optimism": print_optimism,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(prog="sweep_evidence", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: all")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in parser.parse_args(arguments).tables or TABLES:
        start = time.process_time()
        TABLES[name]()
        print(f"\n({name}: {time.process_time() - start:.0f} s of one core)\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
