"""Rules on the sources of a data set."""

from __future__ import annotations

from finetune_api.meta import decimal_of
from finetune_api.rule import Rule

MAX_WEIGHT = 100

SOURCE_RULES: tuple[Rule, ...] = (
    Rule(
        rule="!has(self.dataset.anchor) || self.evaluation.looks == 'Correct'",
        message=(
            "dataset.anchor is looked at by every job that names it: set evaluation.looks to "
            "Correct, so that their verdicts together are as sure as one"
        ),
        field="evaluation.looks",
        check=lambda s: s.dataset.anchor is None or s.evaluation.looks == "Correct",
    ),
    Rule(
        rule=(
            "self.dataset.sources.all(s, double(s.weight) > 0.0 && "
            f"double(s.weight) <= {MAX_WEIGHT}.0)"
        ),
        message=(
            f"dataset.sources: weight must be greater than 0 and at most {MAX_WEIGHT}; a source "
            "that is not to be seen at all is left out of the list"
        ),
        field="dataset.sources",
        check=lambda spec: all(
            0 < decimal_of(source.weight) <= MAX_WEIGHT for source in spec.dataset.sources
        ),
    ),
    Rule(
        rule=(
            "self.dataset.sources.all(s, double(s.weight) == 1.0 || s.side in ['Split', 'Train'])"
        ),
        message=(
            "dataset.sources: weight says how often rows are trained on, and a source with side "
            "Validation or Test has none; leave it out"
        ),
        field="dataset.sources",
        check=lambda spec: all(
            decimal_of(source.weight) == 1 or source.side in ("Split", "Train")
            for source in spec.dataset.sources
        ),
    ),
    Rule(
        rule=(
            "self.dataset.sources.all(s, s.uri.startsWith('traffic://') || "
            "(!has(s.since) && !has(s.until) && !has(s.feedback) && !has(s.maxPercentPerPerson)))"
        ),
        message=(
            "dataset.sources: since, until, feedback and maxPercentPerPerson are for traffic:// "
            "alone; leave them out"
        ),
        field="dataset.sources",
        check=lambda spec: all(
            source.is_traffic
            or (source.since, source.until, source.feedback, source.max_percent_per_person)
            == (None, None, None, None)
            for source in spec.dataset.sources
        ),
    ),
    Rule(
        rule=(
            "self.dataset.sources.all(s, !s.uri.startsWith('traffic://') || (!has(s.columns) && "
            "!has(s.sheet) && !has(s.template) && !has(s.system) && !has(s.credentialsRef) && "
            "s.format == 'Auto'))"
        ),
        message=(
            "dataset.sources: traffic:// has columns, format and credentials of its own; leave "
            "columns, sheet, template, system, format and credentialsRef out"
        ),
        field="dataset.sources",
        check=lambda spec: all(
            not source.is_traffic
            or (
                source.columns is None
                and source.sheet is None
                and source.template is None
                and source.system is None
                and source.credentials_ref is None
                and source.format == "Auto"
            )
            for source in spec.dataset.sources
        ),
    ),
    Rule(
        rule=("self.dataset.sources.all(s, !has(s.since) || !has(s.until) || s.since < s.until)"),
        message="dataset.sources: since must be before until",
        field="dataset.sources",
        check=lambda spec: all(
            source.since is None or source.until is None or source.since < source.until
            for source in spec.dataset.sources
        ),
    ),
)
