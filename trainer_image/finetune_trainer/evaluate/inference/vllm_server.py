"""The vLLM server beside the stage: its arguments, its start, its health, why it ended.

The server is in a container beside the stage. It waits for a file ``arguments`` in a folder that
both share, starts with them, logs to ``vllm.log`` there, and writes ``ended`` when it ends. The log
before it is ready cannot quote a row, so messages may quote it; the later log is stored with the
data.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import Environment, ResolvedJob
from finetune_trainer.errors import RetryableError, UserError
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.load import read_model_architecture
from finetune_trainer.model.pair import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.headers import read_header

START_SECONDS = 1800.0
"""Longest time for a server to load the model and to compile."""
POLL_SECONDS = 0.5
LOG_NAME = "vllm.log"
NUM_LAST_LINES = 3
MAX_LINE = 240

BASE_NAME = "base"
"""Name of the base model on the server; adapters have their own names."""
_NOT_SERVED = frozenset({"lm_head", "experts"})
"""Modules whose adapters are not served: with one on the output head vLLM returns no likelihoods,
and it may ignore those of a mixture's experts silently."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for. Source: vllm.config.lora.MaxLoRARanks."""
_TOO_LONG = "User-specified max_model_len"
"""vLLM's message for a model that takes fewer tokens than requested (ModelConfig)."""
_SHORTER = (
    "lower evaluation.maxNewTokens or hyperparameters.maxSequenceLength in a new job, or set "
    "evaluation.engine: Transformers"
)

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens without any proxy: the server is on the loopback interface."""


class EngineServer:
    """The server beside this stage.

    Args:
        folder: The folder that server and stage share.
        port: Its port on the loopback interface.
        image: Its container image; empty if unknown.
        wait: Waits for some seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        *,
        image: str = "",
        wait: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self.port = port
        self._image = image
        self._wait = wait
        self._clock = clock

    @classmethod
    def from_environment(cls) -> EngineServer:
        """Return the server that the environment names.

        Raises:
            UserError: ``EngineMissing``.
        """
        folder, port = (
            os.environ.get(name, "") for name in (Environment.ENGINE_DIR, Environment.ENGINE_PORT)
        )
        if not folder or not port.isdigit():
            raise UserError(
                "EngineMissing",
                "evaluation.engine VLLM: no vLLM server stands beside this stage; on a cluster the "
                "operator's vllmImage names its image (it was set when the job was accepted), "
                "elsewhere set evaluation.engine: Transformers",
            )
        return cls(Path(folder), int(port), image=os.environ.get(Environment.ENGINE_IMAGE, ""))

    def begin(self, arguments: Sequence[str]) -> None:
        """Start the server; the file has one argument on each line."""
        path = self._folder / "arguments"
        draft = path.with_name("arguments.draft")
        draft.write_text("".join(f"{argument}\n" for argument in arguments), encoding="utf-8")
        draft.rename(path)

    def wait_until_ready(self) -> str:
        """Wait until the model is loaded; returns the name and version of the server for reports.

        Raises:
            RetryableError: The server ended, or took too long.
            UserError: ``EngineUnsuitable``: the model takes fewer tokens.
        """
        end = self._clock() + START_SECONDS
        while not self.is_healthy():
            if self.has_ended:
                words = self._explain("ended before it was ready")
                if any(_TOO_LONG in line for line in self._lines()):
                    raise UserError("EngineUnsuitable", f"{words}; {_SHORTER}")
                raise RetryableError("EngineFailed", words)
            if self._clock() > end:
                words = f"was not ready within {START_SECONDS:.0f} s"
                raise RetryableError("EngineNotReady", self._explain(words))
            self._wait(POLL_SECONDS)
        return f"vLLM {self._version()}{self._of_image}"

    @property
    def has_ended(self) -> bool:
        """Whether the server has ended."""
        return (self._folder / "ended").exists()

    def is_healthy(self) -> bool:
        """Ask whether the server can answer now."""
        try:
            with direct.open(self.url("/health"), timeout=5):
                return True
        except (OSError, HTTPException):
            return False

    def url(self, path: str) -> str:
        """Return the URL of a path."""
        return f"http://127.0.0.1:{self.port}{path}"

    def keep_log(self, folder: Path) -> None:
        """Copy the server's log to the folder of the stage's logs."""
        if (self._folder / LOG_NAME).exists():
            shutil.copyfile(self._folder / LOG_NAME, folder / LOG_NAME)

    @property
    def _of_image(self) -> str:
        return f" ({self._image})" if self._image else ""

    def _explain(self, what: str) -> str:
        lines = self._lines()
        telling = [line for line in lines if "Error:" in line or _TOO_LONG in line] or lines
        last = " | ".join(telling[-NUM_LAST_LINES:]) or "nothing"
        return f"the vLLM server{self._of_image} {what}; it said: {last}"

    def _lines(self) -> list[str]:
        """Return the lines of the server's log, the end of each."""
        path = self._folder / LOG_NAME
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return [_cut(line.strip()) for line in text.splitlines() if line.strip()]

    def _version(self) -> str:
        try:
            with direct.open(self.url("/version"), timeout=30) as reply:
                return str(json.load(reply)["version"])
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            return "of unknown version"


def _cut(line: str) -> str:
    """Return the end of a line; from a line about a length that is too large, that part."""
    start = line.find(_TOO_LONG)
    return line[-MAX_LINE:] if start < 0 else line[start:][:MAX_LINE]


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversing:
    """The conversations that a server must also take, from others than the evaluation.

    Attributes:
        template: Chat template.
        max_tokens: Longest conversation with its answer.
    """

    template: str
    max_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedFolders:
    """The models that a server holds.

    Attributes:
        base_dir: Base model.
        adapters: Folders of adapters on it, by their names on the server.
        bfloat16: Type of the base weights; else float32.
        max_tokens: Longest prompt with its answer.
        chat_template: File of the template of conversations; None where there are none.
    """

    base_dir: Path
    adapters: Mapping[str, Path]
    bfloat16: bool
    max_tokens: int
    chat_template: Path | None = None


def arguments_of(job: ResolvedJob, models: ServedFolders, *, port: int) -> list[str]:
    """Return the arguments of ``vllm serve``.

    Args:
        job: The effective job.
        models: The models.
        port: Its port on the loopback interface.
    """
    rank = max((_rank_of(folder) for folder in models.adapters.values()), default=1)
    modules = [
        json.dumps({"name": name, "path": str(folder)}) for name, folder in models.adapters.items()
    ]
    gpus = divide_over(job.spec.evaluation_gpus, read_model_architecture(models.base_dir))
    return [
        str(models.base_dir),
        *("--served-model-name", BASE_NAME),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16" if models.bfloat16 else "float32"),
        *("--max-model-len", str(models.max_tokens)),
        # The defaults of vLLM, not sampling settings that ship with the model.
        *("--generation-config", "vllm"),
        *("--enable-lora", "--max-lora-rank", str(next(r for r in _RANKS if r >= rank))),
        *("--lora-modules", *modules),
        *("--lora-target-modules", *_adapted(models.adapters.values())),
        *(("--chat-template", str(models.chat_template)) if models.chat_template else ()),
        *(("--tensor-parallel-size", str(gpus)) if gpus > 1 else ()),
        *(("--trust-remote-code",) if job.spec.model.trust_remote_code else ()),
    ]


def divide_over(num_gpus: int, model: Architecture) -> int:
    """Return the number of GPUs that a model is divided over: its heads must divide evenly."""
    heads, groups = model.num_heads, model.num_kv_heads
    fitting = (
        number
        for number in range(num_gpus, 1, -1)
        if heads % number == 0 and (groups % number == 0 or number % groups == 0)
    )
    return next(fitting, 1)


def find_problem(published: Mapping[str, Any], *, bfloat16: bool) -> str:
    """Return why a published version cannot be served beside the tuned model; empty if it can.

    Args:
        published: The fields of its ``PublishedFolder``.
        bfloat16: Type of this run's base weights.
    """
    path = Path(published["folder"]) / ADAPTER_CONFIG
    if not path.exists():
        return "it is a whole model, and the engine VLLM holds one base with adapters"
    if published["quantize"] or published["bfloat16"] != bfloat16:
        return "its base was loaded in another type, and the engine VLLM holds one base"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("use_dora") or config.get("modules_to_save"):
        return "its adapter is of a kind that vLLM does not serve (DoRA, or modulesToSave)"
    parts = {part for path in _changed(path.parent) for part in path.split(".")}
    if found := sorted(_NOT_SERVED & parts):
        return f"its adapter changes {found[0]}, which the engine VLLM cannot be asked with"
    return ""


def _adapted(folders: Iterable[Path]) -> list[str]:
    """Return the names of the modules that adapters change.

    Without this list vLLM also makes room for adapters on the output head. Then it returns no
    likelihoods of a prompt (the server of 0.32 ends).
    """
    paths = (path for folder in folders for path in _changed(folder))
    return sorted({path.rpartition(".")[2] for path in paths})


def _changed(adapter: Path) -> set[str]:
    """Return the paths of the modules that an adapter changes."""
    return {path.split(".lora_")[0] for path in read_header(adapter / ADAPTER_WEIGHTS)}


def _rank_of(folder: Path) -> int:
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])


def measure_room(
    sides: Mapping[str, TokenizedQuestions], context: int | None, *, others: int = 0
) -> int:
    """Return the tokens of the longest sequence that a server must take.

    Args:
        sides: The questions of each variant.
        context: Tokens that the model takes; None if unknown.
        others: Longest conversation of others with its answer.

    Raises:
        UserError: ``EngineUnsuitable``: a question is longer than the context.
    """
    for name, encoded in sides.items():
        if problem := find_too_long(encoded, context):
            raise UserError("EngineUnsuitable", f"evaluation.engine VLLM: side {name}: {problem}")
    longest = max([others, *(encoded.longest(num_more=1) for encoded in sides.values())])
    return longest if context is None else min(longest, context)


def find_too_long(encoded: TokenizedQuestions, context: int | None) -> str:
    """Return why questions do not fit in the model's context; empty if they do."""
    least = encoded.longest()
    if context is None or least <= context:
        return ""
    return (
        f"its longest question takes {least:,} tokens with its answer, more than the "
        f"{context:,} that the model takes; lower evaluation.maxNewTokens or "
        "hyperparameters.maxSequenceLength in a new job, or set evaluation.engine: Transformers"
    )
