"""What the trainer's reasons mean and what to do; grouped by the room that gives them.

The message of a failure names the values; here stands what holds for all of its kind. A test
keeps the table equal to what the trainer's code says.
"""

from __future__ import annotations

from finetune_api.reasons import ReasonHelp as _Help

STORAGE = {
    "AccessDenied": _Help(
        "The store refuses the key.",
        "Check that key and secret belong together and may read, write and list the bucket.",
    ),
    "AlreadyExists": _Help(
        "A file that is written once only was there already.",
        "Nothing; run again if the stage failed by it.",
    ),
    "BucketFull": _Help("The bucket has no space left.", "Free space or raise its quota."),
    "BucketNotFound": _Help("There is no such bucket.", "Create it, or correct URI and endpoint."),
    "ChecksumMismatch": _Help(
        "What is stored is not what its manifest says.",
        "Delete the damaged folder; it is written again.",
    ),
    "ClockSkew": _Help(
        "The node's clock is wrong, so the store refuses its signatures.", "Correct the clock."
    ),
    "CredentialsExpired": _Help("The session of the key is over.", "Renew it in the Secret."),
    "CredentialsMissing": _Help("No key was found.", "Name a Secret in `credentialsRef`."),
    "CredentialsUnreadable": _Help("A key of the Secret is no text.", "Write the Secret anew."),
    "DamagedInTransit": _Help(
        "What was written arrived damaged, several times.",
        "Look at the network, its proxies and the store.",
    ),
    "DiskFull": _Help(
        "The pod's disk is full.", "Have `config.scratchSize` raised, or free the volume."
    ),
    "IncompleteFolder": _Help(
        "A folder has no manifest: its writer has not finished.",
        "Wait for it, or name another folder.",
    ),
    "InvalidEndpoint": _Help("`s3.endpoint` is no URL.", "Write `https://host[:port]`."),
    "InvalidKey": _Help("A path cannot be a storage key.", "Rename the file."),
    "InvalidUri": _Help("A URI is malformed.", "Correct bucket and prefix."),
    "LinkLeavesStore": _Help(
        "A link leads out of the folder.", "Name its target, or copy it into the folder."
    ),
    "LocalIoError": _Help(
        "The pod's disk cannot be read or written.",
        "Is the folder there, mounted, and this user's?",
    ),
    "ManifestInvalid": _Help(
        "A manifest cannot be read: something else wrote it.",
        "Publish the folder again under a new prefix.",
    ),
    "OtherAdapterEvaluated": _Help(
        "The run's evaluation is about another adapter than the run has: something else wrote it.",
        "Start the job again under a new name.",
    ),
    "MissingDependency": _Help(
        "A package is missing in the image.",
        "Use the operator's trainer image, or add the package.",
    ),
    "ModelGated": _Help(
        "The model is gated, and the token has no access.",
        "Accept its terms; put a token of that account into the Secret as `HF_TOKEN`.",
    ),
    "ObjectChanging": _Help(
        "A file changed while it was read.", "Run again when its writer is done."
    ),
    "ObjectNotFound": _Help("A file is not there.", "Correct the URI, or restore the file."),
    "Offline": _Help(
        "The model is not in the cache and the Hub may not be asked.",
        "Put it into a bucket, or let the pod out.",
    ),
    "OtherWriterWon": _Help(
        "Another writer published something else under the same name.",
        "Start the job again under a new name.",
    ),
    "ReadOnlyStore": _Help("`hf://` cannot be written to.", "Give an `s3://` URI as output."),
    "RevisionMismatch": _Help(
        "The revision is given twice, and differently.", "Name it in one place."
    ),
    "RevisionNotFound": _Help(
        "There is no such branch, tag or commit.", "Correct `model.revision`."
    ),
    "StorageFailed": _Help(
        "The store answered with an error.", "Read the message; look at the store."
    ),
    "StorageStalled": _Help(
        "The store has taken nothing and said nothing for long.",
        "Mend the store; the run resumes at the last checkpoint that was stored.",
    ),
    "StoreConflict": _Help(
        "A file holds something else than its name stands for.",
        "Delete this one file and run again.",
    ),
    "Unreachable": _Help(
        "The store does not answer.", "Check endpoint, DNS, network policies, and whether it runs."
    ),
    "UnsafeFile": _Help(
        "A file of the model could run code when loaded.", "Use a repository with safetensors."
    ),
    "Unsupported": _Help(
        "The store lacks conditional writes, multipart uploads or version 4 signatures.",
        "Use another store.",
    ),
    "WrongRegion": _Help("The bucket lies in another region.", "Set `s3.region`."),
}
"""Reasons of object stores, folders and the Hub."""

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
        "`targetModules` cannot be adapted.", "Take names that the message lists, or `all-linear`."
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
        "Take another judge; raise `maxAnswerTokens` for one that reasons first.",
    ),
    "KernelsUnsupported": _Help(
        "There are no fused kernels for this architecture.", "Use `kernels: Auto`."
    ),
    "ModelDoesNotFit": _Help(
        "No plan fits the model into the GPUs.",
        "More or larger GPUs, shorter rows, `QLoRA`; the message says what fits.",
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
    "QLoRANeedsGPU": _Help("`QLoRA` needs a GPU.", "Use `LoRA`, or ask for GPUs."),
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
"""Reasons of base model, tokenizer and chat template."""

DATA = {
    "AllRowsTooLong": _Help(
        "All rows are cut before their answer begins.", "Raise `maxSequenceLength`."
    ),
    "AnswerNotReproduced": _Help(
        "The tokens of an answer decode to other text.", "Give a template that keeps the text."
    ),
    "AnswersRepeatPrompts": _Help(
        "Nearly all answers are their own prompt.", "Correct the columns of `dataset.sources`."
    ),
    "BrokenEncoding": _Help(
        "An answer holds U+FFFD, or UTF-8 that was read in another encoding.",
        "Write the file anew from its source, in UTF-8.",
    ),
    "ControlCharacter": _Help(
        "An answer holds a control character.", "Remove it, or the model learns to write it."
    ),
    "ControlToken": _Help(
        "A row's text holds a token that the model reads as a command.",
        "Write it otherwise, or allow invalid rows.",
    ),
    "DatasetChanged": _Help(
        "The prepared data set is not the one this run began with.",
        "Delete that folder; start again under a new name.",
    ),
    "DatasetNotApproved": _Help(
        "The run points at another data set than somebody has approved.",
        "Start the job again under a new name, and have its data set looked at.",
    ),
    "EvaluationNotApproved": _Help(
        "Somebody decided to publish another evaluation than the run has.",
        "Look at the run's own evaluation, and decide on that one.",
    ),
    "DatasetNotFound": _Help("There is nothing at a source's URI.", "Correct it."),
    "DatasetNotPrepared": _Help("`prepare` has not run.", "Run it first."),
    "DatasetUnreadable": _Help(
        "The prepared data set cannot be read.", "Delete that folder; start the job again."
    ),
    "EmptyAnswer": _Help("A row has an empty answer.", "Correct the row."),
    "EmptyDataset": _Help("No source has a usable row.", "Check the files."),
    "EmptyText": _Help("A field of a row is empty.", "Correct the row."),
    "EqualAnswers": _Help("Both answers of a pair are the same.", "Leave the row out."),
    "FormatNotApplicable": _Help(
        "The format does not fit the objective.", "Use `Auto`, or the one the message names."
    ),
    "GateSliceEmpty": _Help(
        "A gate looks at a slice that no held-out row belongs to.",
        "Correct `slice` of the gate that the message names, or hold out such rows.",
    ),
    "GateUndecidable": _Help(
        "So few prompts are held out in a gate's slice that not even a perfect score would meet "
        "it.",
        "Add rows, ask for less or for less `certainty`, or set `severity: Warn`.",
    ),
    "GoalUndecidable": _Help(
        "So few prompts are held out, or so few with another label than the most frequent one, "
        "that not even a perfect score would meet the goal with `goal.certainty`.",
        "Add rows or raise `split.testPercent`, as far as the message says; or lower the goal.",
    ),
    "InvalidHeader": _Help(
        "The first line of a table cannot be read, or names a column twice.", "Correct it."
    ),
    "InvalidRows": _Help(
        "More rows are invalid than `dataset.maxInvalidRows` allows.",
        "Correct them; `invalid-rows.jsonl` of the run lists them all.",
    ),
    "InvalidTemplate": _Help(
        "A template is not valid Jinja.", "Correct it where the message says."
    ),
    "InvalidToolCall": _Help("A row's tool call is malformed.", "Correct the row."),
    "InvalidTools": _Help("A row's `tools` is malformed.", "Correct the row."),
    "MetricUnsuitable": _Help(
        "A metric that the job asks for does not fit the held-out rows.",
        "Take one that the message names.",
    ),
    "MissingColumn": _Help(
        "A column that the job names is not there.", "Correct `columns` or `template`."
    ),
    "MissingField": _Help("A row lacks a field.", "Correct the row."),
    "MissingGroup": _Help(
        "A row has no value in the group column.", "Fill it, or drop `columns.group`."
    ),
    "NoAnswer": _Help("A conversation does not end with an answer.", "Correct the row."),
    "NoHeldOutRows": _Help("There is no row to evaluate on.", "Raise `split.testPercent`."),
    "NothingToReview": _Help(
        "A review is asked for, and the held-out rows have no answers that people could compare.",
        "Leave `evaluation.review` out, or hold out rows with answers.",
    ),
    "PanelUnusable": _Help(
        "The panel's result that somebody names is not there, was changed, is about another"
        " evaluation, or is of too few reviewers.",
        "`finetune review submit` the reviewers' files again.",
    ),
    "PublishedUnusable": _Help(
        "The published version cannot be asked beside base and tuned model: gates with"
        " `overPublished` are missed.",
        "Publish a version that can be asked, give the job another name, or set `severity: Warn`.",
    ),
    "NoPreferences": _Help(
        "Rows have labels where pairs are needed, or the other way round.",
        "Use the objective that the message names.",
    ),
    "NoSharedPrompt": _Help(
        "The answers of a pair do not follow the same prompt.", "Correct the row."
    ),
    "NoTestRows": _Help(
        "No rows are held out.", "Raise `split.testPercent`, or give a source with `side: Test`."
    ),
    "NoTrainRows": _Help("No row is left to train on.", "Lower the other sides."),
    "NoVerdict": _Help("A row's label is neither true nor false.", "Correct the row."),
    "NotAnObject": _Help("A row is no JSON object.", "Correct the row."),
    "NotCsv": _Help("A line is no CSV.", "Correct the line."),
    "NotJson": _Help("A line is no JSON.", "Correct the line."),
    "NotMessages": _Help("A row's conversation is no list of messages.", "Correct the row."),
    "NotText": _Help("A field of a row is no text.", "Correct the row."),
    "NothingToLearn": _Help(
        "All answers of a row have weight 0.", "Give one weight 1, or leave the row out."
    ),
    "OneVerdict": _Help("All labels are alike.", "Add rows with the other label."),
    "PromptNotPrefix": _Help(
        "The template writes an answer elsewhere than generation begins one.",
        "Give another template.",
    ),
    "RowsTooLong": _Help(
        "The answer of rows does not fit `hyperparameters.maxSequenceLength`.",
        "Raise it as the message says, or set `dataset.onTooLong` to `Drop` or `Truncate`.",
    ),
    "SystemNotApplicable": _Help("Plain text has no system message.", "Remove `system`."),
    "TemplateDropsTools": _Help(
        "The chat template leaves tool calls out.",
        "Remove them, or give a template that writes them.",
    ),
    "TemplateDropsTurn": _Help(
        "The chat template leaves a turn out.", "Remove it, or give a template that writes it."
    ),
    "TemplateFailed": _Help(
        "The source's template fails on a row.", "Correct `template` or the row."
    ),
    "TemplateNotApplicable": _Help(
        "Rows of this format have no prompt to render.", "Remove `template`, or use `format: Csv`."
    ),
    "BadTime": _Help(
        "The value of a row's time column is no time.",
        "Write ISO 8601 or seconds since 1970, or drop `columns.time`.",
    ),
    "MissingTime": _Help(
        "A row has no value in the time column.", "Fill it, or drop `columns.time`."
    ),
    "BenchmarkUnreadable": _Help(
        "A row of `dataset.contamination.against` cannot be read.",
        "Correct its `uri`, `format`, `columns` or `template`.",
    ),
    "Contaminated": _Help(
        "Rows are close to a benchmark's, and `contamination.onMatch` is `Refuse`.",
        "Leave out the rows that the message names, or set `onMatch: Drop`.",
    ),
    "ContradictoryLabels": _Help(
        "Questions have more than one label, and `dataset.onConflict` is `Refuse`.",
        "Decide on one label each, or set `onConflict: Drop` or `Report`.",
    ),
    "TooFewHeldOutPrompts": _Help(
        "Fewer prompts are held out than `evaluation.minPrompts` asks for.",
        "Add rows, or raise `split.testPercent`.",
    ),
    "TooFewRows": _Help("There are fewer groups of rows than sides.", "Add rows."),
    "ToolMessage": _Help(
        "A row has a tool call in a shape that is not known.",
        "Write it as `tool_calls`, answers as role `tool`.",
    ),
    "TwoSystemMessages": _Help(
        "A row has two system messages that differ, or one of its own beside its source's.",
        "Remove one of them.",
    ),
    "WrongEncoding": _Help(
        "A text file cannot be decoded, or may be in one of several encodings.",
        "Set `encoding` of its source, or save it as UTF-8.",
    ),
    "AnswerBesideText": _Help(
        "Rows have a text and what looks like the answer to it.",
        "Name both in `columns`, or set `format: Text`.",
    ),
    "NoHeader": _Help(
        "The first row of a table reads like data and not like names of columns.",
        "Set `header` of its source to `Absent` or `Present`.",
    ),
    "SettingNotApplicable": _Help(
        "A source has a setting for files of another kind.", "Leave it out."
    ),
    "SheetNotFound": _Help(
        "A workbook has no sheet of that name.", "Correct `sheet` of its source."
    ),
    "UnknownFileType": _Help("A file's extension is not known.", "Use one that the message lists."),
    "UnknownFormat": _Help(
        "The format of the rows is not recognised.", "Set `format`, or `columns` and `template`."
    ),
    "UnknownRole": _Help(
        "A message has a role that is not known.", "Take one that the message names."
    ),
    "UnknownWeight": _Help("A message's weight is neither 0 nor 1.", "Correct the row."),
    "UnreadableFile": _Help("A file cannot be read.", "Write it anew."),
    "RepeatedKey": _Help(
        "An object of a row has a key more than once, of which only the last value would be read.",
        "Keep one of them.",
    ),
    "UnclosedReasoning": _Help(
        "An answer begins to reason (`<think>`) and never ends it.",
        "End it, or leave the row out.",
    ),
    "UnwantedAnswer": _Help(
        "A row's label says that its answer is unwanted, and the objective would learn it.",
        "Use `objective: KTO`, leave the row out, or set the format of its source.",
    ),
    "VerdictsNotExamples": _Help(
        "A label says which answers are unwanted, and the objective would learn them all.",
        "Use `objective: KTO`, or leave out the rows that are false.",
    ),
    "WorkerDied": _Help(
        "A process that works on rows was killed from outside.", "Nothing; it is tried again."
    ),
    "WrongFieldCount": _Help(
        "A line of a table has more or fewer fields than its header.", "Correct the line."
    ),
    "WrongRoleOrder": _Help("User and assistant do not alternate.", "Correct the row."),
}
"""Reasons of `prepare`: sources, rows, split."""

TRAIN = {
    "CollectiveHung": _Help(
        "No rank makes a step; all wait for each other, or for another node.",
        "Read the stacks that the message names; look at the fabric between the nodes.",
    ),
    "GPUNotVisible": _Help(
        "The pod asked for GPUs and sees fewer.", "Check device plugin, driver and CUDA build."
    ),
    "HostOutOfMemory": _Help(
        "A process was killed for lack of memory.", "Raise `resources.memory`."
    ),
    "InvalidGlobalBatchSize": _Help(
        "`globalBatchSize` does not divide over the ranks.", "Take a number that the message names."
    ),
    "InvalidMicroBatchSize": _Help(
        "`microBatchSize` does not divide what a rank takes.",
        "Take a number that the message names.",
    ),
    "MicroBatchTooSmall": _Help(
        "KTO needs two rows in a micro batch.", "Set `microBatchSize` to 2 or more."
    ),
    "NoOrigin": _Help(
        "The weights of `initFrom` were not fetched: a defect.", "Report it with the log."
    ),
    "NoOutcome": _Help("The ranks ended without a result: a defect.", "Report it with the log."),
    "NoPublication": _Help(
        "Rank 0 did not publish the adapter in time.",
        "Look at the store; the next attempt only publishes.",
    ),
    "NoValidationRows": _Help(
        "`earlyStopping` needs validation rows.", "Raise `split.validationPercent`."
    ),
    "OriginChanged": _Help(
        "`initFrom` holds other files than at the first attempt.",
        "Name a published version in a new job.",
    ),
    "OriginMismatch": _Help(
        "Adapter of `initFrom` and `method.adapter` differ.",
        "Make type, rank, alpha and modules alike.",
    ),
    "OriginOfOtherBase": _Help(
        "`initFrom` was trained on another base model.",
        "Set `model` to the one that the message names.",
    ),
    "OutOfMemory": _Help(
        "GPU or host memory did not suffice.",
        "Nothing while the message says what the next attempt does; else lower "
        "`maxSequenceLength`.",
    ),
    "OutOfMemoryAtSmallest": _Help(
        "Memory did not suffice for the smallest micro batch.", "Do what the message proposes."
    ),
    "PackingNotExact": _Help(
        "The model does not keep packed examples apart.", "Use `packing: Auto`."
    ),
    "PeerLost": _Help(
        "A rank lost contact with another.",
        "Nothing; if it repeats: network policies, DNS, `NCCL_SOCKET_IFNAME`.",
    ),
    "RankKilled": _Help(
        "A training process was killed.", "Nothing; if it repeats: the node's memory."
    ),
    "RankHung": _Help(
        "A rank makes no step, and the others wait for it.",
        "Read in the message where it is; often a mounted file system or a data loader.",
    ),
    "RanksFailed": _Help("The ranks ended without a word.", "Read the pod's log."),
    "StateNotPlain": _Help(
        "A training state cannot be stored without a pickle: a defect.", "Report it with the log."
    ),
    "RecipesDiffer": _Help(
        "The nodes settled on different micro batches after a lack of memory.",
        "Nothing: the next attempt begins with the same.",
    ),
    "StateUnreadable": _Help(
        "A checkpoint's state cannot be read.", "Nothing: the run resumes from the one before."
    ),
    "StoppedAfterSave": _Help(
        "Stopped on request; the checkpoint is durable.", "Nothing: the next attempt resumes there."
    ),
    "StoppedBeforeTraining": _Help(
        "Stopped on request before the first step.", "Nothing: the next attempt begins there."
    ),
    "StoppedWithoutSave": _Help(
        "Stopped on request; a save did not fit what was left of the grace period.",
        "Raise `podTemplate.terminationGracePeriodSeconds`.",
    ),
    "StrategyIgnored": _Help(
        "The library accelerate chose another strategy: a defect.", "Report it with the log."
    ),
    "StrategyUnsupported": _Help(
        "The strategy does not run here.", "Use one that the message names."
    ),
    "UnknownState": _Help(
        "A checkpoint has a state that would need a pickle.", "Report it with the log."
    ),
    "UnsafeCheckpoint": _Help(
        "A checkpoint holds files that could run code.",
        "Nothing: the run resumes from the one before.",
    ),
    "WorldSizeMismatch": _Help("There are other ranks than asked for.", "Report it with the log."),
    "WrongCheckpoint": _Help(
        "A checkpoint's manifest names another step.",
        "Nothing: the run resumes from the one before.",
    ),
}
"""Reasons of `train`."""

RESULTS = {
    "AnswersMissing": _Help(
        "Workers left questions unanswered: a defect.", "Report it with the log."
    ),
    "FolderMissing": _Help(
        "A folder that is published is not there: a defect.", "Report it with the log."
    ),
    "MergeFailed": _Help("The merge ended without a word.", "Read the pod's log."),
    "MergeNotFinite": _Help(
        "The merged weights are not finite: training diverged.", "Lower `learningRate`."
    ),
    "MergeOutOfMemory": _Help(
        "The merge needs more memory.", "Raise `resources.memory`, or drop `Merged`."
    ),
    "MergeUnsupported": _Help(
        "An adapter cannot be folded into this base.",
        "Name the unquantised model, or drop `Merged`.",
    ),
    "NoWeights": _Help("The saved folder holds no weights: a defect.", "Report it with the log."),
    "StoppedBeforeMerge": _Help(
        "Stopped on request; the adapter is published.", "Nothing: the next attempt only merges."
    ),
    "StoppedBeforeScores": _Help(
        "Stopped on request while the models were asked.",
        "Nothing: the next attempt asks for the rest.",
    ),
    "UnsupportedFile": _Help(
        "A file that is published is no regular file: a defect.", "Report it with the log."
    ),
    "VersionContended": _Help("Other runs of the same name keep publishing.", "Run again."),
    "WorkerKilled": _Help(
        "A process of the evaluation was killed.", "Nothing; if it repeats: the node's memory."
    ),
    "WorkersFailed": _Help(
        "A process of the evaluation ended without a word.", "Read the pod's log."
    ),
}
"""Reasons of `evaluate` and of publishing."""

PROGRAM = {
    "CodeNotTrusted": _Help(
        "The model runs code of its own.", "Say `--trust-remote-code` if you trust it here."
    ),
    "EmptyPrompt": _Help("The prompt is empty.", "Write one."),
    "InvalidJob": _Help("The job file is not valid.", "Correct what the message names."),
    "InvalidSetting": _Help(
        "An environment variable of the trainer has a value that it cannot have.",
        "Correct it where the message says.",
    ),
    "JobFileUnreadable": _Help("The job file cannot be read.", "Is it there and readable?"),
    "NoGPUAsked": _Help(
        "`--gpu` is given and the job trains on CPU.", "Set `resources.gpusPerNode`."
    ),
    "NotAnAdapter": _Help(
        "No run wrote this folder as its adapter.",
        "Give the adapter of a run, or a published version.",
    ),
    "Succeeded": _Help("The stage has done its work.", "Nothing."),
    "UnknownGPU": _Help("`--gpu` names no known GPU.", "Take one that the message lists."),
    "WorkDirUnwritable": _Help(
        "Work or cache folder cannot be written.", "Point them at folders that can."
    ),
}
"""Reasons of the program itself, on a cluster and at a desk."""

TRAINER_REASONS: dict[str, _Help] = {
    **STORAGE,
    **MODEL,
    **DATA,
    **TRAIN,
    **RESULTS,
    **PROGRAM,
}
"""All of them."""
