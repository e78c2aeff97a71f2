"""The whole journey on one machine, narrated: data, S3, training, evaluation, questions, serving.

``python tools/demo.py`` runs ``examples/01-headline-sentiment`` through the CLI against a SeaweedFS
server of its own on loopback; ``--example 02`` runs the second example. Everything it makes lies in
the user's cache, so that a second run reuses it; ``--clean`` starts from nothing. It stops what it
started, also on Ctrl-C; the run it interrupts goes on next time. One demo at a time uses the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "tools")]

import base_model  # noqa: E402
import local_s3  # noqa: E402
from folder_lock import empty_folder, hold_folder  # noqa: E402

BUCKET = "demo"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example and what to ask its model."""

    folder: Path
    files: tuple[str, ...]
    placeholder: str
    questions: tuple[str, ...]
    max_new_tokens: int
    answers: tuple[str, ...] = ()
    """What a person would say, where there is one right answer."""

    @property
    def name(self) -> str:
        """Folder name without its number."""
        return self.folder.name.partition("-")[2]


EXAMPLES = {
    "01": Example(
        folder=REPOSITORY / "examples" / "01-headline-sentiment",
        files=("train.csv", "test.csv"),
        placeholder="{{ headline }}",
        questions=(
            "Lakeside Robotics doubles quarterly profit on soaring exports",
            "Factory blaze forces Norvane Textiles to halt deliveries for months",
            "Opaline Shipping to report half-year results on May 6",
        ),
        max_new_tokens=8,
        answers=("positive", "negative", "neutral"),
    ),
    "02": Example(
        folder=REPOSITORY / "examples" / "02-product-copy",
        files=("products.csv",),
        placeholder="{{ facts }}",
        questions=(
            "name: Fjorda Drift; type: water bottle; colour: coral; volume: 0.75 l; "
            "material: titanium; weight: 240 g; feature: leakproof lid; price: EUR 44",
            "name: Ansel Halo; type: desk lamp; weight: 1,100 g; brightness: 800 lm; colour: grey; "
            "feature: touch dimmer; material: brass; price: EUR 89",
            "name: Torvik Range; type: backpack; colour: olive; volume: 35 l; material: canvas; "
            "weight: 920 g; feature: rain cover; price: EUR 119",
        ),
        max_new_tokens=96,
    ),
}


def main() -> int:
    """Run the demo; returns the exit code of the first step that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", choices=sorted(EXAMPLES), default="01")
    parser.add_argument("--clean", action="store_true", help="forget earlier runs of the demo")
    arguments = parser.parse_args()
    folder = cache_root() / "demo"
    try:
        with hold_folder(folder):
            if arguments.clean:
                empty_folder(folder)
            return run_demo(EXAMPLES[arguments.example], folder)
    except KeyboardInterrupt:
        print("\nstopped; run the same command to go on")
        return 130
    except (RuntimeError, OSError) as error:
        print(f"\nthe demo cannot go on: {error}", file=sys.stderr)
        return 1


def cache_root() -> Path:
    """Return the folder in the user's cache that the demo keeps things in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator"


def run_demo(example: Example, folder: Path) -> int:
    """Go through all steps."""
    start = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    data = folder / example.name
    data.mkdir(parents=True, exist_ok=True)
    step(1, "The base model: SmolLM2-135M-Instruct, from a Python package")
    model = prepare_model()
    step(2, "An S3 server on this machine: SeaweedFS on loopback")
    is_known = (folder / "s3" / "identities.json").exists()
    with local_s3.start(folder / "s3", buckets=(BUCKET,)) as server:
        say(f"listening on {server.endpoint}")
        if is_known:
            say("reused: what an earlier demo stored is still there")
        environment = cli_environment(server)
        step(3, f"The data of examples/{example.folder.name}, into the bucket")
        prepare_data(example, data, server)
        step(4, "Prepare, train, evaluate, publish")
        result_file = data / "result.json"
        result_file.unlink(missing_ok=True)
        code = run_cli(run_arguments(example, model, result_file), environment)
        if code:
            return code
        result = json.loads(result_file.read_text())
        tell_what_was_reused(result)
        version_uri = result["results"]["evaluate"]["manifestUri"]
        step(5, "Check the published version, byte by byte")
        code = run_cli(["verify", version_uri], environment)
        if code:
            return code
        step(6, "Ask base and tuned model what neither has seen")
        code = run_cli(chat_arguments(example, result), environment)
        if code:
            return code
        if example.answers:
            say(f"a person would say: {', '.join(example.answers)}")
        step(7, "Serve the version as an API, and ask it with the openai client")
        code = ask_endpoint(example, version_uri, environment, folder / "serve.log")
        if code:
            return code
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. The server is stopped; its files and keys lie"
    )
    print(f"in {folder}. Run it again: it reuses what is there. From nothing: --clean")
    return 0


def prepare_model() -> Path:
    """Convert the model, unless an earlier call did."""
    before = time.monotonic()
    existing = set(base_model.cache_root().glob("*/config.json"))
    model = base_model.ensure_model()
    if model / "config.json" in existing:
        say(f"reused: {model}")
    else:
        say(f"converted to safetensors in {time.monotonic() - before:.0f} s: {model}")
    return model


def prepare_data(example: Example, data: Path, server: local_s3.LocalS3) -> None:
    """Generate the example's files and upload those that differ."""
    command = [sys.executable, str(example.folder / "generate.py"), "--out", str(data)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    client = server.client()
    for name in example.files:
        content = (data / name).read_bytes()
        key = f"data/{example.name}/{name}"
        rows = content.count(b"\n") - 1
        if _stored(client, key) == content:
            say(f"reused: s3://{BUCKET}/{key} ({rows} rows)")
        else:
            client.put_object(Bucket=BUCKET, Key=key, Body=content)
            say(f"uploaded s3://{BUCKET}/{key} ({rows} rows)")


def _stored(client: Any, key: str) -> bytes | None:
    from botocore.exceptions import ClientError

    try:
        body: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    except ClientError:
        return None
    return body


def run_arguments(example: Example, model: Path, result_file: Path) -> list[str]:
    """Return the command line that runs the example on S3."""
    arguments = ["run", str(example.folder / "job.yaml"), "--output-dir", f"s3://{BUCKET}/models"]
    arguments += ["--set", f"model.uri=file://{model}"]
    arguments += ["--set", f"model.name={base_model.NAME}", "--set", "s3.addressing=Path"]
    for position, name in enumerate(example.files):
        uri = f"s3://{BUCKET}/data/{example.name}/{name}"
        arguments += ["--set", f"dataset.sources.{position}.uri={uri}"]
    return [*arguments, "--result", str(result_file)]


def chat_arguments(example: Example, result: dict[str, Any]) -> list[str]:
    """Return the command line that asks the example's questions, put as in training."""
    arguments = ["chat", result["results"]["train"]["uri"], "--base"]
    arguments += ["--max-new-tokens", str(example.max_new_tokens)]
    for question in example.questions:
        arguments += ["--prompt", prompt_of(example, question)]
    return arguments


def prompt_of(example: Example, question: str) -> str:
    """Return a question as training puts it."""
    job = yaml.safe_load((example.folder / "job.yaml").read_text())
    template: str = job["spec"]["dataset"]["sources"][0]["template"]
    return template.replace(example.placeholder, question)


def ask_endpoint(example: Example, version_uri: str, environment: dict[str, str], log: Path) -> int:
    """Serve the version until its questions are answered; returns the exit code."""
    from openai import OpenAI

    arguments = ["serve", version_uri, "--port", str(free_port())]
    print(f"\n   $ {_command_line(arguments)}", flush=True)
    command = [sys.executable, "-m", "finetune_cli", *arguments]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            if not ready.startswith("ready: "):
                code = process.wait()
                say(f"not served (exit code {code}):\n{log.read_text()}")
                return code or 1
            say(ready.strip())
            say(process.stdout.readline().strip())
            client = OpenAI(base_url=ready.split()[-1], api_key="none", max_retries=0)
            (model,) = client.models.list().data
            for question in example.questions:
                answer = client.chat.completions.create(
                    model=model.id,
                    messages=[{"role": "user", "content": prompt_of(example, question)}],
                    max_tokens=example.max_new_tokens,
                    temperature=0,
                )
                say(f"> {question}")
                say(str(answer.choices[0].message.content))
        finally:
            process.send_signal(signal.SIGINT)
    return 0


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tell_what_was_reused(result: dict[str, Any]) -> None:
    """Say which stages had nothing to do."""
    reused = [stage for stage, value in result["results"].items() if value.get("reused")]
    if reused:
        say(f"reused from an earlier run: {', '.join(reused)}")


def cli_environment(server: local_s3.LocalS3) -> dict[str, str]:
    """Return the environment that leads the CLI to the server.

    The address goes this way and not into the job: its port is another one each time, and the same
    job must be recognised as the same.
    """
    keys = server.identities["read-write"]
    roots = [str(REPOSITORY / "operator"), str(REPOSITORY / "trainer_image")]
    known = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*roots, known] if known else roots),
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": "us-east-1",
        "HF_HUB_OFFLINE": "1",
    }


def run_cli(arguments: Sequence[str], environment: dict[str, str]) -> int:
    """Run one command of the CLI, shown as a user would type it.

    Raises:
        KeyboardInterrupt: It was stopped.
    """
    print(f"\n   $ {_command_line(arguments)}", flush=True)
    command = [sys.executable, "-m", "finetune_cli", *arguments]
    with subprocess.Popen(command, env=environment) as process, _passing_on(process) as stopped:
        code = process.wait()
    if stopped:
        raise KeyboardInterrupt
    return code


def _command_line(arguments: Sequence[str]) -> str:
    text = "finetune"
    for argument in arguments:
        is_option = argument.startswith("--")
        text += (" \\\n       " if is_option else " ") + shlex.quote(argument)
    return text


@contextmanager
def _passing_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let the CLI decide what a signal means, and wait until it has saved."""
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        # Ctrl-C in a terminal reached the CLI already; a signal to us alone did not.
        if number == signal.SIGTERM:
            process.terminate()

    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def step(number: int, title: str) -> None:
    """Announce a step."""
    print(f"\n[{number}/7] {title}", flush=True)


def say(text: str) -> None:
    """Tell something about the step."""
    print(f"      {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
