#!/usr/bin/env python3
"""Sum up a run of the tests: counts by suite, and each failure with the end of its report.

Usage: tools/test_summary.py RECORD MODE

Reads the JSON lines that `pytest --record` wrote, and writes them as a list to ``tests.json``
beside them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

NUM_SLOWEST = 10
LEFT_OUT = {
    "quick": "left out: tests that train, start servers or need a cluster (`make test-all`)",
    "baseline": "left out: the fast tests (`make test`) and the extended ones (`make test-all`)",
    "cluster": "left out: what needs no cluster (`make test-all`)",
}


def summarize(tests: list[dict[str, Any]], mode: str) -> list[str]:
    """Return the lines of the summary; failures come last."""
    lines = []
    for suite in sorted({test["suite"] for test in tests}):
        own = [test for test in tests if test["suite"] == suite]
        counts = Counter(test["outcome"] for test in own)
        seconds = sum(test["seconds"] for test in own)
        shown = ", ".join(f"{num} {outcome}" for outcome, num in sorted(counts.items()))
        lines.append(f"{suite}: {shown}; {seconds:.0f} s of tests")
    if mode in LEFT_OUT:
        lines.append(LEFT_OUT[mode])
    failed = [test for test in tests if test["outcome"] in ("failed", "error")]
    for test in failed:
        lines += ["", f"---- {test['name']} ({test['suite']})", test.get("end", "")]
    lines += [f"{test['outcome'].upper()} {test['name']} ({test['suite']})" for test in failed]
    return lines


def main() -> None:
    """Print the summary and write tests.json."""
    record, mode = Path(sys.argv[1]), sys.argv[2]
    tests = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    record.with_suffix(".json").write_text(json.dumps(tests, indent=1), encoding="utf-8")
    print("\n".join(summarize(tests, mode)))


if __name__ == "__main__":
    main()
