"""The rules that stop trials early, beside Optuna's, on the same curves in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import optuna
from benchmarks.sweep_evidence.curves import draw_curve
from benchmarks.sweep_evidence.stopping import NUM_STEPS, SEED, ask_us, run_sweep

from finetune_operator.finetunesweep.search.stopping import Asha, Median, Rule
from finetune_operator.finetunesweep.search.trials import Curve, Trial, TrialState

RULES: tuple[tuple[Rule, int], ...] = (
    (Asha(min_steps=10, reduction=2), 10),
    (Asha(min_steps=10, reduction=3), 10),
    (Asha(min_steps=5, reduction=4), 7),
    (Median(min_steps=1, min_trials=1), 10),
    (Median(min_steps=20, min_trials=5), 10),
    (Median(min_steps=30, min_trials=3), 7),
)
"""Rules and the steps between two losses of a trial."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How often two made the same decision.

    Attributes:
        rule: Ours.
        interval: Steps between two losses.
        parallelism: Trials at a time.
        num_curves: Trials.
        num_decisions: Losses after which both were asked.
        num_different: Answers that differ.
        num_pruned: Trials that Optuna stopped.
    """

    rule: Rule
    interval: int
    parallelism: int
    num_curves: int
    num_decisions: int
    num_different: int
    num_pruned: int


def agreements(num_curves: int, num_trials: int = 20) -> Iterator[Agreement]:
    """Yield one line for each rule and number of trials at a time.

    Args:
        num_curves: Curves for each line, in sweeps of ``num_trials``.
        num_trials: Trials of a sweep.
    """
    for rule, interval in RULES:
        for parallelism in (1, 4):
            rng = np.random.default_rng(SEED)
            counts = np.zeros(3, dtype=int)
            for _ in range(num_curves // num_trials):
                curves = [draw_curve(rng, NUM_STEPS, interval) for _ in range(num_trials)]
                counts += _compare(rule, curves, parallelism, rng)
            yield Agreement(
                rule=rule,
                interval=interval,
                parallelism=parallelism,
                num_curves=num_curves // num_trials * num_trials,
                num_decisions=int(counts[0]),
                num_different=int(counts[1]),
                num_pruned=int(counts[2]),
            )


def _compare(
    rule: Rule, curves: list[Curve], parallelism: int, rng: np.random.Generator
) -> tuple[int, int, int]:
    study = optuna.create_study(pruner=_pruner_of(rule))
    asked: dict[int, optuna.Trial] = {}
    num_decisions = num_different = 0

    def decide(trial: Trial, others: list[Trial]) -> bool:
        nonlocal num_decisions, num_different
        peer = asked.get(trial.number) or study.ask()
        asked[trial.number] = peer
        last = trial.curve[-1]
        peer.report(last.loss, last.step)
        theirs = bool(peer.should_prune())
        num_decisions += 1
        num_different += theirs is not ask_us(rule, trial, others)
        if theirs:
            study.tell(peer, state=optuna.trial.TrialState.PRUNED)
        elif len(trial.curve) == len(curves[trial.number]):
            study.tell(peer, last.loss)
        return theirs

    ended = run_sweep(curves, parallelism, decide, rng)
    num_pruned = sum(trial.state is TrialState.PRUNED for trial in ended)
    return num_decisions, num_different, num_pruned


def _pruner_of(rule: Rule) -> optuna.pruners.BasePruner:
    if isinstance(rule, Asha):
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rule.min_steps, reduction_factor=rule.reduction
        )
    return optuna.pruners.MedianPruner(
        n_startup_trials=rule.min_trials, n_warmup_steps=rule.min_steps
    )
