"""Simulated curves of validation losses: they fall by a power of the step, cross, and are noisy."""

from __future__ import annotations

import numpy as np

from finetune_operator.finetunesweep.search.trials import Curve, Point


def draw_curve(rng: np.random.Generator, num_steps: int, interval: int) -> Curve:
    """Return one curve, with a loss every ``interval`` steps and one at the end.

    One in twelve rises after a while, as with a learning rate that is too high.
    """
    floor = rng.uniform(0.5, 2.0)
    height = rng.uniform(1.0, 3.0)
    scale = num_steps * rng.uniform(0.01, 0.3)
    power = rng.uniform(0.5, 2.0)
    turns_at = num_steps * rng.uniform(0.1, 0.9) if rng.random() < 1 / 12 else num_steps
    steps = np.array(sorted({*range(interval, num_steps + 1, interval), num_steps}))
    losses = floor + height * (1 + steps / scale) ** -power
    losses += 3.0 * np.maximum(0.0, steps - turns_at) / num_steps
    losses += rng.normal(0.0, 0.02, len(steps))
    return tuple(Point(int(step), float(loss)) for step, loss in zip(steps, losses, strict=True))
