"""Decides from heartbeats whether ranks hang, and which one is to blame. Pure.

Open connections prove nothing; only steps count. Ranks meet in every step, so all stop soon after
one; the one with the fewest beats is behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_trainer.train.parent.beats import Beat, Phase

MIN_STEP_SECONDS = 600.0
STEPS = 10
"""Default limit: so many median steps, at least :data:`MIN_STEP_SECONDS`."""
PATIENCE_SECONDS = 3600.0
"""For phases without a usual length: loading, compiling, storing."""
NUM_FRAMES = 3

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_COLLECTIVE = re.compile(
    r"torch/(distributed|nn/parallel/distributed|autograd/graph)|accelerate/utils/operations"
)
"""Where a rank waits for the others: DDP meets them inside of the backward pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Longest silence of ranks; ``step_seconds`` None derives it from the steps so far."""

    step_seconds: int | None = None

    def of(self, beat: Beat) -> float:
        """Return the seconds that may follow a beat."""
        if beat.phase is not Phase.TRAINING:
            return max(PATIENCE_SECONDS, float(self.step_seconds or 0))
        if self.step_seconds is not None:
            return float(self.step_seconds)
        return max(MIN_STEP_SECONDS, STEPS * beat.step_seconds)


def is_hung(beats: Sequence[Beat], limits: Limits, *, now: float, started: float) -> bool:
    """Return whether no rank has given a sign of life within its limit.

    ``now`` and ``started``, when the ranks were started, are monotonic seconds.
    """
    if not beats:
        return now - started > PATIENCE_SECONDS
    return now - max(beat.at for beat in beats) > max(limits.of(beat) for beat in beats)


@dataclass(frozen=True, kw_only=True, slots=True)
class Blame:
    """The rank that the others wait for; None if it is not on this node."""

    rank: int | None
    message: str


def find_blame(
    beats: Sequence[Beat],
    stacks: Mapping[int, str],
    limits: Limits,
    *,
    now: float,
    has_other_nodes: bool,
) -> Blame:
    """Return the rank that was behind, and where.

    Args:
        beats: The last beat of every rank of this node.
        stacks: Their stacks, as :mod:`faulthandler` writes them.
        limits: The exceeded limits.
        now: Monotonic seconds.
        has_other_nodes: Some ranks run on other nodes.
    """
    if not beats:
        return Blame(rank=None, message="no rank has started, and none says why")
    newest = max(beats, key=lambda beat: beat.at)
    quiet = (
        f"no rank has made a step for {now - newest.at:.0f} s (limit "
        f"{max(limits.of(beat) for beat in beats):.0f} s, median step {newest.step_seconds:.2g} s)"
    )
    waits = {beat.rank: is_in_collective(stacks.get(beat.rank, "")) for beat in beats}
    places = {beat.rank: place_of(stacks.get(beat.rank, "")) for beat in beats}
    behind = min(beats, key=lambda beat: (beat.count, waits[beat.rank], beat.rank))
    place = places[behind.rank]
    # A GPU that waits for others is waited for wherever its result is needed.
    is_together = all(waits.values()) or (len(beats) > 1 and len(set(places.values())) == 1)
    if is_together and len({beat.count for beat in beats}) == 1:
        where = "another node" if has_other_nodes else "each other"
        who = f"all ranks wait for {where} after step {behind.step}, at {place}"
        return Blame(rank=None, message=f"{quiet}; {who}")
    others = [beat for beat in beats if beat is not behind]
    ahead = f"; the others wait at {places[others[0].rank]}" if others else ""
    who = f"rank {behind.rank} is behind, after step {behind.step} while {behind.phase}, at {place}"
    return Blame(rank=behind.rank, message=f"{quiet}; {who}{ahead}")


def is_in_collective(stacks: str) -> bool:
    """Return whether the main thread waits for other ranks."""
    return any(_COLLECTIVE.search(file) for file, _, _ in _frames_of(stacks))


def place_of(stacks: str) -> str:
    """Return the innermost calls of the main thread, the last one first."""
    frames = [f"{Path(file).name}:{line} in {name}" for file, line, name in _frames_of(stacks)]
    return " < ".join(frames) or "an unknown place (it answers no signal)"


def _frames_of(stacks: str) -> list[tuple[str, str, str]]:
    # The main thread is the oldest, and comes last.
    main = stacks.rstrip().rpartition("(most recent call first):")[2]
    return _FRAME.findall(main)[:NUM_FRAMES]
