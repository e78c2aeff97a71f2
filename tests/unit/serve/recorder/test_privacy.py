"""Of personal data that passes an endpoint, nothing lies at rest that data sets would not hold."""

from __future__ import annotations

import json
import random
from pathlib import Path

from finetune_trainer.prepare.privacy.finding import Settings
from finetune_trainer.prepare.privacy.redaction import redact_text
from finetune_trainer.traffic.reading import read_exchanges
from kit.planted.privacy import Planted, plant
from kit.processes.eventually import eventually_async
from kit.servers.running_front import endpoint, running_front, served
from kit.servers.running_recorder import capture, running_recorder
from kit.servers.streaming_engine import streaming_engine

NUM_VALUES = 1000
NUM_OF_REQUEST = 8
"""Two in the prompt, three in the streamed answer, three in the feedback."""
LEAST_SHARE = 0.95
"""Of all kinds together the recognisers must find this share; ``make data-quality`` has each."""


def pieces_of(text: str, chance: random.Random) -> list[str]:
    """Cut a text into pieces of one to four characters, as tokens do."""
    pieces = []
    while text:
        size = chance.randint(1, 4)
        pieces.append(text[:size])
        text = text[size:]
    return pieces


def value_of(each: Planted) -> str:
    """Return a planted value as JSON writes it."""
    return json.dumps(each.text[each.start : each.end], ensure_ascii=False)[1:-1]


def find_at_rest(planted: list[Planted], at_rest: str) -> list[Planted]:
    """Return the values that data sets would not hold, and that lie at rest."""
    return [
        each
        for each in planted
        if value_of(each) in at_rest
        and each.text[each.start : each.end] not in redact_text(each.text, Settings())
    ]


async def test_no_planted_value_lies_at_rest(tmp_path: Path) -> None:
    chance = random.Random(29)
    planted = chance.sample(list(plant(110, seed=29)), NUM_VALUES)
    requests = [
        planted[place : place + NUM_OF_REQUEST] for place in range(0, NUM_VALUES, NUM_OF_REQUEST)
    ]
    async with streaming_engine() as engine:
        made = endpoint(served(1, engine.port), capture=capture(tmp_path))
        async with (
            running_recorder(tmp_path, made) as recorder,
            running_front(tmp_path, made, recorder=recorder.socket) as front,
        ):
            ids = []
            for some in requests:
                texts = [each.text for each in some]
                engine.texts["team-a.headline-v1"] = pieces_of("\n".join(texts[2:5]), chance)
                async with front.ask("\n".join(texts[:2]), stream=True) as answer:
                    await answer.read()
                    ids.append(answer.headers["x-request-id"])

            def are_taken() -> bool:
                rows = list(recorder.keeper.spool.rows_of("headline"))
                return {row.id for row in (*rows, *read_exchanges(recorder.store()))} == set(ids)

            await eventually_async(are_taken, interval=0.2)
            for about, some in zip(ids, requests, strict=True):
                texts = [each.text for each in some[5:]]
                said = {"correction": texts[0], "reason": texts[1], "note": texts[2][:512]}
                async with front.session.post(
                    f"{front.url}/v1/feedback", json={"id": about, "rating": "down", **said}
                ) as answer:
                    assert answer.status == 200
            in_spool = recorder.at_rest()
            assert await recorder.keeper.store_all()
            stored = recorder.at_rest()
    assert find_at_rest(planted, in_spool) == []
    assert find_at_rest(planted, stored) == []
    found = [each for each in planted if value_of(each) not in stored]
    assert len(found) >= LEAST_SHARE * NUM_VALUES
    # What is not personal stays, so the rows were stored.
    assert "The parcel never arrived." in stored
