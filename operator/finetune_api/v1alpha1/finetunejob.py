"""The FineTuneJob kind: what a user writes.

The models are the single source of the CRD (``crds/finetunejobs.yaml``), of its reference page and
of the messages of ``finetune validate``. Rules that the API server checks through CEL carry the
same message here (:mod:`finetune_api.v1alpha1.rules`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from finetune_api.meta import (
    API_VERSION,
    MAP_BY_NAME,
    NAME_PATTERN,
    SET_LIST,
    URI,
    APIModel,
    AutoDecimal,
    CpuQuantity,
    DecimalString,
    Integer,
    LocalObjectReference,
    Quantity,
    Unique,
    UniqueNames,
    decimal_of,
)
from finetune_api.patterns import (
    ENDPOINT_RULE,
    LABEL_RULE,
    ORIGIN_RULE,
    SUBDOMAIN_RULE,
    URI_RULES,
    Texts,
)
from finetune_api.v1alpha1.batches import BATCH_RULES
from finetune_api.v1alpha1.budget import BUDGET_RULES, Budget
from finetune_api.v1alpha1.dataset import Dataset
from finetune_api.v1alpha1.gates import GATE_RULES, MAX_GATES, Gate
from finetune_api.v1alpha1.goal_rules import GOAL_RULES
from finetune_api.v1alpha1.judging import JUDGE_RULES, Judge
from finetune_api.v1alpha1.metric_rules import METRIC_RULES
from finetune_api.v1alpha1.podtemplate import PodTemplate
from finetune_api.v1alpha1.preference_rules import PREFERENCE_RULES
from finetune_api.v1alpha1.privacy import PRIVACY_RULES
from finetune_api.v1alpha1.probing import PROBE_RULES, Forgetting, Safety
from finetune_api.v1alpha1.retry import RetryPolicy
from finetune_api.v1alpha1.review import REVIEW_RULES, Review
from finetune_api.v1alpha1.rules import Rule, check_rules
from finetune_api.v1alpha1.scoring import (
    LOWER_IS_BETTER,
    CustomMetric,
    GoalMetric,
    JsonSchema,
    MetricName,
    NumberTolerance,
)
from finetune_api.v1alpha1.source_rules import SOURCE_RULES
from finetune_api.v1alpha1.status import FineTuneJobStatus
from finetune_api.v1alpha1.tracking import TRACKING_RULES, Tracking
from finetune_api.v1alpha1.training_rules import TRAINING_RULES


class Goal(APIModel):
    """The KPI this job must reach on the held-out side before its adapter is published.

    What is asked must hold at the near end of the interval, not only on average: a score of
    0.91 [0.84, 0.97] does not meet `atLeast: "0.90"`, more held-out rows or a better model do.
    A goal that the held-out rows could not show even with every answer right is refused before
    training. Where answers are labels, the model must also be better than always giving the most
    frequent one, which 99 % of the rows may have.
    """

    metric: GoalMetric
    """What is measured: `exactMatch` and `macroF1` for short labels; `rougeL`, `chrF` and `bleu`
    for text; `contains`, `regexMatch` and `numberClose` for one thing in an answer; `jsonValid`,
    `jsonSchemaValid`, `jsonEqual` and `jsonFieldF1` for JSON; `loss`, `perplexity` and
    `bitsPerByte` for any data; `custom` for a function of your own; `judgeWinRate` and `judgeScore`
    for what a judge says. All but the three of any data lie between 0 and 1."""
    at_least: DecimalString | None = None
    """Lowest acceptable score of the tuned model, for metrics where higher is better."""
    at_most: DecimalString | None = None
    """Highest acceptable score of the tuned model, for `loss`, `perplexity` and `bitsPerByte`."""
    over_base: DecimalString | None = None
    """Smallest acceptable improvement over the base model, in the unit of the metric. The two
    models are compared row by row, and the bound is that of the difference. The base is asked as
    `evaluation.baseline` says, and the best that it came to counts."""
    certainty: DecimalString = "0.95"
    """How sure the verdict must be, from 0.5 to 0.999: that of the interval whose near end is
    compared. A score that does not reach the goal is taken for one that does in at most half of
    what is left, 2.5 % at 0.95."""


class ChatTemplate(APIModel):
    """A chat template (Jinja, as tokenizers carry it), as text or as a file; one of the two."""

    text: Annotated[str, Field(min_length=1, max_length=65536)] | None = None
    """The template itself."""
    uri: URI | None = None
    """A file that holds it. It is read with the credentials of the model; what it holds is part of
    the data set's version."""


class Model(APIModel):
    """The base model."""

    uri: URI
    """Where the base model lies: `hf://org/name`, `s3://bucket/prefix`, `pvc://claim/path` or
    `file:///path`. Weights must be safetensors; pickled weights are never read."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] = "main"
    """Branch, tag or commit of an `hf://` model. It is resolved to a commit, which the run
    records."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """Public name of the model, written into the adapter as `base_model_name_or_path`. An inference
    server loads the adapter only if this equals the name it serves the base model by. Default: the
    `org/name` of an `hf://` URI, else the last part of the URI."""
    chat_template: ChatTemplate | None = None
    """How conversations are written, instead of the tokenizer's own template: in training, in the
    evaluation, in `finetune chat` and in the published `chat_template.jinja`."""
    chat_template_arguments: Annotated[
        dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=16)
    ] = {}
    """Values of the template's variables, such as `enable_thinking: "false"` or
    `reasoning_effort: low`; `"true"`, `"false"` and integers are read as such. They are written
    into the published template. Default: what switches thinking off is off, unless the answers
    bring reasoning of their own."""
    licence: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Licence of a model whose card and `config.json` state none. The administrator may allow some
    only."""
    trust_remote_code: StrictBool = False
    """Run Python code that ships inside the model repository. Off: such code runs with the job's
    credentials."""
    credentials_ref: LocalObjectReference | None = None
    """Secret with `HF_TOKEN` (for `hf://`) or `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (for
    `s3://`). Default: the credentials of `output`."""


class Origin(APIModel):
    """Trained weights that the job begins from, in place of a fresh adapter.

    Weights only: optimiser, schedule and order of the rows begin anew. Base model, adapter type,
    rank, alpha and target modules must be those the weights were trained with.
    """

    uri: Annotated[str, Field(max_length=1024), Texts(*URI_RULES, ORIGIN_RULE)]
    """What another run has stored: a checkpoint (`.../checkpoints/step-200`), the weights of its
    best step so far (`.../checkpoints/best-200`), its adapter (`.../adapter`) or a published
    version (`.../versions/namespace/name/3`). The first attempt pins its digest; a later one takes
    the same bytes or fails."""
    train: StrictBool = True
    """False trains nothing: these weights, unchanged, are the job's adapter, which is evaluated,
    held to goal and gates, and published. Settings of the training are then without effect, but for
    `precision` and `maxSequenceLength`."""
    credentials_ref: LocalObjectReference | None = None
    """Secret to read it with. Default: the credentials of `output`."""


class Adapter(APIModel):
    """What is trained on top of the base model."""

    type: Literal["LoRA", "DoRA", "RsLoRA", "QLoRA", "Full"] = "LoRA"
    """`LoRA`; `DoRA` (weight-decomposed); `RsLoRA` (rank-stabilised scaling); `QLoRA` (4-bit
    base, GPU only); `Full` trains all weights."""
    rank: Annotated[Integer, Field(ge=1, le=512)] = 16
    """Rank of the update matrices. 16 is the playbook's start; more only pays with much data."""
    alpha: Annotated[Integer, Field(ge=1, le=1024)] = 32
    """Scaling: the update is multiplied by alpha/rank (alpha/sqrt(rank) for RsLoRA)."""
    dropout: DecimalString = "0.05"
    """Dropout on the adapter's input, below 1."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(min_length=1, max_length=32, json_schema_extra=SET_LIST),
        Unique,
    ] = ["all-linear"]
    """Names of the modules that get an adapter, for example `q_proj`; `all-linear` means every
    linear layer but the output head, which loses nothing against full fine-tuning where
    attention-only does ("LoRA Without Regret", 2025). Experts of a mixture
    get one too, but for those that are stacked in one parameter which PEFT does not reach (gpt-oss,
    Llama 4); `train` says so."""
    modules_to_save: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=128)]],
        Field(max_length=32, json_schema_extra=SET_LIST),
        Unique,
    ] = []
    """Names of modules that are trained whole beside the adapter and stored in its folder, for
    example `norm`; a name means the modules of just this name. They learn in float32, whatever type
    the base model is in. Embeddings and output head of a model that ties them are refused. vLLM
    does not serve such an adapter: serve the merged model (`output.formats`)."""


class Preference(APIModel):
    """How strongly preferences pull; for the objectives `DPO`, `KTO` and `ORPO`."""

    beta: DecimalString = "0.1"
    """`DPO` and `KTO`: how firmly the tuned model is held to the base model, more is firmer.
    `ORPO`: weight of the odds ratio against the likelihood of the chosen answer."""
    desirable_weight: DecimalString = "1"
    """`KTO`: weight of the rows whose label is true."""
    undesirable_weight: DecimalString = "1"
    """`KTO`: weight of the rows whose label is false. Where one label is rarer, weights that make
    (weight x rows) of both alike, within a third, do best (Ethayarajh et al. 2024)."""


class Method(APIModel):
    """How the model is tuned."""

    objective: Literal["SFT", "DPO", "KTO", "ORPO"] = "SFT"
    """`SFT`: supervised fine-tuning on the examples. From preferences: `DPO` and `ORPO` learn from
    pairs (`prompt`, `chosen`, `rejected`), `KTO` from answers with a verdict (`prompt`,
    `completion`, `label`). `DPO` and `KTO` hold the tuned model to the base model, which is the
    same weights with the adapter switched off; `ORPO` needs no reference."""
    preference: Preference = Preference()
    """For `DPO`, `KTO` and `ORPO`."""
    loss: Literal["Auto", "Completion", "Assistant", "All"] = "Auto"
    """Which tokens count. `Completion`: the last answer only. `Assistant`: every assistant turn of
    a conversation; of a pair, whose prompt may hold earlier turns, the completion only.
    `All`: every token. `Auto`: assistant turns of conversations, completions of pairs, all of plain
    text. An answer with OpenAI's `weight: 0` is read and not learned, except by `All`; a
    conversation ends at its last answer that is learned."""
    packing: Literal["Auto", "On", "Off"] = "Auto"
    """Put several short examples into one row without letting them see each other. `Auto`: remove
    padding instead, where that is exact; it never packs. `On`: rows of `maxSequenceLength` tokens,
    worth it where most examples are much shorter. `Off`: pad."""
    adapter: Adapter = Adapter()
    """The adapter."""


class Hyperparameters(APIModel):
    """Training settings; `auto` values are decided by documented rules and echoed in the run."""

    epochs: DecimalString = "3"
    """Passes over the training side. Ignored when `maxSteps` is set."""
    max_steps: Annotated[Integer, Field(ge=1, le=10000000)] | None = None
    """Stop after this many optimiser steps."""
    learning_rate: AutoDecimal = "auto"
    """Peak learning rate. `auto`: for adapters 5e-4 x (2000 / hidden size)^0.78, half as much again
    below 100 steps, between 1e-4 and 2e-3 (hidden size 576: 1.3e-3, 4096: 2.9e-4), times
    32/alpha, or 32/(alpha x sqrt(rank)) for `RsLoRA` (at most doubled), so that scaling does not
    change how far a step goes; a tenth for
    `Full` and for `DPO`, `KTO` and `ORPO`. A number goes in quotes, as all decimals do:
    YAML reads a bare 2e-4 as a float, which the API server refuses ("must be of type string")."""
    global_batch_size: Annotated[Integer, Field(ge=1, le=65536)] | Literal["auto"] = "auto"
    """Examples per optimiser step over all ranks; constant whatever the world size. `auto`: 8 to
    32 by the size of the training side (adapters lose quality above 32), rounded up to a multiple
    of the ranks and of `microBatchSize`. A number must be a multiple of the ranks."""
    micro_batch_size: Annotated[Integer, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Examples per rank and forward pass. `auto`: the most that memory and a token budget allow
    (2,048 tokens on CPU, 16,384 on GPU). A number must divide what a rank takes per step."""
    max_sequence_length: Annotated[Integer, Field(ge=16, le=1048576)] = 1024
    """Longest example in tokens; longer ones are cut at the end and counted in the report."""
    warmup_ratio: DecimalString = "0.03"
    """Share of the steps over which the learning rate rises."""
    scheduler: Literal["Cosine", "Linear", "Constant", "WSD"] = "Cosine"
    """Shape of the learning rate after the warm-up. `WSD` (warm-up, stable, decay) keeps it at its
    peak and lets it fall to 0 over the last fifth of the steps."""
    weight_decay: DecimalString = "0"
    """AdamW's weight decay."""
    max_grad_norm: DecimalString = "1"
    """Gradients are scaled down to this norm."""
    precision: Literal["Auto", "BFloat16", "Float32"] = "Auto"
    """Type of the frozen base weights. `Auto`: bfloat16 where the hardware computes in it, else
    float32. Adapter weights are always float32."""
    activation_checkpointing: Literal["Auto", "On", "Off"] = "Auto"
    """Recompute activations in the backward pass. `Auto`: only when memory would not suffice."""
    attention: Literal["Auto", "Flash", "Flex", "SDPA", "Eager"] = "Auto"
    """How attention is computed. `Auto`: the fastest exact one that is installed and that the
    architecture knows: FlashAttention (package flash-attn, GPU, bfloat16), else PyTorch's SDPA,
    else eager. All of them compute the same; `Flex` compiles first, which pays in long runs."""
    kernels: Literal["Auto", "Liger", "Off"] = "Auto"
    """Fused kernels for norms, rotary positions and gated activations. `Auto`: Liger on GPUs where
    the package liger-kernel is installed and knows the architecture. `Off`: the model's own
    code."""
    compile: Literal["Off", "On"] = "Off"
    """Compile the model with torch.compile, on GPUs: some percent faster after minutes of
    compiling, worth it in long runs with padded or packed rows of one length."""
    seed: Annotated[Integer, Field(ge=0, le=2147483647)] = 42
    """Seed of initialisation, order and dropout. The same job gives the same adapter on the same
    hardware."""
    logging_steps: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Optimiser steps between two points of the training curve."""
    neftune_noise_alpha: DecimalString | None = None
    """NEFTune: uniform noise of this strength on the embeddings while training (Jain et al. 2023;
    5 is their start). Rows are then padded, for the noise depends on a row's length. Default:
    none."""
    lora_plus_ratio: DecimalString | None = None
    """LoRA+: the adapter's B matrices learn this many times as fast as its A matrices, which take
    `learningRate` (Hayou et al. 2024; 16 is their start); at least 1. `learningRate: auto` is
    divided by the square root of the ratio. Default: both learn alike."""


class EarlyStopping(APIModel):
    """Ends training once the validation loss no longer falls."""

    patience: Annotated[Integer, Field(ge=1, le=1000)]
    """Validations in a row without an improvement before training ends."""
    min_delta: DecimalString = "0"
    """How much lower than the best so far a validation loss must be to count as an improvement."""


class Checkpoint(APIModel):
    """Durable progress: what a preempted or crashed run resumes from."""

    every_steps: Annotated[Integer, Field(ge=1, le=1000000)] = 50
    """Optimiser steps between two checkpoints in object storage."""
    keep_last: Annotated[Integer, Field(ge=1, le=20)] = 2
    """Complete checkpoints kept."""
    after_training: Literal["Delete", "Keep"] = "Delete"
    """What becomes of the checkpoints, and of the weights of the best step, once the adapter is
    stored. `Keep`: they stay where they are, for `finetune evaluate`; who needs the room has to
    delete them."""
    validate_every_steps: Annotated[Integer, Field(ge=1, le=1000000)] | Literal["auto"] = "auto"
    """Optimiser steps between two measurements of the validation loss; the last step is always
    measured. `auto`: six in a run; where they are more than `everySteps` apart, at a checkpoint."""
    select: Literal["Best", "Last"] = "Best"
    """Whose weights are published: those of the step with the lowest validation loss, or those of
    the last step. Without validation rows it is the last step."""
    early_stopping: EarlyStopping | None = None
    """Ends training early; it needs validation rows. Default: all steps are trained."""


class Evaluation(APIModel):
    """How base and tuned model are compared on the held-out side."""

    max_samples: Annotated[Integer, Field(ge=1, le=100000)] = 500
    """Held-out rows scored, drawn by the split's seed."""
    min_prompts: Annotated[Integer, Field(ge=1, le=100000)] = 30
    """Fewest distinct held-out prompts that a published adapter may rest on. A data set with fewer
    is refused before it trains; below some 30 prompts an interval says next to nothing. Lower it
    only where the rows held out are all there will ever be."""
    max_new_tokens: Annotated[Integer, Field(ge=1, le=8192)] | Literal["auto"] = "auto"
    """Longest generated answer in tokens. `auto`: the longest reference plus a margin, at most
    1,024. The report tells how many references are longer: answers to them are cut."""
    batch_size: Annotated[Integer, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Rows generated at once."""
    baseline: Literal["Best", "AsIs"] = "Best"
    """How the base model is asked that the tuned one is compared with. `Best`: as is, and with the
    prompt that a person would write: an instruction, the labels where answers are labels, and up to
    16 examples of the train side, within 1,024 tokens; and where answers are labels also for the
    likeliest label. Of each metric the best of these counts. `AsIs`: the question alone, which
    takes some 40 % less time and also measures whether the base knows the form of the answers."""
    metrics: Annotated[
        list[MetricName], Field(max_length=12, json_schema_extra=SET_LIST), Unique
    ] = []
    """What is computed beside the goal's metric. Default: what fits the data, which is `exactMatch`
    and `macroF1` for labels, `jsonValid`, `jsonFieldF1` and `jsonEqual` for JSON, else `rougeL`,
    `chrF` and `bleu`; with `loss` and `perplexity`. `secondsPerAnswer` is the time that the
    evaluation takes for an answer, in batches; it alone differs from run to run."""
    json_schema: JsonSchema | None = None
    """What answers must match for `jsonSchemaValid`, which is computed where this is given."""
    answer_pattern: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A regular expression as Python writes it; `regexMatch` is the share of answers in which it
    matches somewhere, and is computed where this is given."""
    number_tolerance: NumberTolerance | None = None
    """How close `numberClose` wants the last number of an answer to the reference's; it is computed
    where this is given. Default: equal."""
    custom_metric: CustomMetric | None = None
    """Your own metric `custom`, which is computed where this is given."""
    gates: Annotated[
        list[Gate], Field(max_length=MAX_GATES, json_schema_extra=MAP_BY_NAME), UniqueNames
    ] = []
    """What else must hold before the adapter is published, beside the goal."""
    forgetting: Forgetting | None = None
    """Whether general abilities were lost. Default: not measured; `{}` measures it."""
    safety: Safety | None = None
    """Whether the tuned model is less safe than its base. Default: not measured; `{}` measures
    it."""
    num_bootstrap_samples: Annotated[Integer, Field(ge=100, le=10000)] = 1000
    """Resamples behind the intervals of scores that are measured, not counted."""
    gpus: Annotated[Integer, Field(ge=1, le=64)] | Literal["auto"] = "auto"
    """GPUs of the evaluation's one pod, at most `resources.gpusPerNode`. `auto`: as many as a
    training pod has. A model that fits one GPU is put on each, and they share the questions; a
    larger one is spread over all of them. The scores are the same either way."""
    review: Review | None = None
    """Have people compare answers of base and tuned model. Default: nobody is asked."""
    judge: Judge | None = None
    """Have a language model judge them; prompts and answers are sent to it. Default: none is
    asked."""


class Output(APIModel):
    """Where results go."""

    uri: URI
    """Where results go: `s3://bucket/prefix`, `pvc://claim/path` or `file:///folder`. The run's own
    prefix ends in namespace, name and UID, so that no job overwrites another's."""
    credentials_ref: LocalObjectReference | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`. Default: the pod's own
    identity."""
    formats: Annotated[
        list[Literal["Adapter", "Merged"]],
        Field(min_length=1, max_length=2, json_schema_extra=SET_LIST),
        Unique,
    ] = ["Adapter"]
    """`Adapter` is always written; `Merged` adds the base model with the adapter folded in."""


class S3(APIModel):
    """How S3 is reached, for servers other than AWS."""

    endpoint: Annotated[str, Field(max_length=512), Texts(ENDPOINT_RULE)] | None = None
    """URL of the server, for example `https://s3.example.org`. Default: AWS, or the environment's
    `AWS_ENDPOINT_URL_S3`. On a cluster it must be on the operator's allow list."""
    region: Annotated[str, Field(max_length=64)] | None = None
    """Region name. Default: the environment's, else `us-east-1`."""
    addressing: Literal["Auto", "Path", "Virtual"] = "Auto"
    """`Path` puts the bucket into the path, as most servers other than AWS need. `Auto`: `Path`
    when `endpoint` is set."""


class Resources(APIModel):
    """What the training pods get. The world size is nodes times GPUs per node."""

    nodes: Annotated[Integer, Field(ge=1, le=256)] = 1
    """Pods that train together, one per node."""
    gpus_per_node: Annotated[Integer, Field(ge=0, le=64)] = 1
    """GPUs, and processes, per pod. 0 trains and evaluates on CPU with one process."""
    gpu_resource: Annotated[str, Field(min_length=1, max_length=128)] = "nvidia.com/gpu"
    """Name of the extended resource the GPUs are asked for by."""
    strategy: Literal["Auto", "DDP", "ZeRO2", "ZeRO3", "FSDP2"] = "Auto"
    """How ranks share the work. `Auto`: DDP while the base fits one GPU, else FSDP2."""
    cpu: CpuQuantity | None = None
    """CPU request and limit of a training or evaluation pod, for example `8` or `7500m`. Default:
    the operator's."""
    memory: Quantity | None = None
    """Memory request and limit of a training or evaluation pod. Default: the operator's."""
    shared_memory: Quantity | None = None
    """Size of `/dev/shm`, which the collectives use between GPUs. Default: the operator's."""


class Trainer(APIModel):
    """The image that runs the stages."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image reference, best by digest. Default: the operator's trainer image."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: Kubernetes' own rule."""
    step_timeout_seconds: Annotated[Integer, Field(ge=1, le=86400)] | None = None
    """A training in which no rank makes a step for so long is taken to hang: the stacks of all
    ranks are stored, and the next attempt resumes at the last checkpoint. Default: ten times the
    median step, at least 10 minutes. Up to its first step, and while it saves, it has an hour."""


SPEC_RULES: tuple[Rule, ...] = (
    Rule(
        rule=(
            "!has(self.model.chatTemplate) || "
            "has(self.model.chatTemplate.text) != has(self.model.chatTemplate.uri)"
        ),
        message="model.chatTemplate needs text or uri, and not both",
        field="model.chatTemplate",
        check=lambda s: (
            s.model.chat_template is None
            or (s.model.chat_template.text is None) != (s.model.chat_template.uri is None)
        ),
    ),
    Rule(
        rule=(
            "!has(self.goal) || has(self.goal.atLeast) || has(self.goal.atMost) || "
            "has(self.goal.overBase)"
        ),
        message="goal needs at least one of atLeast, atMost or overBase",
        field="goal",
        check=lambda s: (
            s.goal is None
            or any(v is not None for v in (s.goal.at_least, s.goal.at_most, s.goal.over_base))
        ),
    ),
    Rule(
        rule=(
            "!has(self.goal) || !has(self.goal.atLeast) || !(self.goal.metric in "
            "['loss', 'perplexity', 'bitsPerByte'])"
        ),
        message=(
            "goal.atLeast does not fit loss, perplexity and bitsPerByte, where lower is better: "
            "use atMost"
        ),
        field="goal.atLeast",
        check=lambda s: (
            s.goal is None or s.goal.at_least is None or s.goal.metric not in LOWER_IS_BETTER
        ),
    ),
    Rule(
        rule=(
            "!has(self.goal) || !has(self.goal.atMost) || self.goal.metric in ['loss', "
            "'perplexity', 'bitsPerByte']"
        ),
        message=(
            "goal.atMost fits only loss, perplexity and bitsPerByte, where lower is better: use "
            "atLeast"
        ),
        field="goal.atMost",
        check=lambda s: (
            s.goal is None or s.goal.at_most is None or s.goal.metric in LOWER_IS_BETTER
        ),
    ),
    Rule(
        rule="!has(self.goal) || !has(self.goal.atLeast) || double(self.goal.atLeast) <= 1.0",
        message=(
            "goal.atLeast must be at most 1: scores lie between 0 and 1, write 0.9 for 90 percent"
        ),
        field="goal.atLeast",
        check=lambda s: (
            s.goal is None or s.goal.at_least is None or decimal_of(s.goal.at_least) <= 1
        ),
    ),
    Rule(
        rule="self.dataset.split.testPercent + self.dataset.split.validationPercent <= 90",
        message=(
            "dataset.split: testPercent and validationPercent together leave less than "
            "10 percent to train on"
        ),
        field="dataset.split",
        check=lambda s: s.dataset.split.test_percent + s.dataset.split.validation_percent <= 90,
    ),
    Rule(
        rule=(
            "self.dataset.split.by != 'Time' || self.dataset.sources.all(s, s.side != 'Split' || "
            "(has(s.columns) && has(s.columns.time)))"
        ),
        message=(
            "dataset.split.by Time needs columns.time in every source with side: Split: name the "
            "column that holds the time of a row"
        ),
        field="dataset.split.by",
        check=lambda s: (
            s.dataset.split.by != "Time"
            or all(
                source.side != "Split" or (source.columns is not None and source.columns.time)
                for source in s.dataset.sources
            )
        ),
    ),
    Rule(
        rule=(
            "double(self.dataset.duplicates.threshold) >= 0.5 && "
            "double(self.dataset.duplicates.threshold) <= 1.0"
        ),
        message=(
            "dataset.duplicates.threshold must lie between 0.5 and 1: below, prompts have less in "
            "common than not"
        ),
        field="dataset.duplicates.threshold",
        check=lambda s: Decimal("0.5") <= decimal_of(s.dataset.duplicates.threshold) <= 1,
    ),
    Rule(
        rule=(
            "self.output.uri.startsWith('s3://') || "
            "self.output.uri.startsWith('file://') || "
            "self.output.uri.startsWith('pvc://')"
        ),
        message="output.uri must be s3://, pvc:// or file://: the Hub is read-only here",
        field="output.uri",
        check=lambda s: not s.output.uri.startswith("hf://"),
    ),
    Rule(
        rule="self.evaluation.maxSamples >= self.evaluation.minPrompts",
        message=(
            "evaluation.maxSamples must be at least evaluation.minPrompts: nothing could ever be "
            "published"
        ),
        field="evaluation.maxSamples",
        check=lambda s: s.evaluation.max_samples >= s.evaluation.min_prompts,
    ),
    Rule(
        rule="double(self.method.adapter.dropout) < 1.0",
        message="method.adapter.dropout must be below 1",
        field="method.adapter.dropout",
        check=lambda s: decimal_of(s.method.adapter.dropout) < 1,
    ),
    Rule(
        rule="self.method.adapter.type != 'QLoRA' || self.resources.gpusPerNode > 0",
        message="method.adapter.type QLoRA needs a GPU: set resources.gpusPerNode, or use LoRA",
        field="method.adapter.type",
        check=lambda s: s.method.adapter.type != "QLoRA" or s.resources.gpus_per_node > 0,
    ),
    Rule(
        rule="self.resources.strategy != 'FSDP2' || self.resources.gpusPerNode > 0",
        message=(
            "resources.strategy FSDP2 needs GPUs: set resources.gpusPerNode, or use DDP or ZeRO3"
        ),
        field="resources.strategy",
        check=lambda s: s.resources.strategy != "FSDP2" or s.resources.gpus_per_node > 0,
    ),
    Rule(
        rule="self.method.adapter.type != 'QLoRA' || self.resources.strategy != 'ZeRO3'",
        message=(
            "resources.strategy ZeRO3 cannot shard the 4-bit weights of method.adapter.type QLoRA: "
            "use Auto, DDP or FSDP2, or an adapter of another type"
        ),
        field="resources.strategy",
        check=lambda s: s.method.adapter.type != "QLoRA" or s.resources.strategy != "ZeRO3",
    ),
    Rule(
        rule=(
            "type(self.evaluation.gpus) == string || "
            "self.evaluation.gpus <= self.resources.gpusPerNode"
        ),
        message=(
            "evaluation.gpus must be at most resources.gpusPerNode: evaluation runs on one of the "
            "nodes"
        ),
        field="evaluation.gpus",
        check=lambda s: (
            s.evaluation.gpus == "auto" or s.evaluation.gpus <= s.resources.gpus_per_node
        ),
    ),
    Rule(
        rule=(
            "self.resources.gpusPerNode > 0 || (self.hyperparameters.compile == 'Off' && "
            "self.hyperparameters.kernels != 'Liger' && "
            "!(self.hyperparameters.attention in ['Flash', 'Flex']))"
        ),
        message=(
            "hyperparameters.attention Flash and Flex, kernels Liger and compile On need a GPU: "
            "set resources.gpusPerNode, or leave them out"
        ),
        field="hyperparameters",
        check=lambda s: (
            s.resources.gpus_per_node > 0
            or (
                s.hyperparameters.compile == "Off"
                and s.hyperparameters.kernels != "Liger"
                and s.hyperparameters.attention not in ("Flash", "Flex")
            )
        ),
    ),
    Rule(
        rule="self.output.formats.exists(f, f == 'Adapter')",
        message="output.formats must contain Adapter",
        field="output.formats",
        check=lambda s: "Adapter" in s.output.formats,
    ),
    Rule(
        rule=(
            "self.hyperparameters.learningRate == 'auto' || "
            "double(self.hyperparameters.learningRate) > 0.0"
        ),
        message="hyperparameters.learningRate must be greater than 0",
        field="hyperparameters.learningRate",
        check=lambda s: (
            s.hyperparameters.learning_rate == "auto"
            or decimal_of(s.hyperparameters.learning_rate) > 0
        ),
    ),
    Rule(
        rule="double(self.hyperparameters.epochs) > 0.0",
        message="hyperparameters.epochs must be greater than 0",
        field="hyperparameters.epochs",
        check=lambda s: decimal_of(s.hyperparameters.epochs) > 0,
    ),
    Rule(
        rule="double(self.hyperparameters.warmupRatio) < 1.0",
        message="hyperparameters.warmupRatio must be below 1: it is a share of the steps",
        field="hyperparameters.warmupRatio",
        check=lambda s: decimal_of(s.hyperparameters.warmup_ratio) < 1,
    ),
    *BATCH_RULES,
    *TRAINING_RULES,
    *PREFERENCE_RULES,
    *GOAL_RULES,
    *METRIC_RULES,
    *GATE_RULES,
    *REVIEW_RULES,
    *JUDGE_RULES,
    *PROBE_RULES,
    *SOURCE_RULES,
    *PRIVACY_RULES,
    *BUDGET_RULES,
    *TRACKING_RULES,
)

IMMUTABLE_FIELDS = (
    "goal",
    "model",
    "dataset",
    "method",
    "initFrom",
    "hyperparameters",
    "checkpoint",
    "evaluation",
    "output",
    "s3",
    "resources",
    "trainer",
    "tracking",
    "podTemplate",
)
"""What is trained, where and how: fixed once the job exists."""


class FineTuneJobSpec(APIModel):
    """What to train, on what, where the result goes and what it must reach."""

    goal: Goal | None = None
    """The KPI and its target. Without one the adapter is published whatever its score."""
    model: Model
    """The base model."""
    dataset: Dataset
    """The examples."""
    method: Method = Method()
    """How the model is tuned."""
    init_from: Origin | None = None
    """Trained weights to begin from. Default: none, the adapter begins fresh."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Training settings."""
    checkpoint: Checkpoint = Checkpoint()
    """Durable progress."""
    evaluation: Evaluation = Evaluation()
    """How base and tuned model are compared."""
    output: Output
    """Where results go."""
    s3: S3 = S3()
    """How S3 is reached."""
    resources: Resources = Resources()
    """What the training pods get."""
    trainer: Trainer = Trainer()
    """The image that runs the stages."""
    tracking: Tracking | None = None
    """Trackers of experiments that are told of the job. Default: none, nothing leaves."""
    pod_template: PodTemplate | None = None
    """Bounded changes to the pods of this job."""
    queue_name: Annotated[str, Field(max_length=63), Texts(LABEL_RULE)] | None = None
    """Kueue LocalQueue that training and evaluation wait in. Default: none, pods start at once,
    unless the namespace has a LocalQueue named `default`. May be changed while the job waits, and
    of a running job together with `suspend: true`."""
    priority_class_name: Annotated[str, Field(max_length=63), Texts(SUBDOMAIN_RULE)] | None = None
    """Kueue WorkloadPriorityClass of the queued stages. May be changed at any time, also while the
    job runs; a running job without one gets none."""
    suspend: StrictBool = False
    """Hold the job: running pods save and stop, nothing new starts. False resumes at the last
    checkpoint."""
    hold_after: Literal["Train"] | None = None
    """`Train`: once trained, the job waits for whoever chooses among several (phase
    `AwaitingSelection`), without pods, quota or running time. Removed, it goes on: evaluation,
    gates and publication are those of any job. It can be set at creation only, and removed at any
    time. Default: none, the job goes on by itself."""
    prune: StrictBool = False
    """End the job where it is: running pods save a checkpoint and stop, nothing new starts, and it
    is `Pruned`, which is no failure. What it has stored stays, and a new job can begin from it
    (`initFrom`). It may be set at any time and not taken back; a job that has ended, or whose
    adapter is being published, stays what it is."""
    backoff_limit: Annotated[Integer, Field(ge=0, le=100)] = 3
    """How often a stage is tried again after incidents of a class that `retryPolicy` does not name.
    Whatever the number of pods that an incident ends, it counts once; evictions, preemptions and
    lost nodes never do. Mistakes in the job or in its data are never tried again. May be changed
    while the job runs."""
    retry_policy: RetryPolicy | None = None
    """Budgets of their own for classes of incidents. May be changed while the job runs. Default:
    none, all share `backoffLimit`."""
    active_deadline_seconds: Annotated[Integer, Field(ge=1, le=31536000)] | None = None
    """Longest running time over all stages and attempts, in seconds, without time in the queue or
    suspended."""
    budget: Budget | None = None
    """What the job may cost. May be changed while the job runs. Default: no limit."""
    ttl_seconds_after_finished: Annotated[Integer, Field(ge=0, le=31536000)] | None = None
    """Delete the finished FineTuneJob after this many seconds. Files in object storage stay."""

    @property
    def trains_nothing(self) -> bool:
        """Whether the weights of another run become the adapter as they are."""
        return self.init_from is not None and not self.init_from.train

    @property
    def writes_merged(self) -> bool:
        """Whether base and adapter are also written as one model; `Full` is one anyway."""
        return "Merged" in self.output.formats and self.method.adapter.type != "Full"

    @property
    def publishes_at_once(self) -> bool:
        """Whether nothing may stand between a candidate that passed and its publication.

        Then the evaluation's pod publishes at its end. Both that pod and the operator ask this.
        """
        review = self.evaluation.review
        return review is None or not review.required

    @property
    def evaluation_gpus(self) -> int:
        """GPUs of the evaluation's pod."""
        asked = self.evaluation.gpus
        return self.resources.gpus_per_node if asked == "auto" else asked

    @model_validator(mode="after")
    def _check_rules(self) -> FineTuneJobSpec:
        check_rules(self, SPEC_RULES)
        return self


class ObjectMeta(APIModel):
    """The part of Kubernetes' ObjectMeta that is read here; the rest passes unread."""

    model_config = {**APIModel.model_config, "extra": "ignore"}

    name: Annotated[str, Field(min_length=1, max_length=52, pattern=NAME_PATTERN)]
    """At most 52 characters: names of Jobs, pods and Services are derived from it."""
    namespace: Annotated[str, Field(max_length=63)] | None = None
    """Namespace."""
    uid: str | None = None
    """Set by the API server."""
    generation: int | None = None
    """Set by the API server."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""


class FineTuneJob(APIModel):
    """One fine-tuning run: from examples to an evaluated, verified adapter in object storage."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION  # type: ignore[assignment]
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: FineTuneJobStatus | None = None

    @classmethod
    def from_wire(cls, body: dict[str, Any]) -> FineTuneJob:
        """Parse a Kubernetes object, wire names only; raises pydantic's ValidationError."""
        return cls.model_validate(body, by_alias=True, by_name=False)

    @classmethod
    def from_stored(cls, body: dict[str, Any]) -> FineTuneJob:
        """Parse an object that the API server holds: as ``from_wire``, but ignore unknown fields.

        The server has refused what its CRD does not know. A field unknown here comes from a newer
        CRD, whose defaults stand in every object.
        """
        return cls.model_validate(body, by_alias=True, by_name=False, extra="ignore")
