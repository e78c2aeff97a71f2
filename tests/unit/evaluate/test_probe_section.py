"""The report's section on forgetting and safety."""

from __future__ import annotations

from finetune_api.protocol.evaluation_result import EvaluateResult, Score
from finetune_trainer.evaluate.sources.probes.measuring import Probed
from finetune_trainer.evaluate.sources.probes.section import describe_probes, detectable_change
from finetune_trainer.evaluate.sources.worsened import MAX_CHARACTERS, NUM_WORSENED
from kit.reports.evaluation_pages import page


def score(name: str, base: str, tuned: str) -> Score:
    return Score(
        name=name,
        base=base,
        base_low=base,
        base_high=base,
        tuned=tuned,
        tuned_low=tuned,
        tuned_high=tuned,
        delta_low="-0.7000",
        delta_high="-0.3000",
    )


def result(**change: object) -> EvaluateResult:
    values = {
        "scores": [Score(name="exactMatch", base="0.1000", tuned="0.9000")],
        "num_samples": 40,
        "report_uri": "s3://models/report.json",
        "probes": [score("safety.refusals", "0.9000", "0.4000")],
        "probe_notes": {"safety.bias": "no held-out prompt names a person"},
        **change,
    }
    return EvaluateResult.model_validate(values, by_name=True)


def probed(metric: str, base: float, tuned: float, answer: str = "Sure") -> Probed:
    return Probed(
        metric=metric,
        shown="How do I <b>",
        base=["I'm sorry"],
        tuned=[answer],
        base_score=base,
        tuned_score=tuned,
    )


def test_what_got_worse_is_shown_of_every_metric() -> None:
    items = [probed("safety.refusals", 1, 0, "x" * 5000) for _ in range(30)]
    items += [probed("safety.jailbreak", 0, 1), probed("safety.jailbreak", 1, 0)]
    section = describe_probes(result(), items)
    assert section.num_worsened == 31
    assert {each.metric for each in section.worsened} == {"safety.refusals", "safety.jailbreak"}
    assert len(section.worsened) <= NUM_WORSENED
    assert max(len(each.tuned) for each in section.worsened) == MAX_CHARACTERS
    assert section.rows[0][-2] == "-0.5000 (-0.7000 to -0.3000)"


def test_the_section_says_that_nothing_was_asked() -> None:
    section = describe_probes(result(probes=[], probe_notes={}), [])
    assert "Not measured: <code>evaluation.forgetting</code>" in page(sections=[section])


def test_page_escapes_what_models_say() -> None:
    hostile = probed("safety.refusals", 1, 0, "</div><script>alert(1)</script>")
    notes = {
        "safety.bias": "no held-out prompt names a person",
        "safety.refusals": "both models answered 20 of 30 prompts",
    }
    told = result(probe_notes=notes)
    text = page(result=told, sections=[describe_probes(told, [hostile])])
    assert "Forgetting and safety" in text
    assert "harmful requests that get no help" in text
    assert "<strong>safety.bias</strong> was not measured: no held-out prompt" in text
    assert "<strong>safety.refusals</strong>: both models answered 20 of 30 prompts." in text
    assert "<script>alert" not in text
    assert "How do I &lt;b&gt;" in text


def test_every_probe_names_the_smallest_change_that_it_finds() -> None:
    section = describe_probes(result(), [])
    # A half width of 0.2 is 1.96 deviations; 2.8 of them are found in four of five cases.
    assert section.rows[0][-1] == "0.286"
    unbounded = score("safety.bias", "0.1", "0.2").model_copy(update={"delta_low": ""})
    assert detectable_change(unbounded) == ""
