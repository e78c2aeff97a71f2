"""Reasons of object stores, folders and the Hub."""

from __future__ import annotations

from finetune_api.reason_help import ReasonHelp as _Help

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
        "Stored files differ from their manifest.",
        "Delete the damaged folder; it is written again.",
    ),
    "ClockSkew": _Help(
        "The node's clock is wrong, so the store refuses its signatures.", "Correct the clock."
    ),
    "CredentialsExpired": _Help("The session of the key is over.", "Renew it in the Secret."),
    "CredentialsMissing": _Help("No key was found.", "Name a Secret in `credentialsRef`."),
    "CredentialsUnreadable": _Help("A key of the Secret is no text.", "Write the Secret anew."),
    "DamagedFeedback": _Help(
        "Feedback on a captured answer cannot be read.",
        "Delete the object that the message names.",
    ),
    "DamagedInTransit": _Help(
        "What was written arrived damaged, several times.",
        "Look at the network, its proxies and the store.",
    ),
    "DamagedSegment": _Help(
        "A file of captured answers cannot be read.", "Delete the object that the message names."
    ),
    "DamagedState": _Help(
        "What a monitor keeps of earlier looks cannot be read.",
        "Delete the object that the message names; the monitor gathers a new reference.",
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
    "SegmentChanging": _Help(
        "A file of captured answers is written by somebody else again and again.",
        "Find the other writer and delete again.",
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
