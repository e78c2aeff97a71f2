"""Reasons of `prepare`: sources, rows, split."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

DATA = {
    "AllRowsTooLong": _Help(
        "All rows are cut before their answer begins.", "Raise `maxSequenceLength`."
    ),
    "AnchorChanged": _Help(
        "The test side that `dataset.anchor` names is not the file that was sealed.",
        "Put the file back, or begin with another FineTuneSchedule.",
    ),
    "AnchorNotFound": _Help(
        "The test side that `dataset.anchor` names is not below `output.uri`.",
        "Put the folder of that data set back, or begin with another FineTuneSchedule.",
    ),
    "AnchorUnfit": _Help(
        "The job cannot use the rows of `dataset.anchor`: its objective, its model's chat template "
        "or its `maxSequenceLength` is another one than when they were sealed.",
        "Set back what the message names, or begin with another FineTuneSchedule.",
    ),
    "AnchorUnreadable": _Help(
        "The record of the rows that a FineTuneSchedule sealed is damaged.",
        "Put back the object that the message names: nothing is sealed anew over it.",
    ),
    "AnswerNotReproduced": _Help(
        "The tokens of an answer decode to other text.", "Give a template that keeps the text."
    ),
    "AnswersDeleted": _Help(
        "Captured answers were deleted while a data set was made of them.",
        "Nothing: it is made again. If it happens again and again, wait with deletions.",
    ),
    "AnswersDeletedSince": _Help(
        "Captured answers behind a data set were deleted before it was trained on.",
        "Start the job again under a new name.",
    ),
    "AnswersRepeatPrompts": _Help(
        "Nearly all answers are their own prompt.", "Correct the columns of `dataset.sources`."
    ),
    "BrokenEncoding": _Help(
        "An answer holds U+FFFD, or UTF-8 that was read in another encoding.",
        "Write the file anew from its source, in UTF-8.",
    ),
    "CapturedTraffic": _Help(
        "A source names files of captured answers.", "Name the endpoint: `traffic://ENDPOINT`."
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
        "So few prompts of a gate's slice are asked, or probes there, or so many gates must "
        "hold at once, that not even the best scores would meet it.",
        "Do what the message says: add rows or resamples, ask for less, for less `certainty` or "
        "for fewer gates, or set `severity: Warn`.",
    ),
    "GoalUndecidable": _Help(
        "So few prompts are asked, or so few with another label than the most frequent one, "
        "that not even the best scores would meet the goal with `goal.certainty`.",
        "Add rows, or raise `split.testPercent` or `maxSamples`, as the message says; or lower the "
        "goal.",
    ),
    "HeldOutRowsSeen": _Help(
        "More than 1 in 100 held-out prompts were in the training data of `initFrom`.",
        "Hold out what the origin held out (`dataset.anchor`), or leave out `initFrom`.",
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
    "NoValidationRows": _Help(
        "`checkpoint.earlyStopping` or `evaluation.validation` asks for validation rows, and all "
        "were left out.",
        "Add rows with other prompts to a source with `side: Validation` or `side: Split`.",
    ),
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
        "Fewer prompts that the goal's metric scores are held out, or asked, than "
        "`evaluation.minPrompts` asks for.",
        "Add rows, or raise `split.testPercent` or `evaluation.maxSamples`, as the message says.",
    ),
    "TooFewRows": _Help("There are fewer groups of rows than sides.", "Add rows."),
    "ToolMessage": _Help(
        "A row has a tool call in a shape that is not known.",
        "Write it as `tool_calls`, answers as role `tool`.",
    ),
    "TrafficNotResolved": _Help(
        "Nothing says where the answers of a `traffic://` source are stored.",
        "On one machine give `--capture DIR`.",
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
