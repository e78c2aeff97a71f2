"""The termination message of a stage.

The operator cannot read object storage (it holds no credentials), so it reads the result of a stage
here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from finetune_api.meta import APIModel
from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import PrepareResult, TrainResult
from finetune_api.protocol.trainer import FailureClass, Stage
from finetune_api.v1alpha1.status.dataset import InvalidRowPlaces
from finetune_api.v1alpha1.status.fields import Count

TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of a container's termination log, in bytes."""

StageResult = Annotated[PrepareResult | TrainResult | EvaluateResult, Field(discriminator="stage")]

_OF_GATES = ("metric", "slice", "asked", "value", "bound")
"""Of a gate in a termination message: what the report has and a verdict does not need."""
_OF_MOST_GATES = {"severity": "Block", "applicable": True}
"""Of a gate in a termination message: what it is read as where it is not said."""
_BOUNDS = (
    *("baselines", "baseLow", "baseHigh", "tunedLow", "tunedHigh", "deltaLow", "deltaHigh"),
    *("trivial", "publishedLow", "publishedHigh", "overPublishedLow", "overPublishedHigh"),
)
"""Of a score in a termination message: what gives way when there are too many scores."""


OF_REPORTS = ("constant", "constantWords", "overConstant", "overConstantLow")
"""Of a score: what nobody reads from a termination message."""


class TerminationMessage(APIModel):
    """JSON in ``/dev/termination-log``.

    At most :data:`TERMINATION_MESSAGE_BYTES`; ``message`` is cut to fit.
    """

    stage: Stage
    exit_code: int
    failure_class: FailureClass | None = None
    reason: Annotated[str, Field(max_length=63)] = ""
    """CamelCase cause, stable: ``Succeeded``, ``BucketNotFound``, ``InvalidRows`` ..."""
    message: str = ""
    step: Count | None = None
    resumed_from_step: Count | None = None
    """Step that a training which failed had begun at."""
    rank: Count | None = None
    invalid_rows: InvalidRowPlaces = []
    """The first rows that the data was refused for, as :func:`limit_places` lets through."""
    result: StageResult | None = None

    def to_text(self) -> str:
        """Serialise within the size limit: cut the message, then values for the report only.

        Scores stay, and so does whether goal and gates are met.
        """
        limit = TERMINATION_MESSAGE_BYTES
        wire = self.to_wire()
        for score in (wire.get("result") or {}).get("scores", []):
            for name in OF_REPORTS:
                score.pop(name, None)
        text = _dump(wire)
        while len(text.encode()) > limit and wire["message"]:
            excess = len(text.encode()) - limit
            kept = max(0, len(wire["message"]) - excess - 4)
            wire["message"] = wire["message"][:kept] + ("..." if kept else "")
            text = _dump(wire)
        for give_way in _give_way(wire.get("result") or {}):
            if len(text.encode()) <= limit:
                break
            give_way()
            text = _dump(wire)
        return text


def _dump(wire: dict[str, Any]) -> str:
    return json.dumps(wire, separators=(",", ":"))


def _give_way(result: dict[str, Any]) -> Iterator[Callable[[], None]]:
    """Yield ways to shorten a result, the least important first."""

    def drop(item: dict[str, Any], names: Iterable[str]) -> None:
        for name in names:
            item.pop(name, None)

    gates = result.get("gates", [])
    for gate in gates:
        # No loss: readers assume these defaults.
        yield partial(drop, gate, [k for k, v in _OF_MOST_GATES.items() if gate.get(k) == v])
    judge = result.get("judge") or {}
    yield partial(drop, judge, ("criteria", "notes"))
    yield partial(drop, result.get("look") or {}, ("message",))
    for name in ("redTeam", "probeNotes", "probes", "tracking"):
        yield partial(drop, result, (name,))
    yield partial(drop, result.get("published", {}), ("problem", "seen", "uri"))
    for gate in gates:
        yield partial(drop, gate, _OF_GATES)
    for score in reversed(result.get("scores", [])):
        yield partial(drop, score, _BOUNDS)
    yield partial(drop, result, ("judge",))
    # Keep missed gates; the report has the rest.
    for gate in sorted(gates, key=lambda gate: not gate["met"]):
        yield partial(drop, gate, ("message",))
