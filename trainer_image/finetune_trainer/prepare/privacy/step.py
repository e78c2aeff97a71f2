"""The row step that looks for personal data, by ``dataset.privacy``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from finetune_api.v1alpha1.spec.privacy import ENTITIES, Privacy
from finetune_trainer.data.rows import (
    QUOTED_CHARACTERS,
    Example,
    RowError,
    refuse_row,
    replace_row,
    shorten,
)
from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.checks.checks import Finding
from finetune_trainer.prepare.checks.screening import Judgement, Removal, Tally
from finetune_trainer.prepare.privacy.finding import Settings, read_settings
from finetune_trainer.prepare.privacy.redaction import Redacted, redact_row, redact_text
from finetune_trainer.prepare.privacy.sides import PERSONAL_DATA, mark_kinds

REASON = "PersonalData"
_CUT_VALUE = 120

NUM_FILES_LISTED = 100
_FILE = "file"
_ROWS, _ANSWERS, _INVENTED = "rows", "answersReplaced", "answersInvented"
_DONE: Mapping[str, str] = {
    "Redact": "replaced personal data or secrets by placeholders such as <EMAIL_1> in",
    "Drop": "left out for personal data or secrets",
    "Refuse": "refused for personal data or secrets",
    "Report": "found personal data or secrets, which dataset.privacy.action Report leaves, in",
}


@dataclass(frozen=True, kw_only=True)
class PrivacyStep:
    """The row step of ``dataset.privacy``; ``action`` is not Off."""

    action: str
    settings: Settings

    def judge(self, example: Example) -> Judgement:
        """Look at one row."""
        redacted = redact_row(example.row, self.settings)
        if not redacted.counts:
            return Judgement(verdict=example)
        counts = _count(redacted)
        counts[f"{_FILE} {example.file}"] = 1
        return Judgement(verdict=self._decide(example, redacted), counts=counts)

    def _decide(self, example: Example, redacted: Redacted) -> Example | RowError | Removal:
        personal = mark_kinds(redacted.counts)
        if self.action == "Report":
            return replace(example, personal=personal)
        if self.action == "Drop":
            return Removal(reason=REASON)
        clean = replace(replace_row(example, redacted.row), personal=personal)
        if self.action == "Redact":
            return clean
        kinds = ", ".join(entity for entity in ENTITIES if redacted.counts.get(entity))
        return refuse_row(
            clean,
            REASON,
            f"the row holds personal data or secrets: {kinds} (dataset.privacy.action Refuse)",
        )

    def summarise(self, tally: Tally) -> Sequence[Finding]:
        """Return the findings over all rows."""
        counts = tally.counts
        found: dict[str, int] = {entity: counts[entity] for entity in ENTITIES if counts[entity]}
        return [
            Finding(
                name=PERSONAL_DATA,
                num_flagged=counts[_ROWS],
                num_removed=tally.removed.total(),
                message=self._tell(tally, found),
                counts=found,
                files=_files(counts),
            )
        ]

    def _tell(self, tally: Tally, found: Mapping[str, int]) -> str:
        counts = tally.counts
        if not counts[_ROWS]:
            return f"looked for personal data and secrets in {tally.num_rows} rows: none found"
        kinds = ", ".join(f"{entity} {number}" for entity, number in found.items())
        parts = [f"{_DONE[self.action]} {counts[_ROWS]} of {tally.num_rows} rows: {kinds}"]
        if self.action == "Redact" and counts[_ANSWERS]:
            parts.append(
                f"of {counts[_ANSWERS]} rows nothing but a placeholder is left of the answer: if "
                "such values are labels to learn, name them in dataset.privacy.allow"
            )
        if self.action == "Redact" and counts[_INVENTED]:
            parts.append(
                f"in {counts[_INVENTED]} rows the answer has a placeholder that its prompt does "
                "not have, and the model learns to write it: allow what it must know, or Drop them"
            )
        return "; ".join(parts)


def _count(redacted: Redacted) -> Counter[str]:
    counts: Counter[str] = Counter({str(entity): n for entity, n in redacted.counts.items()})
    counts[_ROWS] = 1
    counts[_ANSWERS] = int(redacted.answer_is_placeholder)
    counts[_INVENTED] = int(redacted.answer_invents)
    return counts


def _files(counts: Mapping[str, int]) -> dict[str, int]:
    prefix = f"{_FILE} "
    names = sorted(name.removeprefix(prefix) for name in counts if name.startswith(prefix))
    return {name: counts[prefix + name] for name in names[:NUM_FILES_LISTED]}


def privacy_steps(privacy: Privacy) -> tuple[PrivacyStep, ...]:
    """Return the step of a job's settings; none when it is off."""
    if privacy.action == "Off":
        return ()
    return (PrivacyStep(action=privacy.action, settings=read_settings(privacy)),)


@dataclass(frozen=True, kw_only=True)
class Shield:
    """Removes personal data from errors about rows; settings of None change nothing."""

    settings: Settings | None

    def shield_text(self, text: str) -> str:
        """Mask a text of a row, such as a label, for display."""
        return text if self.settings is None else redact_text(text, self.settings)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Remove personal data from an error raised within; field names may be a row."""
        try:
            yield
        except TrainerError as error:
            error.message = self.shield_text(error.message)
            error.args = (error.reason, error.message)
            raise

    def shield(self, error: RowError) -> RowError:
        """Return the error as it may be shown: its quotation short, and without a value."""
        if self.settings is None:
            return replace(error, snippet=shorten(error.snippet))
        return replace(
            error,
            message=self.shield_text(error.message),
            snippet=shorten(_shield_snippet(error.snippet, self.settings)),
        )


def make_shield(privacy: Privacy) -> Shield:
    """Return the shield of a job: against all kinds, whatever it looks for in its rows, or none."""
    return Shield(
        settings=None if privacy.action == "Off" else Settings(allow=tuple(privacy.allow))
    )


def _shield_snippet(snippet: str, settings: Settings) -> str:
    shielded = redact_text(snippet, settings)
    # Of a value that the quotation cuts through the rest may look harmless.
    return shielded[:-_CUT_VALUE] if len(snippet) >= QUOTED_CHARACTERS else shielded
