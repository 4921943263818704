"""boto3 as a peer: `boto3_peer.py put FOLDER BUCKET/PREFIX` and `get BUCKET/PREFIX FOLDER`.

Its transfer manager with the parts and streams the other tools get; small objects on threads of one client.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

STREAMS = 8
PART_BYTES = 16 << 20
TRANSFER = TransferConfig(
    multipart_chunksize=PART_BYTES, multipart_threshold=PART_BYTES, max_concurrency=STREAMS, io_chunksize=1 << 20
)


def main() -> None:
    verb, source, target = sys.argv[1:]
    settings = Config(max_pool_connections=4 * STREAMS, s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"], config=settings)
    (put if verb == "put" else get)(client, source, target)


def put(client: Any, source: str, target: str) -> None:
    bucket, _, prefix = target.partition("/")
    files = [os.path.join(place, name) for place, _, names in os.walk(source) for name in names]

    def one(file: str) -> None:
        client.upload_file(file, bucket, f"{prefix}/{os.path.relpath(file, source)}", Config=TRANSFER)

    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(one, files))


def get(client: Any, source: str, target: str) -> None:
    bucket, _, prefix = source.partition("/")

    def one(key: str) -> None:
        path = Path(target) / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(path), Config=TRANSFER)

    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(one, keys))


if __name__ == "__main__":
    main()
