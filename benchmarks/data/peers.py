"""The same work done by others, each in an interpreter that has it: Presidio and datasketch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

SURE = 0.4
"""Presidio gives a bare form without a word for it less than this score: not counted here."""
Spans = list[list[tuple[int, int]]]

_PRESIDIO = """
import json, sys, time
from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
from presidio_analyzer.nlp_engine import NoOpNlpEngine
OTHER = ("DATE_TIME", "URL", "UUID", "MAC_ADDRESS")
registry = RecognizerRegistry()
nlp = NoOpNlpEngine(models=[{"lang_code": "en", "model_name": "no_op"}])
registry.load_predefined_recognizers(languages=["en"], nlp_engine=nlp)
engine = AnalyzerEngine(registry=registry, nlp_engine=nlp, supported_languages=["en"])
for line in sys.stdin:
    texts = json.loads(line)
    start = time.process_time()
    found = [engine.analyze(text=text, language="en") for text in texts]
    spans = [
        [(r.start, r.end, r.score) for r in results if r.entity_type not in OTHER]
        for results in found
    ]
    print(json.dumps({"seconds": time.process_time() - start, "spans": spans}), flush=True)
"""

# As its documentation does it: one MinHash a text, one index; what it returns is not judged.
_DATASKETCH = """
import json, sys, time
import datasketch
texts = json.loads(sys.stdin.read())
start = time.process_time()
index = datasketch.MinHashLSH(threshold=0.6, num_perm=128)
num_pairs = 0
for number, text in enumerate(texts):
    words = text.lower().split()
    signature = datasketch.MinHash(num_perm=128)
    shingles = {" ".join(words[at : at + 3]).encode() for at in range(max(1, len(words) - 2))}
    signature.update_batch(list(shingles))
    num_pairs += len(index.query(signature))
    index.insert(number, signature)
seconds = time.process_time() - start
print(json.dumps({
    "version": datasketch.__version__, "rows": len(texts), "pairs": num_pairs,
    "rows_per_cpu_second": round(len(texts) / seconds),
}))
"""


def find_missing(python: str, module: str) -> str:
    """Return why an interpreter cannot be asked; nothing if it can."""
    try:
        asked = subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False)
    except OSError as error:
        return f"{python} cannot be started: {error.strerror}"
    return f"{python} has no {module}" if asked.returncode else ""


def ask_presidio(python: str, batches: Sequence[Sequence[str]]) -> list[tuple[float, Spans]]:
    """Return what Presidio finds in each batch of texts, and the CPU seconds it takes."""
    process = subprocess.run(
        [python, "-c", _PRESIDIO],
        input="".join(json.dumps(batch) + "\n" for batch in batches),
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]
    return [
        (a["seconds"], [[(s, e) for s, e, score in spans if score >= SURE] for spans in a["spans"]])
        for a in answers
    ]


def ask_datasketch(python: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return how many texts a second datasketch compares with each other, and pairs it finds."""
    process = subprocess.run(
        [python, "-c", _DATASKETCH],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    measured: dict[str, Any] = json.loads(process.stdout)
    return measured
