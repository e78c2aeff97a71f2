"""What early stopping saves, and what it costs, on curves whose ends are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from benchmarks.sweep_evidence.curves import draw_curve

from finetune_operator.finetunesweep.search.halving import Halving, judge_rungs
from finetune_operator.finetunesweep.search.ranking import winner
from finetune_operator.finetunesweep.search.stopping import Asha, Median, Rule, should_prune
from finetune_operator.finetunesweep.search.trials import Curve, Trial, TrialState

NUM_STEPS = 100
SEED = 20261126
RULES: tuple[Rule | Halving, ...] = (
    Halving(min_steps=10, reduction=3),
    Halving(min_steps=10, reduction=2),
    Halving(min_steps=20, reduction=2),
    Asha(min_steps=5, reduction=3),
    Asha(min_steps=10, reduction=2),
    Asha(min_steps=10, reduction=3),
    Asha(min_steps=30, reduction=3),
    Median(min_steps=10, min_trials=3),
    Median(min_steps=10, min_trials=5),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """What came of sweeps that stopped trials early.

    Attributes:
        rule: How.
        num_trials: Trials of each sweep.
        parallelism: Trials at a time.
        share_trained: Steps trained, as a share of training every trial to its end.
        share_best: Sweeps that chose the trial which training all to the end would have chosen.
        loss_lost: Mean loss of the chosen trial above that one's.
        spread: Mean standard deviation of the losses of a sweep's trials at their ends, to compare.
    """

    rule: Rule | Halving
    num_trials: int
    parallelism: int
    share_trained: float
    share_best: float
    loss_lost: float
    spread: float


def savings(num_sweeps: int) -> Iterator[Saving]:
    """Yield what each rule saves and costs, two trials at a time."""
    for num_trials in (8, 16, 32):
        for rule in RULES:
            yield _saving_of(rule, num_trials, 2, num_sweeps)


def run_sweep(
    curves: list[Curve],
    parallelism: int,
    decide: Callable[[Trial, list[Trial]], bool],
    rng: np.random.Generator,
) -> list[Trial]:
    """Return the trials after all have ended.

    Args:
        curves: What each trial would say if it were never stopped, in the order they begin.
        parallelism: Trials at a time.
        decide: Whether a trial is stopped after its last loss; the others are those that began.
        rng: Draws which of the running trials comes to its next loss.
    """
    trials: dict[int, Trial] = {}
    waiting = list(range(len(curves)))
    running: list[int] = []
    while waiting or running:
        while waiting and len(running) < parallelism:
            number = waiting.pop(0)
            running.append(number)
            trials[number] = Trial(number=number, assignment={}, state=TrialState.RUNNING)
        number = running[rng.integers(len(running))]
        curve = curves[number][: len(trials[number].curve) + 1]
        score = min(point.loss for point in curve)
        trials[number] = replace(trials[number], curve=curve, score=score)
        others = [trial for trial in trials.values() if trial.number != number]
        if decide(trials[number], others):
            trials[number] = replace(trials[number], state=TrialState.PRUNED)
            running.remove(number)
        elif len(curve) == len(curves[number]):
            trials[number] = replace(trials[number], state=TrialState.COMPLETE)
            running.remove(number)
    return [trials[number] for number in range(len(curves))]


def run_halving(
    rule: Halving, curves: list[Curve], parallelism: int, rng: np.random.Generator
) -> list[Trial]:
    """Return the trials after all have ended, where they wait for each other at rungs.

    Args:
        rule: Where they wait, and how many go on.
        curves: What each trial would say if it were never stopped, in the order they begin.
        parallelism: Trials at a time; those that wait do not count.
        rng: Draws which of the running trials comes to its next loss, and which of those that end
            ends first.
    """
    trials: list[Trial] = []
    while True:
        is_complete = len(trials) == len(curves)
        verdict = judge_rungs(rule, trials, num_trials=len(trials), is_complete=is_complete)
        if verdict.ending:
            number = int(rng.choice(sorted(verdict.ending)))
            trials[number] = replace(trials[number], state=TrialState.PRUNED)
            continue
        running = [t for t in trials if t.state is TrialState.RUNNING]
        going = [trial for trial in running if trial.number not in verdict.waiting]
        if len(going) < parallelism and not is_complete:
            trials.append(Trial(number=len(trials), assignment={}, state=TrialState.RUNNING))
            continue
        if not going:
            assert not running, "all wait for each other"
            return trials
        trial = going[rng.integers(min(parallelism, len(going)))]
        curve = curves[trial.number][: len(trial.curve) + 1]
        is_over = len(curve) == len(curves[trial.number])
        trials[trial.number] = replace(
            trial,
            curve=curve,
            score=min(point.loss for point in curve),
            state=TrialState.COMPLETE if is_over else TrialState.RUNNING,
        )


def ask_us(rule: Rule, trial: Trial, others: list[Trial]) -> bool:
    """Return our decision after the last loss of a trial, with its earlier ones judged."""
    judged = trial.curve[-2].step if len(trial.curve) > 1 else 0
    return should_prune(rule, trial, others, judged_step=judged)


def _saving_of(rule: Rule | Halving, num_trials: int, parallelism: int, num_sweeps: int) -> Saving:
    rng = np.random.default_rng(SEED)
    trained, is_best, lost, spreads = [], [], [], []
    for _ in range(num_sweeps):
        curves = [draw_curve(rng, NUM_STEPS, 5) for _ in range(num_trials)]
        scores = [min(point.loss for point in curve) for curve in curves]
        if isinstance(rule, Halving):
            ended = run_halving(rule, curves, parallelism, rng)
        else:
            ended = run_sweep(curves, parallelism, partial(ask_us, rule), rng)
        chosen = winner(ended)
        assert chosen is not None  # the best at every rung is never stopped
        trained.append(sum(trial.curve[-1].step for trial in ended) / num_trials / NUM_STEPS)
        is_best.append(scores[chosen.number] == min(scores))
        lost.append(scores[chosen.number] - min(scores))
        spreads.append(np.std(scores))
    return Saving(
        rule=rule,
        num_trials=num_trials,
        parallelism=parallelism,
        share_trained=float(np.mean(trained)),
        share_best=float(np.mean(is_best)),
        loss_lost=float(np.mean(lost)),
        spread=float(np.mean(spreads)),
    )
