"""Rules on batch sizes: they must divide over the ranks.

A batch size may be ``auto``; only numbers can contradict each other. CEL has no variables: a list
of one list of values, mapped to its message, replaces them.
"""

from __future__ import annotations

from typing import Protocol

from finetune_api.rule import Rule
from finetune_api.v1alpha1.spec.hyperparameters import Hyperparameters
from finetune_api.v1alpha1.spec.resources import Resources


class BatchedSpec(Protocol):
    """What the rules read of a FineTuneJob's spec."""

    @property
    def resources(self) -> Resources: ...  # noqa: D102
    @property
    def hyperparameters(self) -> Hyperparameters: ...  # noqa: D102


_SUGGESTED = (
    *(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 15, 16, 18, 20, 24, 28, 30, 32, 36, 40, 48, 50, 56),
    *(60, 64, 72, 80, 96, 100, 112, 120, 128, 160, 192, 200, 256, 320, 384, 512, 768, 1024, 2048),
)
"""Micro batches that a message may propose beside the whole share; CEL cannot count to a number."""

_GLOBAL = "int(self.hyperparameters.globalBatchSize)"
_MICRO = "int(self.hyperparameters.microBatchSize)"
_WORLD = (
    "(self.resources.nodes * (self.resources.gpusPerNode > 0 ? self.resources.gpusPerNode : 1))"
)
_SHARE = f"({_GLOBAL} / {_WORLD})"
_BELOW = f"{list(_SUGGESTED)}.filter(n, v[3] % n == 0 && n < v[0]).max()"
_ABOVE = f"({list(_SUGGESTED)} + [v[3]]).filter(n, v[3] % n == 0 && n > v[0]).min()"
_GLOBAL_IS_AUTO = "type(self.hyperparameters.globalBatchSize) == string"
_MICRO_IS_AUTO = "type(self.hyperparameters.microBatchSize) == string"


def _digits(number: str) -> str:
    """Return CEL that writes a whole number of up to five digits.

    The API server takes the length of ``string(number)`` for unbounded and refuses it.
    """
    digits = [
        f"'0123456789 '.substring({index}, {index} + 1)"
        for power in (10000, 1000, 100, 10)
        for index in [f"({number} < {power} ? 10 : {number} / {power} % 10)"]
    ]
    last = f"'0123456789'.substring({number} % 10, {number} % 10 + 1)"
    return f"({' + '.join([*digits, last])}).trim()"


def world_size_of(spec: BatchedSpec) -> int:
    """Return the number of data-parallel ranks; without GPUs there is one process per node."""
    return spec.resources.nodes * max(1, spec.resources.gpus_per_node)


def _divides_over_ranks(spec: BatchedSpec) -> bool:
    asked = spec.hyperparameters.global_batch_size
    return asked == "auto" or asked % world_size_of(spec) == 0


def _explain_global(spec: BatchedSpec) -> str:
    asked, ranks = int(spec.hyperparameters.global_batch_size), world_size_of(spec)
    below = asked // ranks * ranks
    near = f"{below} or {below + ranks}" if below else f"{ranks}"
    return (
        f"hyperparameters.globalBatchSize {asked} does not divide over {ranks} ranks (nodes x "
        f"gpusPerNode): use {near}"
    )


def _divides_share(spec: BatchedSpec) -> bool:
    asked, whole = spec.hyperparameters.micro_batch_size, spec.hyperparameters.global_batch_size
    if asked == "auto" or whole == "auto" or not _divides_over_ranks(spec):
        return True
    return whole // world_size_of(spec) % asked == 0


def _explain_micro(spec: BatchedSpec) -> str:
    asked = int(spec.hyperparameters.micro_batch_size)
    whole, ranks = int(spec.hyperparameters.global_batch_size), world_size_of(spec)
    share = whole // ranks
    divisors = [n for n in _SUGGESTED if share % n == 0]
    above = min(n for n in [*divisors, share] if n > asked) if asked < share else 0
    near = (
        f"{max(n for n in divisors if n < asked)} or {above}"
        if above
        else f"{share} or a divisor of it"
    )
    return (
        f"hyperparameters.microBatchSize {asked} does not divide the {share} examples that a rank "
        f"takes per step (globalBatchSize {whole} over nodes x gpusPerNode = {ranks}): use {near}"
    )


BATCH_RULES: tuple[Rule, ...] = (
    Rule(
        rule=f"{_GLOBAL_IS_AUTO} || {_GLOBAL} % {_WORLD} == 0",
        message=(
            "hyperparameters.globalBatchSize must be a multiple of the ranks (nodes x gpusPerNode)"
        ),
        message_expression=(
            f"[[{_GLOBAL}, {_WORLD}]].map(v, "
            f"'hyperparameters.globalBatchSize ' + {_digits('v[0]')} + ' does not divide over ' + "
            f"{_digits('v[1]')} + ' ranks (nodes x gpusPerNode): use ' + "
            f"(v[0] > v[1] ? {_digits('(v[0] / v[1] * v[1])')} + ' or ' : '') + "
            f"{_digits('((v[0] / v[1] + 1) * v[1])')})[0]"
        ),
        field="hyperparameters.globalBatchSize",
        check=_divides_over_ranks,
        explain=_explain_global,
    ),
    Rule(
        rule=(
            f"{_GLOBAL_IS_AUTO} || {_MICRO_IS_AUTO} || {_MICRO} < 1 || "
            f"{_GLOBAL} % {_WORLD} != 0 || {_SHARE} % {_MICRO} == 0"
        ),
        message=(
            "hyperparameters.microBatchSize must divide what a rank takes per step: "
            "globalBatchSize / (nodes x gpusPerNode)"
        ),
        message_expression=(
            f"[[{_MICRO}, {_GLOBAL}, {_WORLD}, {_SHARE}]]"
            f".map(v, v[0] > v[3] ? v : v + [{_BELOW}, {_ABOVE}])"
            ".map(v, 'hyperparameters.microBatchSize ' + "
            f"{_digits('v[0]')} + ' does not divide the ' + "
            f"{_digits('v[3]')} + ' examples that a rank takes per step (globalBatchSize ' + "
            f"{_digits('v[1]')} + ' over nodes x gpusPerNode = ' + {_digits('v[2]')} + '): use ' + "
            f"(v[0] > v[3] ? {_digits('v[3]')} + ' or a divisor of it' : "
            f"{_digits('v[4]')} + ' or ' + {_digits('v[5]')}))[0]"
        ),
        field="hyperparameters.microBatchSize",
        check=_divides_share,
        explain=_explain_micro,
    ),
)
"""What :mod:`finetune_api.v1alpha1.finetunejob` adds to its own rules."""
