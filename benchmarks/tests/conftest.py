"""Tests of what benchmarks compute have the settings of all tests."""

import kit.settings  # noqa: F401
