"""Readers ask about each headline of some months, and editors correct what is wrong.

``python play.py http://127.0.0.1:8080/v1 --months 1-9`` (needs the package openai). A month takes
at least a minute, so that the monitor can look at it alone. Editors know the true labels, which are
held back from the model, and look at four of five answers.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openai import OpenAI

MODEL = "headline-moods"
QUESTION = "Sentiment of: {}"
SHARE_LOOKED_AT = 0.8
SECONDS_PER_MONTH = 61.0
NUM_READERS_AT_ONCE = 8


def ask(client: OpenAI, asked: Mapping[str, Any]) -> bool:
    """Ask as a reader, and correct as an editor; return whether the answer was right."""
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": QUESTION.format(asked["headline"])}],
        user=asked["user"],
        max_tokens=8,
        temperature=0,
    )
    text = (answer.choices[0].message.content or "").strip()
    is_right = bool(text == asked["label"])
    if random.Random(answer.id).random() < SHARE_LOOKED_AT:
        told = {"rating": "up"} if is_right else {"rating": "down", "correction": asked["label"]}
        client.chat.completions.update(answer.id, metadata=told)
    return is_right


def main() -> None:
    """Play the months that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--months", default="1-12", help="for example 1-9")
    arguments = parser.parse_args()
    first, _, last = arguments.months.partition("-")
    lines = (Path(__file__).parent / "data" / "year.jsonl").read_text(encoding="utf-8")
    year = list(map(json.loads, lines.splitlines()))
    client = OpenAI(base_url=arguments.url, api_key="none", max_retries=5)
    for month in range(int(first), int(last or first) + 1):
        begin = time.monotonic()
        asked = [question for question in year if question["month"] == month]
        with ThreadPoolExecutor(NUM_READERS_AT_ONCE) as readers:
            right = list(readers.map(lambda question: ask(client, question), asked))
        print(f"month {month:2}: {sum(right) / len(right):.0%} right", flush=True)
        time.sleep(max(0.0, SECONDS_PER_MONTH - (time.monotonic() - begin)))


if __name__ == "__main__":
    main()
