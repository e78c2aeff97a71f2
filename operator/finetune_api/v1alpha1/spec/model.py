"""``spec.model`` and ``spec.initFrom``: the weights that training begins from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from finetune_api.meta import URI, APIModel, LocalObjectReference
from finetune_api.patterns import ORIGIN_RULE, PRINTED_RULE, URI_RULES, Texts


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
    revision: Annotated[str, Field(min_length=1, max_length=128), Texts(PRINTED_RULE)] = "main"
    """Branch, tag or commit of an `hf://` model. It is resolved to a commit, which the run
    records."""
    name: Annotated[str, Field(max_length=256), Texts(PRINTED_RULE)] | None = None
    """Public name of the model, written into the adapter as `base_model_name_or_path`. An inference
    server loads the adapter only if this equals the name it serves the base model by. Default: the
    `org/name` of an `hf://` URI, else the last part of the URI."""
    chat_template: ChatTemplate | None = None
    """How conversations are written, instead of the tokenizer's own template: in training, in the
    evaluation, in `finetune chat` and in the published `chat_template.jinja`."""
    chat_template_arguments: Annotated[
        dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(max_length=1024)]],
        Field(max_length=16),
    ] = {}
    """Values of the template's variables, such as `enable_thinking: "false"` or
    `reasoning_effort: low`; `"true"`, `"false"` and integers are read as such. They are written
    into the published template. Default: what switches thinking off is off, unless the answers
    bring reasoning of their own."""
    licence: Annotated[str, Field(min_length=1, max_length=128), Texts(PRINTED_RULE)] | None = None
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
    credentials_ref: LocalObjectReference | None = None
    """Secret to read it with. Default: the credentials of `output`."""
