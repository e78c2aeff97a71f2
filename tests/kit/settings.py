"""Settings for all tests: no network, one thread, patient property tests, quiet children."""

from __future__ import annotations

import asyncio
import os

from hypothesis import HealthCheck, settings

# Models and data come from packages or are generated; a test that asks the Hub is a bug.
for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(switch, "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Models of tests are tiny. Threads that share a processor with another test's spin while they wait
# for each other: an answer of two threads took seven times the work that it takes one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Property tests judge results, not speed: shared machines are slow at times. The same examples in
# every run, so that a change is judged by what it changed; `make properties` looks for new ones.
settings.register_profile(
    "patient", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "searching",
    deadline=None,
    max_examples=int(os.environ.get("FINETUNE_PROPERTY_EXAMPLES", "1000")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("searching" if "FINETUNE_PROPERTY_EXAMPLES" in os.environ else "patient")

# looptime asks for the current event loop before every test, also those that have none. Up to
# Python 3.13 asking makes one unless somebody has said that there is none; nobody would ever close
# it, and its warning failed whichever test ran when it was collected.
asyncio.set_event_loop(None)
