"""What asking the base as a person would adds to an evaluation, on the first example.

Its 120 held-out headlines are put to the base model as it is, behind a prompt whose beginning is
read once or with every row, and with the likeliest label. Nothing is trained: the tuned model costs
what the base as it is does, but for its shorter answers.

Usage: python benchmarks/trainer/baseline.py MODEL_FOLDER [NUM_QUESTIONS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from finetune_api.protocol.trainer import ResolvedJob, Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.inference.answers import Asker, Said
from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine
from finetune_trainer.evaluate.metrics.labels import normalize_label
from finetune_trainer.evaluate.question_set import gather_question_set
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.sources.prompt_baseline.making import make_prompted
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.encoding import make_encoder
from finetune_trainer.model.load import load_model
from finetune_trainer.planning.answering import HELD_TOKENS
from finetune_trainer.prepare.stage import prepare
from finetune_trainer.report.events import EventEmitter

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-headline-sentiment"


def make_job(folder: Path, model: Path, num_questions: int) -> ResolvedJob:
    """Write the example's data and return its job."""
    script = [sys.executable, str(EXAMPLE / "generate.py"), "--out", str(folder / "data")]
    subprocess.run(script, check=True, stdout=subprocess.DEVNULL)
    body = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    spec = body["spec"]
    spec["model"]["uri"] = f"file://{model}"
    spec["output"]["uri"] = f"file://{folder}/out"
    spec["evaluation"] = {"maxSamples": num_questions}
    for source in spec["dataset"]["sources"]:
        source["uri"] = source["uri"].replace("file://.", f"file://{folder}")
    return resolve_job(FineTuneJob.from_wire(body), namespace="default", uid="benchmark")


def main() -> None:
    """Print a row for each way of asking."""
    import torch

    model_folder = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = make_job(folder, model_folder, int(sys.argv[2]) if len(sys.argv) > 2 else 120)
        context = StageContext(
            job=job,
            emit=EventEmitter(Stage.EVALUATE),
            work_dir=folder / "work",
            cache_dir=folder / "cache",
        )
        prepare(context)
        prepared = read_prepared(context.storage.output, job, context.work_dir, sides=(Side.TEST,))
        encoder = make_encoder(job, context.model.load_tokenizer(), read_format(prepared.folder))
        config_dir, _ = context.model.fetch()
        asked = gather_question_set(job, prepared, encoder, room=None)
        prompted = make_prompted(
            context.storage,
            context.work_dir,
            context.model.load_tokenizer,
            prepared,
            asked,
            config_dir=config_dir,
        ).prompted
        assert prompted is not None
        behind, labels = prompted.encoded, prompted.labels
        ways: dict[str, TokenizedQuestions] = {
            "as is": asked.encoded,
            "behind a prompt": replace(behind, choices=[]),
            "behind a prompt, with the likeliest label": behind,
            "behind a prompt that every row reads": replace(behind, choices=[], num_shared=0),
        }
        model = load_model(model_folder, dtype=torch.float32).eval()
        engine = TransformersEngine(model, pad_id=encoder.pad_id)
        print(f"\n{len(asked.questions)} questions; {behind.num_shared} tokens are shared\n")
        print("| asked | processor s | wall s | longest prompt, tokens | right | likeliest right |")
        print("|---|---|---|---|---|---|")
        for name, encoded in ways.items():
            asker = Asker(encoder, encoded, batch_size=None, held_tokens=HELD_TOKENS[0])
            share = asker.share(Said(likelihoods={}, texts={}))
            started, spent = time.perf_counter(), time.process_time()
            parts: list[Said] = []
            asker.ask(engine, share, parts.append)
            wall, spent = time.perf_counter() - started, time.process_time() - spent
            longest = max(map(len, encoded.prompts))
            texts = {n: text or "" for part in parts for n, text in part.texts.items()}
            chosen = {n: labels[c] for part in parts for n, c in part.chosen.items()}
            right = f"{count_right(texts, asked.questions)}"
            likeliest = f"{count_right(chosen, asked.questions)}" if chosen else ""
            print(
                f"| {name} | {spent:.1f} | {wall:.1f} | {longest} | {right} | {likeliest} |",
                flush=True,
            )


def count_right(texts: dict[int, str], questions: Sequence[Question]) -> int:
    """Return how many answers are the reference."""
    return sum(
        normalize_label(text) == normalize_label(questions[number].references[0])
        for number, text in texts.items()
    )


if __name__ == "__main__":
    main()
