"""A report stays within what the operator reads, however many versions a server has."""

import pytest

from finetune_api.protocol.serving import (
    MAX_REPORT_BYTES,
    MAX_REPORTED,
    AdapterReport,
    EngineReport,
    ServerReport,
    Verification,
    parse_report,
)
from finetune_trainer.serve.agent.report import dump


def report_of(num_adapters, state):
    adapters = [
        AdapterReport(
            name=f"{number:04d}".rjust(128, "n"),
            version=number,
            sha256="a" * 64,
            state=state,
            reason="AnswersLikeBase" if state == "Failed" else None,
            message="m" * 1024,
            verification=Verification(num_asked=50, num_equal=50, score="0.9", metric="chrF"),
        )
        for number in range(num_adapters)
    ]
    engine = EngineReport(name="VLLM", version="0.32.0", is_ready=True)
    return ServerReport(id="b" * 32, server="fts-0123456789ab", engine=engine, adapters=adapters)


@pytest.mark.parametrize("state", ["Verified", "Failed"])
def test_the_states_of_all_versions_fit_into_a_report(state):
    body = dump(report_of(MAX_REPORTED, state))
    assert len(body) <= MAX_REPORT_BYTES
    told = parse_report(body).adapters
    assert [each.version for each in told] == list(range(MAX_REPORTED))
    assert {each.state for each in told} == {state}
    assert {each.verification.num_asked for each in told} == {50}


def test_a_report_that_fits_keeps_its_details():
    report = report_of(3, "Verified")
    assert parse_report(dump(report)) == report
