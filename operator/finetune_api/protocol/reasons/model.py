"""Reasons of base model, tokenizer and chat template, and of what an evaluation is given."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

MODEL = {
    "AnswerPatternUnusable": _Help(
        "`evaluation.answerPattern` is no regular expression, or takes too long.", "Correct it."
    ),
    "AttentionUnsupported": _Help(
        "The model does not run with this attention.", "Use `attention: Auto`."
    ),
    "BaseModelChanged": _Help(
        "The base model is not the one this run began with.",
        "Restore it, or start the job again under a new name.",
    ),
    "EngineUnsuitable": _Help(
        "`evaluation.engine` is `VLLM`, and the adapter changes the experts of a mixture, or what"
        " is asked is longer than the model takes.",
        "Use `Transformers`; or name the attention's modules in `method.adapter.targetModules`; or"
        " lower `evaluation.maxNewTokens` or `hyperparameters.maxSequenceLength`.",
    ),
    "LicenceNotAllowed": _Help(
        "The base model's licence is none that the administrator allows, or is not stated.",
        "Choose another model, have the licence added to `config.allowedLicences`, or state it in"
        " `model.licence` if the model does not.",
    ),
    "ChatFormatMissing": _Help(
        "An earlier version wrote the adapter's folder.", "Start the job again under a new name."
    ),
    "ChatTemplateNotFound": _Help("There is no file at `model.chatTemplate.uri`.", "Correct it."),
    "ChatTemplateRefused": _Help(
        "The chat template refuses a conversation.",
        "Change the row, or give a template in `model.chatTemplate`.",
    ),
    "ChatTemplateUnusable": _Help(
        "The chat template cannot be used.", "Correct it, or leave it out."
    ),
    "CustomMetricFailed": _Help(
        "The function of `evaluation.customMetric` raised, or returned no number from 0 to 1.",
        "Correct it; the message names its line and the question, never the text.",
    ),
    "CustomMetricUnusable": _Help(
        "There is no such file or function, or the file cannot be imported.",
        "Mount the file where `evaluation.customMetric.path` says.",
    ),
    "GeneralTextsNotFound": _Help(
        "There is no file at `evaluation.forgetting.texts.uri`.", "Correct it."
    ),
    "GeneralTextsUnusable": _Help(
        "A line of `evaluation.forgetting.texts` holds no text.",
        'Write JSON lines of the form `{"text": "..."}`.',
    ),
    "InvalidModulesToSave": _Help(
        "`modulesToSave` contradicts `targetModules`.", "Name each module in one of them."
    ),
    "InvalidTargetModules": _Help(
        "`targetModules` cannot be adapted.", "Take names that the message lists, or `auto`."
    ),
    "DiskTooSmall": _Help(
        "The disk of a training pod cannot hold a checkpoint.",
        "Have `config.scratchSize` raised to the number in the message.",
    ),
    "HostMemoryTooSmall": _Help(
        "The memory limit of a training pod cannot hold what its ranks load and save.",
        "Set `resources.memory` to the number in the message.",
    ),
    "JsonSchemaNotFound": _Help("There is no file at `evaluation.jsonSchema.uri`.", "Correct it."),
    "JsonSchemaUnusable": _Help(
        "`evaluation.jsonSchema` is no valid JSON Schema.", "Correct the place that is named."
    ),
    "JudgeAway": _Help(
        "The judge gave no answer for minutes, and `evaluation.judge.onFailure` is `Fail`.",
        "Nothing while it comes back: the stage is tried again and asks for what is missing. Else "
        "look at the endpoint, at its limits, and at the network of the job's pods.",
    ),
    "JudgeRefuses": _Help(
        "The judge refuses every call: wrong key, model, address or quota.",
        "Correct `evaluation.judge` and its Secret; the message has the server's code.",
    ),
    "JudgeUnreadable": _Help(
        "Too few of the judge's replies are a verdict of the form that was asked for.",
        "Set `structuredReplies: true` if the judge's server knows JSON schemas; raise "
        "`maxAnswerTokens` for one that reasons first; take another judge.",
    ),
    "KernelsUnsupported": _Help(
        "There are no fused kernels for this architecture.", "Use `kernels: Auto`."
    ),
    "ModelDoesNotFit": _Help(
        "No plan fits the model into the GPUs.",
        "More or larger GPUs, shorter rows, `QLoRA`, or for `Full` another "
        "`hyperparameters.optimizer`; the message says what fits.",
    ),
    "ModelNotFound": _Help("There is no model at the URI.", "Correct `model.uri`."),
    "ModelTooLarge": _Help(
        "The evaluation's GPUs do not hold the model.", "Raise `evaluation.gpus`."
    ),
    "ModelUnreadable": _Help("A file of the model is damaged.", "Store the model again."),
    "ModelUnusable": _Help(
        "The folder holds no safetensors weights.",
        "Convert them: `save_pretrained(..., safe_serialization=True)`.",
    ),
    "NoChatTemplate": _Help(
        "Conversations are given and the tokenizer has no chat template.",
        "Give one in `model.chatTemplate`.",
    ),
    "NoMatchingModules": _Help(
        "`targetModules` matches nothing in the model.", "Take names that the message lists."
    ),
    "PrecisionUnsupported": _Help(
        "The hardware does not compute in this precision.", "Use `precision: Auto`."
    ),
    "QuantizationUnavailable": _Help(
        "The image lacks bitsandbytes.", "Use the operator's trainer image."
    ),
    "TiedModules": _Help(
        "A module is tied to the output head and cannot be trained alone.",
        "Leave it out of `modulesToSave`.",
    ),
    "TokenizerUnreadable": _Help(
        "The tokenizer does not load.", "Store the model with its tokenizer."
    ),
    "TokenizerWithoutEnd": _Help(
        "The tokenizer names no end token.", "Add `eos_token` to `tokenizer_config.json`."
    ),
    "UnknownTemplateArgument": _Help(
        "The chat template does not read an argument that is given.",
        "Take names that the message lists.",
    ),
}
