"""What a run tells a lineage service: OpenLineage run events (2-0-2), made of ids, counts and digests only.

A run's data is a dataset whose version is the manifest's root, so equal content is the same version whatever the run;
what it left is a dataset whose version is the snapshot. No name of a slide, a patient or a file is in an event.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from msgspec import Struct

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS = "https://openlineage.io/spec/facets"
VERSION_FACET = f"{_FACETS}/1-0-1/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
STATISTICS_FACET = f"{_FACETS}/1-0-0/InputStatisticsInputDatasetFacet.json#/$defs/InputStatisticsInputDatasetFacet"
# event ids of ours are text; a lineage service wants UUIDs, and the same run must always have the same
RUNS = uuid.UUID("6b0f64a5-6f6c-5b0e-9d39-7b2c2f5f3c11")


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
    """`event`: START when the run is ready, then one of COMPLETE, FAIL (its job's exit status) and ABORT (its lease
    lapsed), when what it left is proved protected."""
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
        "run": {"runId": str(uuid.uuid5(RUNS, facts.run)), "facets": {}},
        "job": {"namespace": namespace, "name": f"{facts.project}/{facts.policy}", "facets": {}},
        "inputs": [inputs],
        "outputs": outputs if event != "START" else [],
        "producer": producer,
        "schemaURL": SCHEMA,
    }


def _version(version: str, producer: str) -> dict[str, str]:
    return {"_producer": producer, "_schemaURL": VERSION_FACET, "datasetVersion": version}
