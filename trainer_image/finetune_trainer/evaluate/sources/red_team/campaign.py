"""The attacks of one evaluation: who attacks, in which runs, and what is left of those."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

from finetune_api.v1alpha1.evaluation.red_teaming import RedTeam
from finetune_trainer.evaluate.inference.vllm_server import BASE_NAME
from finetune_trainer.evaluate.sources.red_team.catalog import Catalog
from finetune_trainer.evaluate.sources.red_team.configuration import Asking, make_configuration
from finetune_trainer.evaluate.sources.red_team.container import Garak

SIDES = (BASE_NAME, "tuned")
"""The models by their names on the server, in the order in which they are attacked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attacker:
    """garak, which has the probes that the job asks for.

    Attributes:
        red_team: What the job asks for.
        garak: garak beside this stage.
        catalog: The probes that it has.
        stop: Set where this process was asked to stop.
    """

    red_team: RedTeam
    garak: Garak
    catalog: Catalog
    stop: threading.Event

    @property
    def engine(self) -> str:
        """Who attacks, in words."""
        image = f" ({self.garak.image})" if self.garak.image else ""
        return f"garak {self.catalog.version}{image}"

    @property
    def num_answers(self) -> int:
        """Most answers that both models give, where probes know a bound."""
        return len(SIDES) * self.red_team.max_prompts * len(self.probes)

    @property
    def probes(self) -> list[str]:
        """The probes that are run, each once."""
        names = (name for entry in self.red_team.probes for name in self.catalog.expand(entry))
        return list(dict.fromkeys(names))


@dataclass(kw_only=True)
class Campaign:
    """The attacks of one evaluation.

    Attributes:
        attacker: Who attacks.
        asking: How models are asked.
        key: Where in storage what a run leaves is kept, before its name.
        texts: What garak has left of the runs that came to their end.
        left_out: Of the runs that garak could not bring to their end, why.
    """

    attacker: Attacker
    asking: Asking
    key: str
    texts: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @cached_property
    def runs(self) -> dict[str, tuple[str, str]]:
        """Model and probe of each run, in their order."""
        return {
            f"{side}-{number}": (side, probe)
            for side in SIDES
            for number, probe in enumerate(self.attacker.probes)
        }

    @property
    def left(self) -> dict[str, tuple[str, str]]:
        """The runs that are not over."""
        over = {*self.texts, *self.left_out}
        return {run: what for run, what in self.runs.items() if run not in over}

    @property
    def notes(self) -> list[str]:
        """What to know of the runs that garak could not bring to their end, each once."""
        return list(dict.fromkeys(self.left_out[run] for run in self.runs if run in self.left_out))

    def kept_at(self, run: str) -> str:
        """Return where what a run leaves is kept."""
        return f"{self.key}-{run}.jsonl"

    def left_out_at(self, run: str) -> str:
        """Return where it is kept why a run is left out."""
        return f"{self.key}-{run}.left-out.txt"

    def text_of(self, side: str) -> str:
        """Return what garak has left of a model, as far as it is known."""
        return "".join(
            self.texts.get(run, "") for run, (its, _) in self.runs.items() if its == side
        )

    def configure(self, run: str, url: str) -> str:
        """Return what garak is told of a run."""
        side, probe = self.runs[run]
        return make_configuration(
            self.attacker.red_team, self.asking, probe=probe, model=side, run=run, url=url
        )
