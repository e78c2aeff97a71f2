"""Sends an object the way the operator takes it: schema, admission, rendering, oracle.

As a program it does so with many, and prints a table: ``make hostile``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.render.config import render_config_map
from finetune_operator.finetunejob.render.job import render_job
from hostile.generator import KINDS, Attack, attacks
from hostile.harmless import harmless
from hostile.oracle import Case, find_break_outs
from hostile.places import PLACES, Place

Object = dict[str, Any]

NAMESPACE, UID = "team-a", "6d7b9a52-91c4-4a04-8f2b-6e8a30b4f2a7"


@dataclass(kw_only=True)
class Outcome:
    """What became of an object.

    Attributes:
        schema: Why the schema refuses it; empty if it does not.
        violations: What admission refuses, of an object that some schema let pass.
        break_outs: By what it breaks out; empty of one that was refused.
        seconds: How long the operator took over it.
    """

    schema: str = ""
    violations: list[str] = field(default_factory=list)
    break_outs: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_refused(self) -> bool:
        """Whether nothing is created for it."""
        return bool(self.schema or self.violations)


def judge(body: Object, place: Place, config: OperatorConfig, *, admits: bool = False) -> Outcome:
    """Take one object as the operator does; with ``admits``, as one that refuses nothing.

    What the schema refuses now may be stored since before it did. So such an object is read as
    stored ones are, and admission alone has to hold it.
    """
    outcome = Outcome()
    started = time.perf_counter()
    try:
        FineTuneJob.from_wire(body)
    except (ValueError, RecursionError) as error:
        outcome.schema = str(error)[:200] or "refused"
    try:
        job = FineTuneJob.from_stored({**body, "status": None})
    except (ValueError, RecursionError) as error:
        outcome.schema = outcome.schema or str(error)[:200]
        return outcome
    if not admits:
        outcome.violations = [str(each) for each in find_violations(job.spec, config)]
    outcome.seconds = time.perf_counter() - started
    if outcome.violations:
        return outcome
    owner = Owner(namespace=NAMESPACE, name=job.metadata.name, uid=UID)
    objects = [render_config_map(job, owner)]
    objects += [render_job(job.spec, stage, owner, config) for stage in Stage]
    if place.policy is None:
        return outcome
    case = Case(body=body, objects=objects, namespace=NAMESPACE, uid=UID, policy=place.policy)
    outcome.break_outs = find_break_outs(case)
    return outcome


@dataclass(kw_only=True)
class Table:
    """Outcomes by kind of attack."""

    tried: Counter[str] = field(default_factory=Counter)
    by_schema: Counter[str] = field(default_factory=Counter)
    by_admission: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[Attack, Place, list[str]]] = field(default_factory=list)
    refused_harmless: list[str] = field(default_factory=list)
    num_harmless: int = 0
    slowest: tuple[float, str] = (0.0, "")

    def add(self, attack: Attack, place: Place, outcome: Outcome) -> None:
        """Count one attack."""
        self.tried[attack.kind] += 1
        self.slowest = max(self.slowest, (outcome.seconds, attack.kind))
        if outcome.break_outs:
            self.broken.append((attack, place, outcome.break_outs))
        elif outcome.schema:
            self.by_schema[attack.kind] += 1
        elif outcome.violations:
            self.by_admission[attack.kind] += 1
        else:
            self.harmless[attack.kind] += 1

    def to_text(self) -> str:
        """Return the table as people read it."""
        broken = Counter(attack.kind for attack, _, _ in self.broken)
        columns = (self.tried, self.by_schema, self.by_admission, self.harmless, broken)
        head = ("attack", "tried", "by schema", "by admission", "harmless", "break-outs")
        rows = [(kind, *(str(column[kind]) for column in columns)) for kind in self.tried]
        rows.append(("all", *(str(column.total()) for column in columns)))
        widths = [max(len(row[n]) for row in (head, *rows)) for n in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) if n == 0 else cell.rjust(width)
                      for n, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *rows)
        ]  # fmt: skip
        lines.append(
            f"harmless objects: {self.num_harmless}, refused: {len(self.refused_harmless)}"
        )
        lines.append(f"slowest: {self.slowest[0]:.3f} s ({self.slowest[1]})")
        return "\n".join(lines)


def run(count: int, seed: int, *, admits: bool = False) -> Table:
    """Try so many attacks and half as many harmless objects, on every cluster in turn.

    Args:
        count: Attacks.
        seed: Of the generator.
        admits: Whether admission is left out: that shows what the oracle finds.
    """
    table, configs = Table(), {place.name: place.config() for place in PLACES}
    for number, attack in enumerate(itertools.islice(attacks(seed), count)):
        place = PLACES[number // len(KINDS) % len(PLACES)]
        table.add(attack, place, judge(attack.body, place, configs[place.name], admits=admits))
    for name, body, place in itertools.islice(harmless(seed), count // 2):
        table.num_harmless += 1
        config = configs.setdefault(place.name, place.config())
        outcome = judge(body, place, config)
        if outcome.is_refused or outcome.break_outs:
            said = outcome.violations or outcome.break_outs or [outcome.schema]
            table.refused_harmless.append(f"{name} on {place.name}: {'; '.join(said)}")
    return table


def main() -> int:
    """Print the table; the exit code says whether anything broke out or was refused in vain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="attacks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20, help="examples of what went wrong")
    parser.add_argument("--admits", action="store_true", help="leave admission out")
    arguments = parser.parse_args()
    table = run(arguments.count, arguments.seed, admits=arguments.admits)
    print(table.to_text())
    reasons = Counter(why.partition(":")[0] for _, _, found in table.broken for why in found)
    print("\n".join(f"{count:6} {reason}" for reason, count in reasons.most_common()))
    for attack, place, why in table.broken[: arguments.show]:
        print(f"\n{attack.kind} on a cluster {place.name}: {why}\n  {str(attack.body)[:600]}")
    for text in table.refused_harmless[: arguments.show]:
        print(f"\nrefused in vain: {text[:600]}")
    return 1 if table.broken or table.refused_harmless else 0


if __name__ == "__main__":
    sys.exit(main())
