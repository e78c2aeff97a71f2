"""How close each way of searching comes to the best setting, beside Optuna's samplers.

The surfaces are losses as fine-tuning has them: a valley in the logarithm of the learning rate that
is steeper above than below, gains from rank that level off, a batch size that moves the best
learning rate, a choice that matters or does not, and noise of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import optuna

from finetune_operator.finetunesweep.search.space import (
    Assignment,
    Choice,
    Int,
    LogUniform,
    Space,
    Uniform,
    Value,
)
from finetune_operator.finetunesweep.search.suggesting import Method, Search, suggest
from finetune_operator.finetunesweep.search.trials import Trial, TrialState

SEED = 20261126
BUDGETS = (8, 16, 32, 64)
RATE = LogUniform("rate", 1e-6, 1e-2)
RANK = Int("rank", 1, 64)
BATCH = Choice("batch", (8, 16, 32, 64))
DROPOUT = Uniform("dropout", 0.0, 0.3)
SPACE = Space((RATE, RANK, BATCH, DROPOUT))
NUM_POINTS = 200
"""Learning rates among which the best one is looked for, to know the lowest loss there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """Expected loss of every setting.

    Attributes:
        best_rate: Logarithm to base 10 of the best learning rate at a batch of 8.
        steepness: Loss added per squared decade below it; above it, ``steeper`` times this.
        steeper: See above.
        rank_gain: Loss taken off by a high rank.
        rank_scale: Rank at which most of it is gained.
        batch_loss: Loss of each batch size, beside what it does to the learning rate.
        best_dropout: Dropout with the lowest loss.
        dropout_loss: Loss added per squared 0.1 off it.
        noise: Standard deviation between seeds.
    """

    best_rate: float
    steepness: float
    steeper: float
    rank_gain: float
    rank_scale: float
    batch_loss: tuple[float, ...]
    best_dropout: float
    dropout_loss: float
    noise: float

    def loss(self, values: Assignment) -> float:
        """Return the mean loss over seeds of a setting."""
        batch = BATCH.index_of(values["batch"])
        assert batch is not None
        best_rate = self.best_rate + 0.5 * batch * math.log10(2)
        off = math.log10(float(values["rate"])) - best_rate
        loss = self.steepness * off**2 * (self.steeper if off > 0 else 1.0)
        loss += self.rank_gain * math.exp(-float(values["rank"]) / self.rank_scale)
        loss += self.dropout_loss * ((float(values["dropout"]) - self.best_dropout) / 0.1) ** 2
        return 1.0 + min(loss, 5.0) + self.batch_loss[batch]

    def lowest_loss(self) -> float:
        """Return the loss of the best setting, to within the grid of learning rates."""
        rates = np.logspace(-6, -2, NUM_POINTS)
        dropout = str(self.best_dropout)
        return min(
            self.loss({"rate": str(rate), "rank": 64, "batch": batch, "dropout": dropout})
            for rate in rates
            for batch in BATCH.values
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Regret:
    """How far the chosen setting is from the best one, on average over surfaces.

    Attributes:
        way: How values were chosen.
        num_trials: Trials of each sweep.
        mean: Mean loss of the chosen setting over seeds, above that of the best one.
        above_ours: Mean of this way's regret minus our TPE's on the same surface.
        half_width: Half of the 95 % interval of ``above_ours``.
    """

    way: str
    num_trials: int
    mean: float
    above_ours: float
    half_width: float


Propose = Callable[[int, list[Trial]], dict[str, Value]]
OURS = "our TPE"


def regrets(num_surfaces: int, budgets: tuple[int, ...] = BUDGETS) -> Iterator[Regret]:
    """Yield the regret of each way of searching at each number of trials."""
    yield from compare([regrets_on(number, budgets) for number in range(num_surfaces)], budgets)


def regrets_on(number: int, budgets: tuple[int, ...]) -> dict[str, list[float]]:
    """Return the regret of each way on one surface, after each of the budgets."""
    surface = draw_surface(np.random.default_rng(SEED + number))
    lowest = surface.lowest_loss()
    return {
        way: [loss - lowest for loss in _search(surface, propose, budgets, SEED + number)]
        for way, propose in _ways(number).items()
    }


def compare(found: list[dict[str, list[float]]], budgets: tuple[int, ...]) -> Iterator[Regret]:
    """Yield the means over surfaces, and the differences from ours in pairs."""
    for position, num_trials in enumerate(budgets):
        for way in found[0]:
            own = np.array([each[way][position] for each in found])
            above = own - np.array([each[OURS][position] for each in found])
            yield Regret(
                way=way,
                num_trials=num_trials,
                mean=float(own.mean()),
                above_ours=float(above.mean()),
                half_width=float(1.96 * above.std(ddof=1) / math.sqrt(len(above))),
            )


def draw_surface(rng: np.random.Generator) -> Surface:
    """Return a surface."""
    return Surface(
        best_rate=rng.uniform(-5.0, -3.0),
        steepness=rng.uniform(0.05, 0.4),
        steeper=rng.uniform(1.0, 6.0),
        rank_gain=rng.uniform(0.0, 0.3),
        rank_scale=rng.uniform(2.0, 20.0),
        batch_loss=tuple(rng.uniform(0.0, 0.1, len(BATCH.values))),
        best_dropout=round(rng.uniform(0.0, 0.2), 4),
        dropout_loss=rng.uniform(0.0, 0.05),
        noise=rng.uniform(0.0, 0.03),
    )


def _search(surface: Surface, propose: Propose, budgets: tuple[int, ...], seed: int) -> list[float]:
    """Return the mean loss of the setting that is chosen after each of the budgets."""
    rng = np.random.default_rng(seed)
    trials: list[Trial] = []
    for number in range(max(budgets)):
        values = propose(number, trials)
        score = surface.loss(values) + rng.normal(0.0, surface.noise)
        trials.append(
            Trial(number=number, assignment=values, state=TrialState.COMPLETE, score=score)
        )
    chosen = [min(trials[:budget], key=lambda trial: trial.score or 0.0) for budget in budgets]
    return [surface.loss(trial.assignment) for trial in chosen]


def _ways(seed: int) -> dict[str, Propose]:
    samplers = optuna.samplers
    return {
        "our Random": _ask_us(Search(method=Method.RANDOM), seed),
        OURS: _ask_us(Search(method=Method.TPE), seed),
        "our TPE, 10 at random first": _ask_us(Search(method=Method.TPE, num_startup=10), seed),
        "Optuna, RandomSampler": _ask_optuna(samplers.RandomSampler(seed=seed)),
        "Optuna, TPESampler": _ask_optuna(samplers.TPESampler(seed=seed)),
        "Optuna, TPESampler, univariate": _ask_optuna(
            samplers.TPESampler(seed=seed, multivariate=False)
        ),
    }


def _ask_us(search: Search, seed: int) -> Propose:
    def propose(number: int, trials: list[Trial]) -> dict[str, Value]:
        values = suggest(SPACE, search, f"sweep-{seed}", number, trials)
        assert values is not None  # the space has a range of decimals
        return values

    return propose


def _ask_optuna(sampler: optuna.samplers.BaseSampler) -> Propose:
    study = optuna.create_study(sampler=sampler)
    asked: list[optuna.Trial] = []

    def propose(number: int, trials: list[Trial]) -> dict[str, Value]:
        if trials:
            study.tell(asked[-1], trials[-1].score)
        asked.append(study.ask())
        return {
            RATE.path: str(asked[-1].suggest_float("rate", RATE.low, RATE.high, log=True)),
            RANK.path: asked[-1].suggest_int("rank", RANK.low, RANK.high),
            BATCH.path: asked[-1].suggest_categorical("batch", BATCH.values),
            DROPOUT.path: str(asked[-1].suggest_float("dropout", DROPOUT.low, DROPOUT.high)),
        }

    return propose
