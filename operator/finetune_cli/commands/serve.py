"""``finetune serve``: a published version as an OpenAI-compatible API on this machine."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.errors import CliError
from finetune_cli.options import Endpoint, OutputDir, Overrides, Region

if TYPE_CHECKING:
    from finetune_cli.local.serving.processes import Serving
    from finetune_cli.local.serving.version import PublishedVersion

MAX_SHOWN_PROMPT = 2000
"""Characters of a question that is shown as an example."""


def serve(
    target: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_VERSION",
            help="A job file that was run here, the folder or URI of a run, or a version.",
        ),
    ],
    engine: Annotated[
        Literal["Transformers", "vllm"],
        typer.Option(help="What computes the answers. vllm must be installed."),
    ] = "Transformers",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
    capture: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Store all answers in this folder, without personal data and secrets, and take "
            "feedback on them.",
        ),
    ] = None,
    output_dir: OutputDir = None,
    overrides: Overrides = None,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Serve a published version here, once it answers as evaluated.

    Engine, agent and front are those of a cluster, as processes on 127.0.0.1. Ctrl-C stops them.
    """
    from finetune_cli.extras import require_trainer
    from finetune_cli.local.serving.processes import check_port, serve_version
    from finetune_cli.local.stages import interruptible

    require_trainer((*SERVING_MODULES,), to="serving on this machine")
    check_port(port)
    version = _find(target, output_dir, overrides, endpoint, region)
    print(f"version {version.number} of {version.job}: {version.manifest_uri}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="finetune-serve-") as folder:
        try:
            with (
                interruptible(),
                serve_version(
                    version,
                    engine=engine,
                    port=port,
                    folder=Path(folder),
                    capture=capture,
                    tell=lambda words: print(f"  {words}", file=sys.stderr, flush=True),
                ) as serving,
            ):
                print(describe(serving, version, capture), flush=True)
                serving.wait()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)


SERVING_MODULES = ("finetune_trainer", "torch", "transformers", "peft", "aiohttp")


def describe(serving: Serving, version: PublishedVersion, capture: Path | None = None) -> str:
    """Return what to type to ask the version, and where its answers go."""
    from finetune_cli.local.serving.version import read_first_prompt

    found, url, model = serving.verification, serving.url, serving.model
    prompt = read_first_prompt(version)
    if len(json.dumps(prompt)) > MAX_SHOWN_PROMPT:
        prompt = None
    is_text = isinstance(prompt, str)
    body: dict[str, Any] = {"model": model, "temperature": 0}
    if is_text:
        body |= {"prompt": prompt}
    else:
        body |= {"messages": prompt or [{"role": "user", "content": "Hello"}]}
    path, call = (
        ("completions", "completions") if is_text else ("chat/completions", "chat.completions")
    )
    asked = body["prompt"] if is_text else body["messages"]
    keyword = "prompt" if is_text else "messages"
    read = "text" if is_text else "message.content"
    stored = ""
    if capture is not None:
        page = f"{url.removesuffix('/v1')}/feedback/{model}"
        stored = f"answers go to {capture}; rate and correct them at {page} (any key opens it)\n\n"
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    return (
        f"ready: version {version.number} of {model} answers at {url}\n"
        f"verified: {found.get('numEqual', 0)} of {found.get('numAsked', 0)} held-out answers are "
        f"those of its evaluation\n\n"
        f"curl {url}/{path} -H 'Content-Type: application/json' -d {data}\n\n"
        f"from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{url}", api_key="none")\n'
        f"answer = client.{call}.create(\n"
        f"    model={model!r}, temperature=0, {keyword}={asked!r}\n"
        f")\n"
        f"print(answer.choices[0].{read})\n\n"
        f"{stored}"
        f"Ctrl-C stops it."
    )


def _find(
    target: str,
    output_dir: str | None,
    overrides: list[str] | None,
    endpoint: str | None,
    region: str | None,
) -> PublishedVersion:
    from finetune_cli.local.serving.version import find_version
    from finetune_cli.reports.evaluation import is_job_file

    if not is_job_file(target):
        if output_dir or overrides:
            raise CliError(f"--output-dir and --set go with the file of a job; {target} is none")
        return find_version(target, endpoint=endpoint, region=region)
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.record import find_run

    run = find_run(read_single(target), output=output_dir, overrides=overrides)
    job = run.job
    return find_version(
        f"{job.spec.output.uri.rstrip('/')}/{job.run_prefix}",
        endpoint=endpoint or job.spec.s3.endpoint,
        region=region or job.spec.s3.region,
        published_as=job.published_name,
    )
