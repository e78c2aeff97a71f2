"""Metrics of an evaluation and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import URI, APIModel, DecimalString, Integer
from finetune_api.patterns import PATH_RULE, VARIABLE_RULE, Texts
from finetune_api.v1alpha1.evaluation.probing import LESS_IS_SAFER, ProbeMetric

ValidationMetric = Literal[
    "exactMatch",
    "macroF1",
    "rougeL",
    "chrF",
    "bleu",
    "contains",
    "regexMatch",
    "numberClose",
    "jsonValid",
    "jsonSchemaValid",
    "jsonEqual",
    "jsonFieldF1",
    "custom",
    "loss",
    "perplexity",
    "bitsPerByte",
    "preferenceAccuracy",
]
"""What answers to validation rows may be scored by: what needs nobody but the model."""

GoalMetric = Literal[ValidationMetric, "judgeWinRate", "judgeScore"]
"""What a goal may ask for: it is known which way is better."""

MetricName = Literal[GoalMetric, "refusalRate", "answerLength", "secondsPerAnswer"]

GateMetric = Literal[MetricName, ProbeMetric]
"""What a gate may ask for. Measures of other rooms than the held-out rows' come here by a name with
a dot, and into the sets below where they belong."""

LIKELIHOOD_METRICS: tuple[ValidationMetric, ...] = ("loss", "perplexity", "bitsPerByte")
"""They score the references: plain text, which has no answer, counts for them too."""

_LOSSES = frozenset({*LIKELIHOOD_METRICS, "forgetting.bitsPerByte"})

LOWER_IS_BETTER = _LOSSES | LESS_IS_SAFER
"""The rest is better the higher it is."""

UNBOUNDED_METRICS = _LOSSES | {"answerLength", "secondsPerAnswer"}
"""They do not lie between 0 and 1."""

GRADED_METRICS = frozenset({"rougeL", "chrF", "bleu", "jsonFieldF1", "custom", "judgeScore"})
"""One row may score anything between 0 and 1; of the others that lie between these it is a hit, a
miss, or a draw. `preferenceAccuracy` grades prompts with several pairs."""

CORPUS_METRICS = frozenset({"macroF1", "bleu"})
"""They lie between 0 and 1 and are no mean of the rows' scores."""

READ_METRICS = frozenset({*LIKELIHOOD_METRICS, "preferenceAccuracy"})
"""They need no answer: references are read, which takes a fraction of the time."""

FORM_METRICS = frozenset({"jsonValid", "jsonSchemaValid", "regexMatch"})
"""They look at the form of an answer alone, which one text can have as well as any."""

ANSWER_METRICS = FORM_METRICS | {
    *("exactMatch", "macroF1", "rougeL", "chrF", "bleu", "contains", "numberClose"),
    *("jsonEqual", "jsonFieldF1", "custom"),
}
"""Scores of single answers, of which more is better. The best constant answer gets them too."""

DIRECTION_UNKNOWN = frozenset({"refusalRate", "answerLength", "secondsPerAnswer"})
"""It depends on the task whether more of it is better."""

BaselineName = Literal["AsIs", "Prompted", "Likelihood"]
"""How the base model was asked: the question alone; behind a prompt with instruction, labels and
examples; behind the same prompt for the likeliest of the labels."""

BASELINE_WORDS: dict[BaselineName, str] = {
    "AsIs": "as is",
    "Prompted": "with a prompt",
    "Likelihood": "by likelihood",
}
"""How it was asked, in words that follow "base"."""


def name_base(asked: BaselineName) -> str:
    """Return what the base model is called in a sentence on another one."""
    return "base" if asked == "AsIs" else f"base {BASELINE_WORDS[asked]}"


JUDGE_METRICS = frozenset({"judgeWinRate", "judgeScore"})
"""What a language model says of the answers."""

METRIC_SYNONYMS = {
    "accuracy": "exactMatch",
    "f1": "macroF1",
    "rouge": "rougeL",
    "ppl": "perplexity",
    "bpb": "bitsPerByte",
    "latency": "secondsPerAnswer",
    "length": "answerLength",
    "refusal": "refusalRate",
    "json": "jsonValid",
    "schema": "jsonSchemaValid",
    "numeric": "numberClose",
    "winrate": "judgeWinRate",
    "judge": "judgeWinRate",
}
"""What people write, in small letters, by the name it has here."""


class ValidationScoring(APIModel):
    """The scores of answers to validation rows, after training."""

    metric: ValidationMetric
    """The metric; as the goal's, but for what a judge says."""
    max_samples: Annotated[Integer, Field(ge=1, le=100000)] = 500
    """Validation rows that are answered, drawn by the split's seed."""


class JsonSchema(APIModel):
    """A JSON Schema, as text or as a file; one of the two."""

    text: Annotated[str, Field(min_length=1, max_length=32768)] | None = None
    """The schema itself, in JSON. It may refer to its own parts (`#/$defs/...`) and to no others:
    nothing is fetched."""
    uri: URI | None = None
    """A file that holds it. It is read with the credentials of `output`."""


class NumberTolerance(APIModel):
    """How far a number may be from that of the reference; the wider of the two counts."""

    absolute: DecimalString = "0"
    """In the unit of the numbers."""
    relative: DecimalString = "0"
    """As a share of the reference's number, `"0.01"` for one percent."""


class CustomMetric(APIModel):
    """A metric of your own: a function in a Python file.

    It is called for each answer with the answer, the list of references and the prompt (a text, or
    OpenAI's message list), and returns a number from 0 (worst) to 1 (best). The file runs in the
    evaluation's pod, with the job's rights.
    """

    path: Annotated[str, Field(min_length=1, max_length=1024), Texts(PATH_RULE)]
    """Absolute path of the file where the evaluation runs: on a cluster in its pod, mounted by
    `podTemplate.volumes`, for example from a ConfigMap."""
    function: Annotated[str, Field(min_length=1, max_length=128), Texts(VARIABLE_RULE)] = "score"
    """Name of the function in it."""
