"""Print the tables of ``benchmarks/results/evidence.md``.

``python -m benchmarks.evidence`` prints every table; names of tables print these alone. All
is drawn by seed, so that a figure changes only when the code does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable

from benchmarks.evidence import (
    constants,
    copies,
    coverage,
    families,
    groups,
    jobs,
    leaks,
    looks,
    rare,
    sample_sizes,
    verdicts,
)
from benchmarks.evidence.coverage import Case
from benchmarks.evidence.rare import Rare

NUM_TESTS = 1000
NUM_SIDES = 5000
NUM_CONSTANT = 1000
"""Verdicts of each line of the table of constants: it takes about 11 minutes of one core."""
NUM_SIZED = 500
"""Of jobs that ask as many questions as their goal takes: some thousands."""
NUM_BLEU = 200
NUM_SECRET_JOBS = 2000
"""Of ten secrets each: one false ring in a thousand secrets is allowed."""


def print_shares() -> None:
    """Print the table of intervals of a share of hits."""
    _print_cases("a share of hits", coverage.shares(NUM_TESTS))
    print()
    print(
        "| rows alone: the coverages next to 95 % that there are | below | above |\n|---|---|---|"
    )
    for count in coverage.COUNTS:
        for rate in coverage.RATES[:2]:
            below, above = coverage.reachable(count, rate)
            rates = f"{rate}" if rate == 0.5 else f"{rate} or {1 - rate:.2g}"
            print(f"| {count} rows at {rates} | {below:.1%} | {above:.1%} |")


def print_gains() -> None:
    """Print the table of intervals of a paired difference of hits."""
    _print_cases("a paired difference of hits", coverage.gains(NUM_TESTS))


def print_measurements() -> None:
    """Print the table of intervals of a paired difference of graded scores."""
    _print_cases("a paired difference of graded scores", coverage.measurements(NUM_TESTS))


def print_verdicts() -> None:
    """Print how often a tuned model that equals its base is called better."""
    print("| tuned equal to base | rows | clusters | called better |\n|---|---|---|---|")
    for score, pattern, count, share in verdicts.false_verdicts(NUM_TESTS):
        print(f"| {score} | {_count_words(pattern, count)} | {pattern} | {share:.1%} |", flush=True)


def print_sizes() -> None:
    """Print how often jobs publish that ask as many questions as ``maxSamples: auto`` does."""
    print(
        "| asked for | questions | published where the model is better by the margin "
        "| and where it is not |\n|---|---|---|---|"
    )
    for case in sample_sizes.published_shares(NUM_SIZED):
        print(
            f"| {case.words} | {case.asked:,} of {case.available:,} | {case.published:.1%} "
            f"| {case.false:.1%} |",
            flush=True,
        )


def print_jobs() -> None:
    """Print what jobs are told whose score looks well and means nothing."""
    print("| job | published | decided by | what it is told |\n|---|---|---|---|")
    for told in jobs.tell_all():
        answer = "yes" if told.is_published else "no"
        print(f"| {told.job} | {answer} | {told.stage} | {told.words} |", flush=True)


def print_rare() -> None:
    """Print how often near bounds are wrong where a few rows lose much."""
    _print_rare("graded differences", rare.rare_losses(NUM_TESTS))


def print_bleu() -> None:
    """Print how often BLEU's near bound is wrong where a few answers go astray."""
    _print_rare("BLEU", rare.texts(NUM_BLEU))


def print_macro_f1() -> None:
    """Print how often bounds of macro F1 are wrong, of the score and of the gain."""
    print(
        "| macro F1 | rows | lower end above it | upper end below it | mean width "
        "| gain: lower end above it | upper end below it | mean width |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for line in rare.labels(NUM_SIZED):
        ends = " | ".join(
            f"{each.low_wrong:.1%} | {each.high_wrong:.1%} | {each.width:.3f}"
            for each in (line.tuned, line.gain)
        )
        print(f"| {line.words} | {line.rows} | {ends} |", flush=True)


def print_gates() -> None:
    """Print how often some gate of several is met wrongly."""
    print("| gates | number | some gate wrongly met | were each judged alone |\n|---|---|---|---|")
    for line in families.wrongly_met(NUM_TESTS):
        print(
            f"| {line.words} | {line.number} | {line.corrected:.1%} | {line.alone:.1%} |",
            flush=True,
        )


def print_looks() -> None:
    """Print how often one of many retrainings is published whose truth is just the goal."""
    print(
        f"| candidates that are right in {looks.TRUTH:.0%}, goal {looks.TRUTH}, {looks.NUM_ROWS} "
        "rows | retrainings | published at least once, looks: Report | Correct | a model right in "
        f"{looks.BETTER:.0%} is published at the last one, Report | Correct |\n"
        "|---|---|---|---|---|---|"
    )
    for case in looks.published_once(NUM_SIDES):
        print(
            f"| {case.candidates} | {case.num_looks} | {case.reported:.1%} | {case.corrected:.1%} "
            f"| {case.better_reported:.0%} | {case.better_corrected:.0%} |",
            flush=True,
        )


def print_groups() -> None:
    """Print how often near bounds are wrong where groups have unequal sizes."""
    print(
        "| groups | number | atLeast: lower end above the truth | overBase | were each row to "
        f"count: atLeast | a goal {groups.BELOW} below the truth is shown: atLeast | overBase |\n"
        "|---|---|---|---|---|---|---|"
    )
    for line in groups.unequal_groups(NUM_TESTS):
        print(
            f"| {line.words} | {line.count} | {line.tuned_wrong:.1%} | {line.gain_wrong:.1%} "
            f"| {line.by_rows_wrong:.1%} | {line.tuned_power:.0%} | {line.gain_power:.0%} |",
            flush=True,
        )


def print_constants() -> None:
    """Print how often one answer to everything meets a goal, and how often a good model does."""
    print("| what the model answers | asked for | met | as `finetune validate` says |")
    print("|---|---|---|---|")
    for case, met in constants.met_shares(NUM_CONSTANT):
        asked = f"{case.asked['metric']} {case.asked['atLeast']}"
        foreseen = "" if case.foreseen is None else f"{case.foreseen:.1%}"
        share = f"{met} of {NUM_CONSTANT:,}"
        print(f"| {case.words} | {asked} | {share} | {foreseen} |", flush=True)


def print_copies() -> None:
    """Print which goals copies, templates and constants meet, and which a good model does."""
    print("| data | what is said | kind | goals | met |\n|---|---|---|---|---|")
    totals: dict[str, list[int]] = {}
    for told in copies.judge_all():
        met = f"{len(told.met)} of {len(told.goals)}"
        words = f"{met}: {', '.join(told.met)}" if 0 < len(told.met) < len(told.goals) else met
        goals = "; ".join(told.goals) if told.kind != copies.MODEL else "all of them"
        print(f"| {told.task} | {told.answer} | {told.kind} | {goals} | {words} |", flush=True)
        total = totals.setdefault(told.kind, [0, 0])
        total[0], total[1] = total[0] + len(told.met), total[1] + len(told.goals)
    print()
    for kind, (num_met, number) in totals.items():
        print(f"- {kind}: {num_met} of {number} goals are met")


def print_leaks() -> None:
    """Print how often ten cycles publish by luck if sealed prompts come back into training."""
    print(
        "| of what comes back is trained on | cycles | published at least once | the sealed rows "
        "read too high by |\n|---|---|---|---|"
    )
    for line in leaks.published_by_leaks(NUM_SIDES):
        print(
            f"| {line.share:.0%} | {line.num_cycles} | {line.published:.1%} "
            f"| {line.optimism:+.3f} |",
            flush=True,
        )


def print_alarms() -> None:
    """Print how often the alarms beside gates ring, without harm and with it."""
    print("| what tuning did | some alarm rings | that of the metric |\n|---|---|---|")
    for line in families.rung_alarms(NUM_TESTS):
        its = "" if line.its_rings is None else f"{line.its_rings:.1%}"
        print(f"| {line.words} | {line.any_rings:.1%} | {its} |", flush=True)


def print_canaries() -> None:
    """Print how often secrets are told to be exposed."""
    print("| secrets | told of a secret | of some secret of ten |\n|---|---|---|")
    for line in families.exposed_secrets(NUM_SECRET_JOBS):
        print(f"| {line.words} | {line.by_secret:.2%} | {line.by_job:.1%} |", flush=True)


def _print_rare(what: str, lines: Iterable[Rare]) -> None:
    print(
        f"| {what} | n | lower end above the truth | upper end below it | mean width "
        "| by a bootstrap: lower end above it | mean width |\n|---|---|---|---|---|---|---|"
    )
    for line in lines:
        found, old = line.found, line.resampled
        beside = "as it is | " if old is None else f"{old.low_wrong:.1%} | {old.width:.3f}"
        print(
            f"| {line.words} | {line.rows} | {found.low_wrong:.1%} | {found.high_wrong:.1%} "
            f"| {found.width:.3f} | {beside} |",
            flush=True,
        )


def _print_cases(what: str, cases: Iterable[Case]) -> None:
    print(
        f"| {what} | n | truth | held the truth | lower end above it | upper end below it "
        "| mean width |\n|---|---|---|---|---|---|---|"
    )
    for case in cases:
        found = case.coverage
        print(
            f"| {case.pattern} | {_count_words(case.pattern, case.count)} | {case.truth} "
            f"| {found.held:.1%} | {found.low_wrong:.1%} | {found.high_wrong:.1%} "
            f"| {found.width:.3f} |",
            flush=True,
        )


def _count_words(pattern: str, count: int) -> str:
    return f"{count} clusters" if pattern == coverage.PATTERNS[1] else f"{count} rows"


TABLES: dict[str, Callable[[], None]] = {
    "shares": print_shares,
    "gains": print_gains,
    "measurements": print_measurements,
    "groups": print_groups,
    "rare": print_rare,
    "macroF1": print_macro_f1,
    "bleu": print_bleu,
    "verdicts": print_verdicts,
    "gates": print_gates,
    "alarms": print_alarms,
    "canaries": print_canaries,
    "sizes": print_sizes,
    "looks": print_looks,
    "leaks": print_leaks,
    "jobs": print_jobs,
    "constants": print_constants,
    "copies": print_copies,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(prog="evidence", description=__doc__)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="default: all")
    for name in parser.parse_args(arguments).tables or TABLES:
        start = time.process_time()
        TABLES[name]()
        print(f"\n({name}: {time.process_time() - start:.0f} s of one core)\n", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
