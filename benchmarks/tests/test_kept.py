"""What an operator keeps of jobs while they live and after: of a trial no more than of a job."""

from __future__ import annotations

import pytest
from benchmarks.control_plane.kept import lead
from benchmarks.control_plane.sweeping import NUM_TRIALS, run_jobs, run_sweeps

from finetune_operator.controllers import controller

MAX_OF_A_TRIAL = 1.2
"""Memory of a trial over that of a job: the target of ``run.py sweeps``."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Gather no changes: what is kept does not hang on it."""
    monkeypatch.setattr(controller, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(controller, "BEAT_SECONDS", 0.01)


@pytest.mark.slow
async def test_a_trial_takes_little_more_memory_than_a_job():
    jobs = await lead(run_jobs, 1, every_seconds=0.2)
    sweeps = await lead(run_sweeps, 1, every_seconds=0.2)
    assert jobs.end.num_jobs == sweeps.end.num_jobs == NUM_TRIALS
    assert sweeps.peak.total <= MAX_OF_A_TRIAL * jobs.peak.total, (sweeps.peak, jobs.peak)
    assert sweeps.end.total <= MAX_OF_A_TRIAL * jobs.end.total, (sweeps.end, jobs.end)
    assert jobs.end.parts["pods"] > 1024 * NUM_TRIALS
    assert sweeps.end.parts["FineTuneSweeps: status"] > 1024
    validated = [size for name, size in sweeps.end.parts.items() if name.startswith("validated")]
    assert len(validated) == 3
    assert max(validated) < 1024, sweeps.end
