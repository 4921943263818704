"""What a run tells a lineage service: OpenLineage run events (2-0-2), made of ids, counts and digests only.

A run's data is a dataset whose version is the manifest's root, so equal content is the same version whatever the run;
what it left is a dataset whose version is the snapshot. No name of a slide, a patient or a file is in an event.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

from msgspec import Struct

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
VERSION_FACET = f"{_FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
STATISTICS_FACET = f"{_FACETS}/1-0-0/InputStatisticsInputDatasetFacet.json#/$defs/InputStatisticsInputDatasetFacet"


class RunFacts(Struct, frozen=True):
    """What the catalog knows of a run that began or ended."""

    run: str
    project: str
    policy: str
    selection: str
    manifest_root: str
    count: int
    bytes: int
    cohort: str | None = None
    snapshots: tuple[str, ...] = ()


def run_event(event: str, facts: RunFacts, *, at: datetime, namespace: str, software: str) -> dict[str, Any]:
    """`event`: START when the run is ready, then one of COMPLETE, FAIL (its job's exit status) and ABORT (it was
    given up, or its lease lapsed), when what it left is proved protected."""
    producer = f"urn:{software.replace(' ', ':')}"
    inputs = {
        "namespace": namespace,
        "name": f"{facts.project}/{facts.cohort or facts.selection}",
        "facets": {"version": _version(facts.manifest_root, producer)},
        "inputFacets": {
            "inputStatistics": {
                "_producer": producer, "_schemaURL": STATISTICS_FACET, "size": facts.bytes, "fileCount": facts.count,
            }
        },
    }  # fmt: skip
    outputs = [
        {
            "namespace": namespace,
            "name": f"{facts.project}/{facts.run}/out",
            "facets": {"version": _version(one, producer)},
        }
        for one in facts.snapshots
    ]
    return {
        "eventType": event,
        "eventTime": at.isoformat(),
        "run": {"runId": run_uuid(facts.run), "facets": {}},
        "job": {"namespace": namespace, "name": f"{facts.project}/{facts.policy}", "facets": {}},
        "inputs": [inputs],
        "outputs": outputs if event != "START" else [],
        "producer": producer,
        "schemaURL": SCHEMA,
    }


def run_uuid(run: str) -> str:
    """Our ids are text and a lineage service wants UUIDs: the digest of the id, always the same for the same run
    (RFC 9562, version 8)."""
    raw = bytearray(sha256(run.encode()).digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _version(version: str, producer: str) -> dict[str, str]:
    return {"_producer": producer, "_schemaURL": VERSION_FACET, "datasetVersion": version}
