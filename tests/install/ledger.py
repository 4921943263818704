"""What a site holds, by the site's own means, inside the machine: each object of its bucket with its digest, and what
the catalog says of slides and proofs. Asked before and after; it knows nothing of daemons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import psycopg
from blake3 import blake3

DATABASE = "host=/run/postgresql user=postgres dbname=mover passfile=/etc/mover/admin.pgpass"
FILES = """
select key, digest, size_bytes from mover.slide
union all select thumbnail_key, thumbnail_digest, thumbnail_bytes from mover.slide where thumbnail_key is not null
union all select key, digest, size_bytes from mover.slide_file
"""
PROOFS = "select kind::text, subject_id, count, bytes, root from mover.proof order by id"
TABLES = ("batch", "slide", "pack", "ledger", "run", "run_entry", "snapshot", "audit_record", "policy_change")


def objects() -> dict[str, str]:
    weed = json.loads(Path("/srv/s3/weed.json").read_bytes())
    keys = json.loads(Path("/srv/s3/credentials.json").read_bytes())
    client: Any = botocore.session.get_session().create_client(
        "s3", endpoint_url=weed["endpoint"], region_name=weed["region"],
        aws_access_key_id=keys["access_key_id"], aws_secret_access_key=keys["secret_access_key"],
    )  # fmt: skip
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="slides"):
        for one in page.get("Contents", []):
            body = client.get_object(Bucket="slides", Key=one["Key"])["Body"].read()
            found[one["Key"]] = blake3(body).hexdigest()
    return found


def catalog() -> dict[str, Any]:
    with psycopg.connect(DATABASE) as conn:
        files = {key: [digest, size] for key, digest, size in conn.execute(FILES)}
        counts = {name: conn.execute(f"select count(*) from mover.{name}").fetchone() for name in TABLES}
        return {"files": files, "proofs": conn.execute(PROOFS).fetchall(), "rows": counts}


if __name__ == "__main__":
    print(json.dumps({"objects": objects(), **catalog()}))
