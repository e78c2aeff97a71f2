"""Reading what happened: processor time and memory of a process, requests from the audit log."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete"})


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Resources a process has used."""

    cpu_seconds: float
    rss_mib: float
    peak_rss_mib: float


def usage_of(pid: int) -> Usage:
    """Read processor time and memory of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    memory = {
        line.split(":")[0]: int(line.split()[1])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }
    return Usage(
        cpu_seconds=ticks / os.sysconf("SC_CLK_TCK"),
        rss_mib=memory["VmRSS"] / 1024,
        peak_rss_mib=memory["VmHWM"] / 1024,
    )


class CpuMeter:
    """Processor time of every process of a run, and of the whole machine, since it was made.

    Args:
        readers: What each process has used, by its name; this one is counted as ``benchmark``.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Usage]]) -> None:
        own = partial(usage_of, os.getpid())
        self._readers: Mapping[str, Callable[[], Usage]] = {**readers, "benchmark": own}
        self._before, self._machine = self._read(), _machine_ticks()

    def seconds(self) -> dict[str, float]:
        """Return what each has used, the most first, and what the cores had left (``idle``).

        What they add up to beside the time of all cores, others on the machine have used.
        """
        used = {name: value - self._before[name] for name, value in self._read().items()}
        ordered = sorted(used.items(), key=lambda item: -item[1])
        idle, total = (
            (after - before) / os.sysconf("SC_CLK_TCK")
            for before, after in zip(self._machine, _machine_ticks(), strict=True)
        )
        ordered += [("idle", idle), ("all cores", total)]
        return {name: round(value, 1) for name, value in ordered}

    def _read(self) -> dict[str, float]:
        return {name: read().cpu_seconds for name, read in self._readers.items()}


def _machine_ticks() -> tuple[int, int]:
    """Return the ticks that all cores were idle, and all there were."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    ticks = [int(word) for word in line.split()[1:9]]  # guests are counted within the first
    return ticks[3] + ticks[4], sum(ticks)


def requests_by_kind(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    """Count requests as ``verb resource/subresource``."""
    counts: Counter[str] = Counter()
    for entry in entries:
        reference = entry["objectRef"]
        resource = reference["resource"]
        if reference.get("subresource"):
            resource += f"/{reference['subresource']}"
        counts[f"{entry['verb']} {resource}"] += 1
    return counts


def num_writes(counts: Counter[str]) -> int:
    """Return how many of the requests were writes, reviews and leases left out."""
    return sum(
        count
        for kind, count in counts.items()
        if kind.split()[0] in WRITES and kind.split()[1] not in ("leases", "tokenreviews")
    )


@dataclass(frozen=True, kw_only=True)
class FirstJobs:
    """When FineTuneJobs, and their first Jobs, were created: seconds of the server's own clock."""

    created: dict[str, float]
    children: dict[str, float]

    def latencies(self) -> list[float]:
        """Return the seconds from each job's creation to that of its first Job."""
        return [self.children[name] - self.created[name] for name in self.children]

    def creating_seconds(self) -> float:
        """Return how long it took to create all FineTuneJobs."""
        return max(self.created.values()) - min(self.created.values())

    def last_seconds(self) -> float:
        """Return the seconds from the first job's creation to the last first Job."""
        return max(self.children.values()) - min(self.created.values())


def first_jobs(entries: list[dict[str, Any]]) -> FirstJobs:
    """Read both times off the audit log, at the moment the creating request was answered."""
    created: dict[str, float] = {}
    children: dict[str, float] = {}
    for entry in entries:
        if entry["verb"] != "create" or entry.get("responseStatus", {}).get("code") != 201:
            continue
        reference = entry["objectRef"]
        moment = datetime.fromisoformat(entry["stageTimestamp"]).timestamp()
        name = reference.get("name") or ""
        if reference["resource"] == "finetunejobs":
            created[name] = moment
        elif reference["resource"] == "jobs" and name.endswith("-prepare"):
            children[name.removesuffix("-prepare")] = moment
    return FirstJobs(created=created, children=children)


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile, nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
