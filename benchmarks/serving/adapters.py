"""Many adapters on one vLLM: memory, time to load each, and whether one answers as another.

``python -m benchmarks.serving.adapters [--adapters 200] [--record]`` needs FINETUNE_VLLM_PYTHON, a
Python with vLLM; ``make endpoint-vllm`` sets it. The base is the tests' tiny model. Each adapter is
computed so that its answer to each question is no other adapter's, and published with the answers
that Transformers gives with it. The engine, the agent and the front are processes that run what the
operator renders; its pure core plans the endpoints. ``--record`` writes the page of results.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import statistics
import string
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_operator.config import OperatorConfig
from kit.models.tiny_models import make_eager_model
from kit.processes.stages import COLOURS, Workbench, write_rows
from kit.servers.vllm_server import PYTHON
from kit.serving.adapters import AdapterMaker
from kit.serving.operator import LocalOperator
from kit.serving.pods import AGENT_CONTAINER, HOST, SERVING_ENGINE_CONTAINER, Machine, Pod
from kit.serving.versions import StoredVersion, publish_changed, read_version

RESULT = Path(__file__).resolve().parents[1] / "results" / "adapters.md"
RANK = 8
NUM_QUESTIONS = 12
NUM_ASKED = 4
"""Questions that each adapter is asked through the front, one for each colour."""
NUM_TOKENS = 8
NUM_ASKED_TOGETHER = 16
MEMORY_EVERY = 50
"""Adapters between two looks at the memory."""
START_SECONDS = 1200
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
QUESTIONS = tuple(
    f"What colour is thing {i} {COLOURS[i % len(COLOURS)]}?" for i in range(NUM_QUESTIONS)
)
PAGE = """\
# Many adapters on one vLLM, {date}

`make endpoint-vllm`: {num} endpoints with an adapter each share one server, {engine} on a CPU.
{num_cores} cores of an Intel Xeon, {memory:.0f} GiB, no GPU, load average {load:.0f}. The
operator's core planned them; engine, agent and front were processes that ran what it renders. Times
are those of a machine with that load.

The base is the tests' tiny model (four layers, 64 wide, float32). An adapter has rank {rank} on all
linear modules, {size:.0f} KiB. So these are the costs of vLLM's own work, and not of moving large
weights. No two adapters give one answer to a question. What each must say was computed with
Transformers.

## Memory

| adapters loaded | engine, MiB | agent, MiB |
|---|---|---|
{memories}

Each adapter adds {growth:.2f} MiB to the engine. 1 GiB of it is the cache of keys and values. Eight
adapters are in slots at once, and the others wait in main memory.

## Time

| each adapter, one after another | median ms | p90 ms | longest ms |
|---|---|---|---|
{times}

{others} calls that unload took {unload:.1f} s. The first version was available {start:.0f} s after
its endpoint was written, most of which is the start of vLLM. {others} more endpoints, written at
once, were all available after {verify:.0f} s: fetched, every file checked, loaded, and asked
{num_questions} questions each.

## Answers

Each adapter was asked {num_asked} questions through the front, {together} requests at once, in
random order ({num_requests} requests, {rate:.0f} a second).

| its own | another adapter's | the base model's | others |
|---|---|---|---|
| {answers} |

The prefix cache was on. {cached} of {prompts} prompt tokens came from it: on a CPU its blocks have
128 tokens, and these prompts are shorter.
"""


@dataclass(kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        memory: MiB of the engine's processes and of the agent's, by the number of adapters.
        loads: Seconds of each call that loads an adapter.
        firsts: Seconds of the first answer of each adapter, of which its way into a slot is a part.
        seconds: Seconds of the same question once more.
        answers: Answers that are the adapter's own, another's, the base model's, or none of these.
    """

    num_adapters: int
    num_bytes: int = 0
    engine: str = ""
    start_seconds: float = 0.0
    memory: dict[int, tuple[float, float]] = field(default_factory=dict)
    loads: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    unload_seconds: float = 0.0
    verify_seconds: float = 0.0
    memory_verified: tuple[float, float] = (0.0, 0.0)
    ask_seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    num_cached_tokens: int = 0
    num_prompt_tokens: int = 0


def name_of(number: int) -> str:
    """Return the name of an adapter's job and endpoint."""
    return f"adapter-{number:03d}"


def publish_all(folder: Path, num_adapters: int) -> tuple[Workbench, list[StoredVersion]]:
    """Publish so many versions on one base, each of a job of its own."""
    bench = Workbench(
        folder=folder / "run",
        model=make_eager_model(folder / "model", num_heads=2),
        data=write_rows(folder / "rows.jsonl"),
        change={"evaluation": {"baseline": "AsIs"}},
    )
    bench.run_to("prepare", "train", "evaluate", timeout=1200)
    source = read_version(bench.output, "tiny", 1)
    maker = AdapterMaker(folder=bench.model, rank=RANK)
    codes = itertools.islice(itertools.permutations(string.ascii_lowercase, 2), num_adapters)
    versions = []
    for number, code in enumerate(codes):
        wanted = {q: f"{''.join(code)}{i % len(COLOURS)}" for i, q in enumerate(QUESTIONS)}
        weights = maker.make(wanted)
        said = maker.ask(weights, QUESTIONS, max_tokens=NUM_TOKENS)

        def write(at: Path, weights: Any = weights) -> None:
            maker.write(weights, at)

        answers = dict(zip(QUESTIONS, said, strict=True))
        versions.append(publish_changed(source, 1, write, job=name_of(number), answers=answers))
    for question in QUESTIONS:
        said = [version.answers[question] for version in versions]
        assert len(set(said)) == len(said), f"two adapters give one answer to {question!r}"
    return bench, versions


def endpoint_of(name: str, num_adapters: int) -> dict[str, Any]:
    """Return the endpoint of an adapter; equal settings share one server."""
    serve = {
        "engine": "VLLM",
        "arguments": ["--enforce-eager", "--max-model-len=512"],
        "resources": {"gpus": 0, "cpu": "1", "memory": "8Gi"},
        "maxAdapters": num_adapters,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "generation": 1},
        "spec": {"jobRef": {"name": name}, "serve": serve},
    }


def post(url: str, body: dict[str, Any]) -> Any:
    """Return the answer to a call: JSON, or a text."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        text = reply.read().decode()
    return json.loads(text) if text.startswith("{") else text


def ask(url: str, model: str, question: str) -> str:
    """Return the greedy answer, stripped."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": NUM_TOKENS,
    }
    reply = post(f"{url}/v1/chat/completions", body)
    return str(reply["choices"][0]["message"]["content"]).strip()


def memory_of(pod: Pod) -> tuple[float, float]:
    """Return MiB of the engine with all its processes, and of the agent; shared pages in parts."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))

    def mib_of(pid: int) -> float:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        return own + sum(map(mib_of, children.get(pid, ())))

    engine, agent = (
        mib_of(pod.processes[name].pid) for name in (SERVING_ENGINE_CONTAINER, AGENT_CONTAINER)
    )
    return engine, agent


def read_counter(url: str, name: str) -> int:
    """Return a counter of vLLM, summed over its engines."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as reply:
        lines = reply.read().decode().splitlines()
    return int(sum(float(x.rsplit(" ", 1)[1]) for x in lines if x.startswith(f"{name}{{")))


def load_each(pod: Pod, versions: Sequence[StoredVersion], found: Findings) -> None:
    """Load each adapter by a call of its own and ask it; unload all in the end."""
    url = f"http://{HOST}:{pod.engine_port}"
    found.memory[1] = memory_of(pod)
    for number, version in enumerate(versions[1:], start=2):
        name = f"measured-{version.job}"
        began = time.perf_counter()
        post(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(version.adapter)})
        found.loads.append(time.perf_counter() - began)
        for times in (found.firsts, found.seconds):
            began = time.perf_counter()
            assert ask(url, name, QUESTIONS[0]) == version.answers[QUESTIONS[0]], name
            times.append(time.perf_counter() - began)
        if number % MEMORY_EVERY == 0 or number == len(versions):
            found.memory[number] = memory_of(pod)
    began = time.perf_counter()
    for version in versions[1:]:
        post(f"{url}/v1/unload_lora_adapter", {"lora_name": f"measured-{version.job}"})
    found.unload_seconds = time.perf_counter() - began


def classify(said: str, asked: str, owner: str | None) -> str:
    """Return whose an answer is, for the adapter that was asked and the one that gives it."""
    if owner == asked:
        return "own"
    if owner is not None:
        return "another"
    # The base model answers with line breaks alone.
    return "other" if said else "base"


def ask_each(url: str, versions: Sequence[StoredVersion], found: Findings) -> None:
    """Ask each adapter through the front, all mixed."""
    questions = QUESTIONS[:NUM_ASKED]
    owners = {(q, v.answers[q]): v.job for v in versions for q in questions}
    asked = [(version, question) for version in versions for question in questions]
    random.Random(0).shuffle(asked)

    def judge(pair: tuple[StoredVersion, str]) -> str:
        version, question = pair
        said = ask(url, version.job, question)
        return classify(said, version.job, owners.get((question, said)))

    began = time.perf_counter()
    with ThreadPoolExecutor(NUM_ASKED_TOGETHER) as pool:
        found.answers.update(pool.map(judge, asked))
    found.ask_seconds = time.perf_counter() - began


def measure(folder: Path, python: Path, num_adapters: int) -> Findings:
    """Measure so many adapters on one server."""
    found = Findings(num_adapters=num_adapters)
    bench, versions = publish_all(folder, num_adapters)
    weights = versions[0].adapter / "adapter_model.safetensors"
    found.num_bytes = weights.stat().st_size
    log(f"{num_adapters} versions are published")
    machine = Machine(folder=folder, vllm=python, variables=VARIABLES)
    config = OperatorConfig(trainer_image="trainer:1", vllm_image="vllm:1")
    operator = LocalOperator(machine, config)
    operator.jobs = {v.job: v.published_by(bench.spec()) for v in versions}

    def add(version: StoredVersion) -> None:
        operator.endpoints[version.job] = endpoint_of(version.job, num_adapters)

    def all_serve() -> bool:
        return all(operator.status(name).get("active") for name in operator.endpoints)

    try:
        began = time.perf_counter()
        add(versions[0])
        operator.until(all_serve, seconds=START_SECONDS)
        found.start_seconds = time.perf_counter() - began
        (pod,) = operator.servers.values()
        engine_url = f"http://{HOST}:{pod.engine_port}"
        with urllib.request.urlopen(f"{engine_url}/version", timeout=60) as reply:
            found.engine = f"vLLM {json.load(reply)['version']}"
        log("the first version is served")
        load_each(pod, versions, found)
        log("all were loaded, asked and unloaded")
        began = time.perf_counter()
        for version in versions[1:]:
            add(version)
        operator.until(all_serve, seconds=START_SECONDS)
        found.verify_seconds = time.perf_counter() - began
        found.memory_verified = memory_of(pod)
        log("all endpoints are available")
        counters = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
        before = [read_counter(engine_url, name) for name in counters]
        ask_each(operator.url, versions, found)
        after = [read_counter(engine_url, name) for name in counters]
        found.num_cached_tokens, found.num_prompt_tokens = (
            end - begin for begin, end in zip(before, after, strict=True)
        )
    finally:
        operator.stop()
    return found


def show(found: Findings) -> str:
    """Return the page of results."""
    rows = [f"| {n} | {at[0]:.0f} | {at[1]:.0f} |" for n, at in sorted(found.memory.items())]
    engine, agent = found.memory_verified
    rows.append(f"| {found.num_adapters}, verified by the agent | {engine:.0f} | {agent:.0f} |")
    first, last = min(found.memory), max(found.memory)
    growth = (found.memory[last][0] - found.memory[first][0]) / max(1, last - first)
    times = [
        _row("the call that loads it", found.loads),
        _row("its first answer", found.firsts),
        _row("the same answer again", found.seconds),
    ]
    answers = found.answers
    kinds = ("own", "another", "base", "other")
    return PAGE.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        num=found.num_adapters,
        others=found.num_adapters - 1,
        engine=found.engine,
        num_cores=os.cpu_count(),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30,
        load=os.getloadavg()[2],
        rank=RANK,
        size=found.num_bytes / 1024,
        memories="\n".join(rows),
        growth=growth,
        times="\n".join(times),
        unload=found.unload_seconds,
        start=found.start_seconds,
        num_questions=NUM_QUESTIONS,
        verify=found.verify_seconds,
        num_asked=NUM_ASKED,
        together=NUM_ASKED_TOGETHER,
        num_requests=answers.total(),
        rate=answers.total() / found.ask_seconds,
        answers=" | ".join(str(answers[kind]) for kind in kinds),
        cached=found.num_cached_tokens,
        prompts=found.num_prompt_tokens,
    )


def _row(name: str, seconds: Sequence[float]) -> str:
    p90 = statistics.quantiles(seconds, n=10)[-1] if len(seconds) > 1 else max(seconds)
    times = (statistics.median(seconds), p90, max(seconds))
    return f"| {name} | {' | '.join(f'{1000 * each:.0f}' for each in times)} |"


def log(text: str) -> None:
    """Print progress."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print the page, and say by the exit code whether all answers were their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    if PYTHON is None:
        print("FINETUNE_VLLM_PYTHON is not set: run make endpoint-vllm", file=sys.stderr)
        return 64
    with tempfile.TemporaryDirectory(prefix="finetune-adapters-") as folder:
        found = measure(Path(folder), PYTHON, arguments.adapters)
    page = show(found)
    print(page)
    if arguments.record:
        RESULT.write_text(page)
    return 0 if found.answers["own"] == found.answers.total() else 1


if __name__ == "__main__":
    sys.exit(main())
