"""Measures the operator on a real API server; ``--help`` says what.

Usage: python benchmarks/control_plane/run.py [rate|burst|running|idle ...] [--scale 0.1]
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the scenarios with the repository's packages on the path."""
    sys.path[:0] = [str(ROOT), *(str(ROOT / part) for part in ("tools", "tests", "operator"))]
    from benchmarks.control_plane import scenarios

    return scenarios.main()


if __name__ == "__main__":
    sys.exit(main())
