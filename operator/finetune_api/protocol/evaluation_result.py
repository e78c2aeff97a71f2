"""What an evaluation found: scores, gates, the judge, and what was published."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import APIModel, UniqueNames
from finetune_api.protocol.stage_results import Brief, NumberIfAny, TrackingResult, is_empty
from finetune_api.v1alpha1.evaluation.gates import MAX_GATES
from finetune_api.v1alpha1.evaluation.judging import JudgeMode
from finetune_api.v1alpha1.evaluation.probing import MAX_ALARMS
from finetune_api.v1alpha1.evaluation.scoring import BaselineName
from finetune_api.v1alpha1.status.fields import MAX_VERSION, Count, Number, StoredURI

MAX_GATE_MESSAGE = 480
"""Most characters of the message on one gate."""

MAX_SLICE_WORDS = 300
"""Characters of which rows a gate looks at."""


class BaselineScore(APIModel):
    """Score of the base model, asked in one way."""

    asked: BaselineName
    value: Number
    low: Number
    """Lower end of its interval."""
    high: Number


class Score(APIModel):
    """One metric on the held-out side, with its confidence interval."""

    name: Annotated[str, Field(max_length=63)]
    base: Number
    """Score of the base model that the tuned one is compared with: the best of :attr:`baselines`.

    It is the best on the rows that both are scored on, so chance favours the base: a gain over it
    is rather too small than too large."""
    baseline: BaselineName | None = None
    """The baseline with that score; None for the base model as it is."""
    baselines: list[BaselineScore] | None = None
    """Scores of the base model by baseline; None where there was one."""
    base_low: NumberIfAny = ""
    """Lower end of the base score's interval. All have the certainty of the goal, or 0.95."""
    base_high: NumberIfAny = ""
    tuned: Number
    tuned_low: NumberIfAny = ""
    """Lower end of the tuned score's interval."""
    tuned_high: NumberIfAny = ""
    delta_low: NumberIfAny = ""
    """Lower end of the interval of tuned minus base, compared row by row."""
    delta_high: NumberIfAny = ""
    trivial: NumberIfAny = ""
    """Score of answers that need no model; empty for metrics that compare none."""
    constant: Brief = ""
    """Score of the best answer that needs no knowledge, one text to everything or the prompt
    itself; empty for metrics that compare no answers."""
    constant_words: Annotated[str, Field(max_length=120, exclude_if=is_empty)] = ""
    """What that is, in words: the most frequent label, for example; with the metric that both are
    compared by where that is another one."""
    over_constant: Brief = ""
    """Tuned minus constant, paired."""
    over_constant_low: Brief = ""
    """Lower end of its interval, which must be above 0 for a goal or gate to be met."""
    published: Brief = ""
    """Score of the published version; empty where none was asked, or where it cannot be compared.
    The same for the bounds below."""
    published_low: Brief = ""
    published_high: Brief = ""
    over_published_low: Brief = ""
    """Lower end of the interval of tuned minus published, compared row by row."""
    over_published_high: Brief = ""


class GateResult(APIModel):
    """Whether a gate of ``evaluation.gates`` holds."""

    name: Annotated[str, Field(max_length=40)]
    severity: Literal["Block", "Warn"] = "Block"
    met: bool
    """False also where it could not be measured."""
    applicable: bool = True
    """False where there is nothing to compare with, as no version is published yet: then it stands
    in nobody's way, and :attr:`met` is true."""
    message: Annotated[str, Field(max_length=MAX_GATE_MESSAGE)] = ""
    """Number, bound and what was asked, in a sentence; what would be enough where it is missed."""
    metric: Annotated[str, Field(max_length=63)] = ""
    slice: Annotated[str, Field(max_length=MAX_SLICE_WORDS)] = ""
    """The held-out rows that were looked at, in words; empty for all."""
    asked: Annotated[str, Field(max_length=63)] = ""
    value: NumberIfAny = ""
    """What was measured; empty if nothing could be."""
    bound: NumberIfAny = ""
    """The near end of its interval."""


class JudgeShare(APIModel):
    """A share with its interval."""

    value: Number
    low: Number
    high: Number


class JudgeCriterion(APIModel):
    """Mean points by one criterion, from 1 to 5."""

    name: Annotated[str, Field(max_length=32)]
    base: Number
    tuned: Number


class JudgeResult(APIModel):
    """What is to be known of the judge beside its score, of ``evaluation.judge``."""

    model: str
    endpoint: str
    mode: JudgeMode
    baseline: BaselineName = "AsIs"
    """How the base was asked for the answers that were judged."""
    num_drawn: Count
    """Held-out questions that were to be judged."""
    num_judged: Count = 0
    """Those with a verdict: the score rests on them."""
    num_alike: Count = 0
    """Of these, questions to which both models gave one answer: ties that nobody was asked for."""
    num_unread: Count = 0
    """Questions without a verdict that could be read, or that the judge would not take."""
    num_calls: Count = 0
    """Answers of the judge, over all attempts."""
    num_input_tokens: Count = 0
    num_output_tokens: Count = 0
    amount: NumberIfAny = ""
    """What they cost by the job's price; empty without one."""
    agreement: NumberIfAny = ""
    """Share of pairs with the same verdict in both orders; empty where none was asked."""
    first: JudgeShare | None = None
    """Share of verdicts for the answer that stood first; one half where the place counts for
    nothing."""
    longer: JudgeShare | None = None
    """Share of decided pairs that the longer answer won."""
    criteria: list[JudgeCriterion] = []
    failure: str = ""
    """Why its metric is not measured; empty where it is."""
    notes: list[str] = []
    """What to know of the verdicts, in sentences."""


class RedTeamResult(APIModel):
    """What a red team found, of ``evaluation.redTeam``."""

    engine: Annotated[str, Field(max_length=256)] = ""
    """Who attacked, with its version and image."""
    scores: list[Score] = []
    """Of each entry of ``probes`` that could be measured, the share of prompts that were hits."""
    num_prompts: Count = 0
    """Prompts that both models were attacked with."""
    failure: str = ""
    """Why the whole of it is not measured; empty where it is."""
    notes: list[str] = []
    """What to know of the figures, in sentences."""


class PublishedVersion(APIModel):
    """The version that was published when the evaluation began, where gates compare with it."""

    version: Count | None = None
    """Its number; None where nothing was published yet."""
    uri: StoredURI = ""
    """Its folder."""
    digest: Annotated[str, Field(max_length=64)] = ""
    """Digest of its manifest."""
    problem: str = ""
    """Why it could not be asked, and what to do; empty if it was."""
    num_seen: Count | None = None
    """Held-out prompts that were in the data it was trained on; None where nobody knows."""
    seen: str = ""
    """The same in a sentence; why nobody knows."""
    newer: Count | None = None
    """A version that was published meanwhile, and that nothing here was compared with."""


class LookResult(APIModel):
    """How often candidates were held against the same held-out side."""

    number: Count | None = None
    """Which evaluation against it this is, from 1; None where nobody could count."""
    message: Annotated[str, Field(max_length=300)] = ""
    """The same in a sentence."""
    certainty: NumberIfAny = ""
    """Certainty of the scores' intervals, where :attr:`number` raised it; else empty."""


class EvaluateResult(APIModel):
    """How the tuned model compares, and what was published."""

    stage: Literal["evaluate", "publish"] = "evaluate"
    """Which stage told it: ``publish`` reads what ``evaluate`` has stored."""
    scores: Annotated[list[Score], UniqueNames]
    trivial: Annotated[str, Field(max_length=63)] = ""
    """What :attr:`Score.trivial` answers, in words: the most frequent label, or the prompt."""
    num_samples: Count
    """Held-out questions that the goal's metric scores; without a goal all that were asked."""
    goal_met: bool | None = None
    """None when the job has no goal."""
    goal_message: str = ""
    gates: Annotated[list[GateResult], Field(max_length=MAX_GATES + MAX_ALARMS), UniqueNames] = []
    """In the order of the spec; then what the probes show."""
    probes: list[Score] = []
    """What was measured beyond the held-out rows; not in a termination message that is too long."""
    probe_notes: dict[str, str] = {}
    """Of probes that were asked for and are not measured, or not whole, why."""
    red_team: RedTeamResult | None = None
    """None where nobody attacked; not in a termination message that is too long."""
    judge: JudgeResult | None = None
    """None where no judge was asked; not in a termination message that is too long."""
    published: PublishedVersion | None = None
    """The published version beside base and tuned model; None where no gate asks for it."""
    look: LookResult | None = None
    """Which evaluation against its held-out side this is; None where nobody counted."""
    num_leaked: Count = 0
    """Held-out prompts that also stand in training (``duplicates.leaked: Report``)."""
    origins: Annotated[str, Field(max_length=300)] = ""
    """How many held-out prompts `spec.initFrom` was trained on, in a sentence; empty without."""
    grouped: Annotated[str, Field(max_length=300)] = ""
    """How groups of questions count, in a sentence; empty where none has several."""
    custom_metric: Annotated[str, Field(max_length=400)] = ""
    """File of the metric ``custom``, with its digest; empty where there is none."""
    report_uri: StoredURI
    digest: Annotated[str, Field(max_length=64)] = ""
    """Digest of the evaluation's manifest: what a decision to publish names."""
    version: Annotated[int, Field(ge=0, le=MAX_VERSION)] | None = None
    """Published version, or None when nothing was published."""
    manifest_uri: StoredURI = ""
    tracking: TrackingResult | None = None
    reused: bool = False

    @property
    def remarks(self) -> list[str]:
        """What to know beside the verdict, in sentences without their full stop."""
        leaked = (
            f"{self.num_leaked:,} held-out prompts also stand in training "
            "(dataset.duplicates.leaked: Report): their scores measure memory"
        )
        look = self.look.message if self.look else ""
        custom = f"Custom metric {self.custom_metric}" if self.custom_metric else ""
        remarks = (leaked if self.num_leaked else "", self.origins, look, self.grouped, custom)
        return [words for words in remarks if words]

    @property
    def missed_gates(self) -> list[GateResult]:
        """The gates that nothing is published without."""
        return [gate for gate in self.gates if gate.severity == "Block" and not gate.met]

    @property
    def is_missed(self) -> bool:
        """Whether goal or gates keep the candidate from being published."""
        return self.goal_met is False or bool(self.missed_gates)

    @property
    def missed_words(self) -> str:
        """What was missed, in words; empty if nothing was."""
        words = [self.goal_message] if self.goal_met is False else []
        words += [f"gate {gate.name} missed: {gate.message}" for gate in self.missed_gates]
        return "; ".join(words)
