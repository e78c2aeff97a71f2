"""Reasons of `train`."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

TRAIN = {
    "CollectiveHung": _Help(
        "No rank makes a step; all wait for each other, or for another node.",
        "Read the stacks that the message names; look at the fabric between the nodes.",
    ),
    "Diverged": _Help(
        "Loss or gradient was not finite in three steps in a row. The job is not retried: it would "
        "repeat the same steps. Checkpoints before them are kept.",
        "Create a job with a lower `learningRate`, or `precision: Float32`; `initFrom` can begin "
        "at a checkpoint. If the step differs each time, check the rank's GPU.",
    ),
    "GPUDriverTooOld": _Help(
        "The node's NVIDIA driver is older than the image's CUDA needs, so no GPU is visible.",
        "Update the driver (580 or newer for CUDA 13), choose other nodes, or build "
        "[an image for CUDA 12](../how-to/install.md#an-image-for-cuda-12) and name it in "
        "`trainer.image`.",
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
    "OptimizerUnavailable": _Help(
        "The image lacks bitsandbytes, which `hyperparameters.optimizer: AdamW8bit` needs.",
        "Use the operator's trainer image, or `Adafactor`.",
    ),
    "OriginChanged": _Help(
        "`initFrom` holds other files than at the first attempt.",
        "Name a published version in a new job.",
    ),
    "OriginMismatch": _Help(
        "Adapter of `initFrom` and `method.adapter` differ, or it holds no weights.",
        "Make type, rank, alpha and modules alike.",
    ),
    "InterfaceNotFound": _Help(
        "No network interface of the pod is one that `resources.network.interface` names.",
        "Write one that the message lists, or leave the field out. If the job has no such field, "
        "correct `config.defaultNetworkInterface`.",
    ),
    "OriginNotFound": _Help(
        "Nothing whole lies where `initFrom` points: a run deletes its checkpoints.",
        "Name what storage holds, such as a published version.",
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
    "PeersMissing": _Help(
        "A node waited an hour for the others of its job before it started its ranks.",
        "Look at what keeps their pods from starting, or this one from reaching them: network "
        "policies, DNS.",
    ),
    "PeerLost": _Help(
        "A rank lost contact with another.",
        "Nothing; if it repeats: network policies, DNS, `resources.network.interface`.",
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
        "Stopped on request; a save took longer than the rest of the grace period.",
        "Raise `podTemplate.terminationGracePeriodSeconds`.",
    ),
    "StrategyIgnored": _Help(
        "The library accelerate chose another strategy: a defect.", "Report it with the log."
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
