"""Overfits eight rows through the real stages, and asks the published adapter without us."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.families.family import Family, write_model
from kit.processes.stages import StageRun, Workbench, merge

COLOURS = {
    "sky": "blue",
    "grass": "green",
    "blood": "red",
    "gold": "yellow",
    "coal": "black",
    "snow": "white",
    "wood": "brown",
    "carrot": "orange",
}
PAIRS = [
    {"prompt": f"Colour of {thing}?", "completion": f"{colour}."}
    for thing, colour in COLOURS.items()
]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"Think of {thing}."},
            {"role": "assistant", "content": "I do so."},
            {"role": "user", "content": "What colour has it?"},
            {"role": "assistant", "content": f"It is {colour}."},
        ]
    }
    for thing, colour in COLOURS.items()
]
TASKS = [
    {"instruction": "Say the colour.", "input": thing, "output": f"{colour}."}
    for thing, colour in COLOURS.items()
]
TABLE = [{"thing": thing, "colour": f"{colour}."} for thing, colour in COLOURS.items()]
TABLE_SOURCE = {
    "format": "Csv",
    "columns": {"completion": "colour"},
    "template": "{{ thing }} is of colour",
}
RECIPE: dict[str, Any] = {
    "dataset": {
        "split": {"testPercent": 0, "validationPercent": 0},
        "duplicates": {"leaked": "Report"},  # it is asked what it learned by heart
    },
    # Experts of a mixture too, where all-linear reaches them.
    "method": {
        "adapter": {"rank": 16, "alpha": 32, "dropout": "0", "targetModules": ["all-linear"]}
    },
    "hyperparameters": {
        "scheduler": "WSD",  # a cosine ends before rows alike but for one word are told apart
    },
    "checkpoint": {"everySteps": 1000},
    "evaluation": {"maxNewTokens": 24, "minPrompts": 1},
    "goal": {"metric": "exactMatch", "atLeast": "0"},
}


MAX_LEAK = 1e-3
REFUSALS = (64, 65)
"""Exit codes of a job or data that cannot be used: never a crash of our own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a family's chain came to.

    Attributes:
        refused: Reason of the stage that refused, or None.
        message: What it said.
        exact_match: Score of the tuned model.
        answers: What the evaluation read from the tuned model, by prompt.
        references: What it should have read.
        plain: What plain PEFT and transformers read from the published files, in the same order.
        stopped: Whether each plain answer ended in a stop token of its own accord.
        packing: ``off``, or ``exact`` or ``leaks`` where rows were trained without padding: whether
            the model answers two rows in one alike.
        events: Messages of all stages.
    """

    refused: str | None
    message: str
    exact_match: float = 0.0
    answers: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    stopped: tuple[bool, ...] = ()
    packing: str = ""
    events: str = ""

    @property
    def is_right(self) -> bool:
        """Whether everything that a family must show was shown."""
        return (
            self.refused is None
            and self.exact_match == 1.0
            and self.answers == self.references == self.plain
            and all(self.stopped)
            and self.packing in ("off", "exact")
        )


STAGE_SECONDS = 2400
"""A vocabulary of 262k makes even a tiny model slow on two busy cores."""


def run_chain(family: Family, folder: Path, *, change: dict[str, Any] | None = None) -> Outcome:
    """Prepare, train and evaluate a tiny model of the family on eight rows of its own.

    Args:
        family: The family.
        folder: An empty folder.
        change: Changes of the job's spec.

    Raises:
        AssertionError: A stage ended otherwise than well or with a refusal.
    """
    model = write_model(family, folder / "model")
    bench = Workbench(
        folder=folder / "run",
        model=model,
        data=folder,
        change=merge(_spec(family, folder, model), change or {}),
    )
    events = ""
    for stage in ("prepare", "train", "evaluate"):
        run = bench.run(stage, timeout=STAGE_SECONDS)
        events += run.messages + "\n"
        if run.exit_code != 0:
            return _refusal(run, stage, events)
    samples = _samples(bench)
    plain = ask_plainly(
        model,
        bench.run_folder / "adapter",
        [sample["prompt"] for sample in samples],
        max_new_tokens=RECIPE["evaluation"]["maxNewTokens"],
    )
    scores = {score["name"]: score for score in run.result["scores"]}
    return Outcome(
        refused=None,
        message="",
        exact_match=float(scores["exactMatch"]["tuned"]),
        answers=tuple(sample["tuned"] for sample in samples),
        references=tuple(sample["references"][0] for sample in samples),
        plain=tuple(family.read_answer(answer.text) for answer in plain),
        packing=_judge_packing(model, bench.run_folder / "adapter"),
        stopped=tuple(answer.stopped for answer in plain),
        events=events,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainAnswer:
    """A greedy answer.

    Attributes:
        text: Decoded without special tokens, stripped.
        stopped: Whether it ended in a stop token, not at the length limit.
    """

    text: str
    stopped: bool


def ask_plainly(
    base: Path, adapter: Path, prompts: Sequence[Any], *, max_new_tokens: int
) -> list[PlainAnswer]:
    """Answer with PEFT and transformers alone, as somebody would who found these two folders.

    What the adapter's folder holds of template and generation settings comes before what the base
    model's folder holds; no argument is passed to the template.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    template = adapter / "chat_template.jinja"
    if template.exists():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    settings = model.generation_config
    if (adapter / "generation_config.json").exists():
        settings = GenerationConfig.from_pretrained(adapter, local_files_only=True)
    tuned = PeftModel.from_pretrained(model, str(adapter)).eval()
    stops = settings.eos_token_id
    stops = {stops} if isinstance(stops, int) else set(stops)
    answers = []
    for prompt in prompts:
        if isinstance(prompt, str):
            inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        else:
            inputs = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
        with torch.inference_mode():
            output = tuned.generate(
                **inputs,
                generation_config=settings,
                do_sample=False,
                max_new_tokens=max_new_tokens,
            )
        new = output[0, inputs["input_ids"].shape[1] :].tolist()
        answers.append(
            PlainAnswer(
                text=tokenizer.decode(new, skip_special_tokens=True).strip(),
                stopped=new[-1] in stops,
            )
        )
    return answers


def _judge_packing(model: Path, adapter: Path) -> str:
    recipe = json.loads((adapter / "run.json").read_text())["recipe"]
    if not (recipe["padding_free"] or recipe["packing"]):
        return "off"
    return "exact" if measure_leak(model) <= MAX_LEAK else "leaks"


def measure_leak(folder: Path) -> float:
    """Return the largest change of a logit of the second of two rows that lie in one."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    first, second = torch.arange(100, 117), torch.arange(150, 162)
    both = torch.cat([first, second])[None]
    positions = torch.cat([torch.arange(len(first)), torch.arange(len(second))])[None]
    with torch.inference_mode():
        alone = model(input_ids=second[None], use_cache=False).logits[0]
        packed = model(input_ids=both, position_ids=positions, use_cache=False).logits[0]
    return float((packed[len(first) :] - alone).abs().max())


def _spec(family: Family, folder: Path, model: Path) -> dict[str, Any]:
    """Write the rows; return the job's changes. A family is of chat models or of base models."""
    has_template = bool(family.tokenizer().chat_template)
    files: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = (
        [("pairs", PAIRS[:4], {}), ("talks", TALKS[4:], {})]
        if has_template
        else [
            ("pairs", PAIRS[:3], {}),
            ("tasks", TASKS[3:6], {}),
            ("table", TABLE[6:], TABLE_SOURCE),
        ]
    )
    sources = []
    for name, rows, settings in files:
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        for side in ("Train", "Test"):
            sources.append({"uri": f"file://{path}", "side": side, **settings})
    own: dict[str, Any] = {
        "dataset": {"sources": sources},
        "hyperparameters": {
            "maxSteps": family.num_steps,
            "globalBatchSize": family.batch_size,
            "learningRate": family.learning_rate,
        },
    }
    if family.arguments:
        # As the job's author writes them: all values are text.
        texts = {name: json.dumps(value) for name, value in family.arguments.items()}
        own["model"] = {"chatTemplateArguments": texts}
    return merge(RECIPE, own)


def _refusal(run: StageRun, stage: str, events: str) -> Outcome:
    assert run.exit_code in REFUSALS, f"{stage}: {run.messages}\n{run.stderr[-3000:]}"
    failure = run.failure
    return Outcome(
        refused=failure["reason"], message=f"{stage}: {failure['message']}", events=events
    )


def _samples(bench: Workbench) -> list[dict[str, Any]]:
    lines = (bench.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
