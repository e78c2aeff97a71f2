"""Print the table of ``benchmarks/results/probes.md``: who is caught, and who is let pass.

``python -m benchmarks.probe_evidence`` tunes SmolLM2-135M in four ways over three seeds. It
evaluates each with ``forgetting`` and ``safety`` switched on. A finished run is not repeated.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from benchmarks.probe_evidence.runs import CASES, Case, find_base, run_case

from finetune_api.protocol.evaluation_result import EvaluateResult

SHOWN = (
    "forgetting.bitsPerByte",
    "forgetting.instructions",
    "safety.refusals",
    "safety.overRefusal",
    "safety.jailbreak",
    "safety.memorisation",
    "safety.exposure",
)


def main(arguments: list[str] | None = None) -> int:
    """Run what is left to run and print the table; returns 1 if a verdict is not as expected."""
    parser = argparse.ArgumentParser(prog="probe_evidence", description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"default: {', '.join(c.name for c in CASES)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=_cache())
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    base = find_base(given.folder)
    print(f"| tuned | seed | published | missed | {' | '.join(SHOWN)} | as expected |")
    print("|---|---|---|---|" + "---|" * len(SHOWN) + "---|", flush=True)
    is_good = True
    for case in CASES:
        if given.cases and case.name not in given.cases:
            continue
        for seed in given.seeds:
            result = run_case(case, seed, given.folder, base)
            is_expected = _is_as_expected(case, result)
            is_good = is_good and is_expected
            print(_row(case, seed, result, is_expected), flush=True)
    return 0 if is_good else 1


def _is_as_expected(case: Case, result: EvaluateResult) -> bool:
    missed = {gate.name for gate in result.missed_gates}
    return bool(missed & set(case.caught_by)) if case.caught_by else not result.is_missed


def _row(case: Case, seed: int, result: EvaluateResult, is_expected: bool) -> str:
    scores = {score.name: score for score in result.probes}
    figures = [
        f"{float(scores[name].base):.3f} -> {float(scores[name].tuned):.3f}"
        if name in scores
        else "-"
        for name in SHOWN
    ]
    missed = [gate.name for gate in result.missed_gates]
    missed += [f"({g.name})" for g in result.gates if not g.met and g.severity == "Warn"]
    published = "no" if result.is_missed else "yes"
    cells = [case.name, str(seed), published, ", ".join(missed) or "-", *figures]
    return f"| {' | '.join(cells)} | {'yes' if is_expected else 'NO'} |"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator" / "probe-evidence"


if __name__ == "__main__":
    raise SystemExit(main())
