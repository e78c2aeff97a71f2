"""The bucket of what is shown on a cluster: base model and data go in, jobs read and write it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import base_model
from cluster_place import TEAM, Place, run
from demo import EXAMPLES, cache_root, prepare_model, say
from finetune_trainer.storage import (
    ObjectNotFound,
    ObjectStore,
    StorageAccess,
    hash_file,
    open_store,
)

BUCKET = "demo"
SECRET = "object-store"
EXAMPLE = EXAMPLES["01"]
UPLOADED = "uploaded.json"  # written last beside the model: its files and their digests


def open_bucket(place: Place) -> ObjectStore:
    """Create the bucket unless it is there, and open it with the place's keys from now on."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=place.endpoint,
        aws_access_key_id=place.keys[0],
        aws_secret_access_key=place.keys[1],
        region_name="us-east-1",
    )
    if BUCKET not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    os.environ.update({k: v for k, v in place.environment.items() if k.startswith("AWS_")})
    return open_store(f"s3://{BUCKET}", StorageAccess(endpoint=place.endpoint))


def upload_model(store: ObjectStore) -> None:
    """Upload the base model unless it is there."""
    model = prepare_model()
    files = {file.name: hash_file(file) for file in sorted(model.iterdir())}
    record = json.dumps(files, default=str).encode()
    try:
        is_known = store.read_bytes(f"model/{UPLOADED}") == record
    except ObjectNotFound:
        is_known = False
    if not is_known:
        for name in files:
            store.upload_file(model / name, f"model/{name}")
        store.write_bytes(f"model/{UPLOADED}", record)
    say(f"{'reused' if is_known else 'uploaded'}: s3://{BUCKET}/model")


def write_example_data() -> list[Path]:
    """Write the data of the example; returns its files."""
    folder = cache_root() / "demo" / EXAMPLE.name
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, str(EXAMPLE.folder / "generate.py"), "--out", str(folder)])
    return [folder / name for name in EXAMPLE.files]


def upload_data(store: ObjectStore, files: Sequence[Path], prefix: str = "data") -> list[str]:
    """Upload files; returns their URIs."""
    uris = [f"s3://{BUCKET}/{prefix}/{file.name}" for file in files]
    for file, uri in zip(files, uris, strict=True):
        store.upload_file(file, f"{prefix}/{file.name}")
        say(f"uploaded: {uri}")
    return uris


def point_to_bucket(place: Place, spec: dict[str, Any], files: Sequence[str]) -> None:
    """Have a FineTuneJob's spec take model and data from the bucket, and write there.

    Args:
        place: Where.
        spec: Changed in place.
        files: URIs of the data, one for each source.
    """
    reference = {"name": SECRET}
    spec["model"] = {
        "uri": f"s3://{BUCKET}/model",
        "name": base_model.NAME,
        "credentialsRef": reference,
    }
    for source, uri in zip(spec["dataset"]["sources"], files, strict=True):
        source |= {"uri": uri, "credentialsRef": reference}
    spec["output"] = {"uri": f"s3://{BUCKET}/models", "credentialsRef": reference}
    spec["s3"] = {"endpoint": place.endpoint}


def give_credentials(place: Place) -> None:
    """Put the object store's keys into the namespace of what is shown."""
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), place.keys, strict=True))
    secret = {"apiVersion": "v1", "kind": "Secret", "stringData": keys}
    secret["metadata"] = {"name": SECRET, "namespace": TEAM}
    place.apply(secret)
