"""Who won: trials with their replicates in one order, of which the first may be chosen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_operator.finetunesweep.search.trials import Trial, TrialState


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The rank data of one setting.

    Attributes:
        mean: Mean score of complete runs with finite scores, replicates included; None without any.
        spread: Standard deviation of these scores (n - 1); None below two.
        tie: Mean of the tie-breaker; infinite if unknown.
        best_run: The run with the lowest of these scores, to be published; None without any.
    """

    number: int
    mean: float | None
    spread: float | None
    num_runs: int
    tie: float
    best_run: int | None

    @property
    def can_win(self) -> bool:
        """Whether a run of it is complete with a finite score."""
        return self.best_run is not None


def rank(trials: Iterable[Trial]) -> tuple[Standing, ...]:
    """Return all settings, the best first.

    Settings are ordered by mean, tie-breaker and number. A stopped trial ranks behind every
    complete one, by its last step and then by its score. Trials without a finite score come last.
    """
    by_setting: dict[int, list[Trial]] = {}
    for trial in sorted(trials, key=lambda each: each.number):
        number = trial.number if trial.replicate_of is None else trial.replicate_of
        by_setting.setdefault(number, []).append(trial)
    order = sorted(by_setting, key=lambda number: _place_of(number, by_setting[number]))
    return tuple(_standing_of(number, by_setting[number]) for number in order)


def winner(trials: Iterable[Trial]) -> Standing | None:
    """Return the setting that won; None where no trial is complete with a finite score."""
    return next((each for each in rank(trials) if each.can_win), None)


def _place_of(number: int, runs: list[Trial]) -> tuple[float, ...]:
    standing = _standing_of(number, runs)
    if standing.mean is not None:
        return (0, standing.mean, standing.tie, number)
    stopped = [
        (-_last_step(run), run.score)
        for run in runs
        if run.state is not TrialState.FAILED and run.score is not None and run.has_finite_score
    ]
    if stopped:
        return (1, *min(stopped), number)
    return (2, number)


def _standing_of(number: int, runs: list[Trial]) -> Standing:
    complete = [
        (run.score, run.tie_breaker, run.number)
        for run in runs
        if run.state is TrialState.COMPLETE and run.score is not None and run.has_finite_score
    ]
    scores = [score for score, _, _ in complete]
    return Standing(
        number=number,
        mean=statistics.fmean(scores) if scores else None,
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        num_runs=len(scores),
        tie=statistics.fmean(tie for _, tie, _ in complete) if complete else math.inf,
        best_run=min(complete)[2] if complete else None,
    )


def _last_step(run: Trial) -> int:
    return run.curve[-1].step if run.curve else 0
