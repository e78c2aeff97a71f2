"""The models judge FineTuneEndpoints as the table says, and so does the API server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api import names
from finetune_api.protocol.serving import FrontReport, ServerReport, parse_report
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.spec.serving import (
    ARGUMENT_RULE,
    ARGUMENT_SWITCHES,
    ARGUMENT_VALUES,
)
from kit.cases.endpoint_cases import (
    ENDPOINT_CASES,
    FULL_ENDPOINT_SPEC,
    EndpointCase,
    minimal_endpoint,
)
from kit.cases.spec_cases import changed


@pytest.mark.parametrize("case", ENDPOINT_CASES, ids=lambda case: case.name)
def test_an_endpoint_is_judged(case: EndpointCase) -> None:
    if case.expected is None:
        FineTuneEndpoint.from_wire(case.body)
        return
    with pytest.raises(ValidationError) as refused:
        FineTuneEndpoint.from_wire(case.body)
    assert case.expected in str(refused.value)


def test_a_refused_argument_is_named_with_its_field_and_a_remedy() -> None:
    body = changed(minimal_endpoint(), {"spec.serve": {"arguments": ["--port=9000"]}})
    with pytest.raises(ValidationError) as refused:
        FineTuneEndpoint.from_wire(body)
    (error,) = refused.value.errors()
    assert (error["loc"], error["input"]) == (("spec", "serve", "arguments", 0), "--port=9000")
    assert "Remove it" in error["msg"]


@pytest.mark.parametrize("flag", [*ARGUMENT_VALUES, *ARGUMENT_SWITCHES])
def test_no_argument_smuggles_a_path_an_address_or_a_second_one(flag: str) -> None:
    for character in " \n\t/\\:{[,;'\"=$`-\0":
        for text in (f"{flag}{character}", f"{flag}=1{character}", f"{flag}=a{character}b"):
            if character == "-" and ARGUMENT_RULE.accepts(text):
                assert ARGUMENT_VALUES[flag].startswith("[a-z0-9]"), text  # a name of vLLM's own
                continue
            assert not ARGUMENT_RULE.accepts(text), text


def test_what_is_read_is_written_again() -> None:
    endpoint = FineTuneEndpoint.from_wire(changed(minimal_endpoint(), {"spec": FULL_ENDPOINT_SPEC}))
    wire = endpoint.spec.to_wire()
    assert {key: wire[key] for key in ("rollout", "access")} == {
        key: FULL_ENDPOINT_SPEC[key] for key in ("rollout", "access")
    }
    assert wire["serve"]["arguments"] == FULL_ENDPOINT_SPEC["serve"]["arguments"]
    assert FineTuneEndpoint.from_stored({**endpoint.to_wire(), "later": 1}) == endpoint


@pytest.mark.parametrize(
    ("serve", "num_gpus"),
    [
        ({}, 1),
        ({"engine": "Transformers"}, 0),
        ({"resources": {"gpus": 0}}, 0),
        ({"engine": "Transformers", "resources": {"gpus": 2}}, 2),
    ],
)
def test_an_engine_has_the_gpus_it_needs(serve: dict[str, Any], num_gpus: int) -> None:
    body = changed(minimal_endpoint(), {"spec.serve": serve})
    assert FineTuneEndpoint.from_wire(body).spec.serve.num_gpus == num_gpus


def test_names_tell_namespace_job_and_version_apart() -> None:
    assert names.adapter_name("team-a", "headlines", 12) == "team-a.headlines-v12"
    assert len(names.adapter_name("n" * 63, "j" * 52, 1_000_000)) <= 128
    assert names.server_name("0123456789abcdef" * 4) == "fts-0123456789abcdef01234567"
    assert names.front_url("team-a") == "http://finetune-front.team-a.svc/v1"


def test_reports_are_told_apart_and_may_be_newer() -> None:
    counts = {"requests": 9, "asked": 12, "users": 3, "ofANewerFront": 1}
    stream = {"weight": 5, "active": counts, "candidate": {}}
    front = {
        "kind": "Front",
        "id": "boot-1",
        "endpoints": [
            {
                "name": "headlines",
                "active": "t.headlines-v3",
                "candidate": None,
                "streams": [stream],
                "tripped": ["t.headlines-v4"],
                "requests": 123,
                "fromANewerFront": True,
            }
        ],
    }
    read = parse_report(json.dumps(front))
    assert isinstance(read, FrontReport)
    assert read.endpoints[0].streams[0].active.users == 3
    adapter = {
        "name": "t.headlines-v3",
        "version": 3,
        "sha256": "a" * 64,
        "state": "Failed",
        "reason": "AnswersLikeBase",
        "verification": {"numAsked": 50, "numLikeBase": 48, "score": "0.91"},
    }
    server = {
        "kind": "Server",
        "id": "boot-2",
        "server": "fts-0123456789ab",
        "engine": {"name": "VLLM", "isReady": True},
        "adapters": [adapter],
    }
    read = parse_report(json.dumps(server).encode())
    assert isinstance(read, ServerReport)
    assert read.adapters[0].verification is not None
    assert read.adapters[0].verification.num_like_base == 48


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "Other"},
        {"id": ""},
        {"adapters": [{}]},
        {"adapters": [{"name": "x" * 200, "version": 1, "sha256": "a", "state": "Verified"}]},
        {"engine": {"name": "VLLM", "isReady": "yes of course"}},
    ],
)
def test_a_report_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    report = {"kind": "Server", "id": "b", "server": "fts-1", "engine": {"name": "VLLM"}}
    parse_report(json.dumps(report))
    with pytest.raises(ValidationError):
        parse_report(json.dumps({**report, **change}))
