"""Every metric's name, here and nowhere else; units stand in the names, in Prometheus' base units.

Labels are small closed sets (tier names, states, codes): never an id and never a name from outside.
"""

from __future__ import annotations

from msgspec import Struct
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # a second series beside each one says when it began; nobody asks
REGISTRY = CollectorRegistry()
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)


class Described(Struct, frozen=True):
    """A metric as `docs/metrics.md` lists it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str


_described: list[Described] = []


def _counter(name: str, says: str, *labels: str) -> Counter:
    _described.append(Described(name, "counter", labels, says))
    return Counter(name, says, labels, registry=REGISTRY)


def _gauge(name: str, says: str, *labels: str) -> Gauge:
    _described.append(Described(name, "gauge", labels, says))
    return Gauge(name, says, labels, registry=REGISTRY)


def _histogram(name: str, says: str, *labels: str) -> Histogram:
    _described.append(Described(name, "histogram", labels, says))
    return Histogram(name, says, labels, registry=REGISTRY, buckets=_SECONDS)


INFO = _gauge("mover_info", "1, with the version that runs.", "version", "role")

HTTP_REQUESTS = _counter("mover_http_requests_total", "Answered requests.", "method", "route", "status")
HTTP_SECONDS = _histogram("mover_http_request_seconds", "Time to answer, long polls included.", "method", "route")

CERTIFICATE_LEFT = _gauge(
    "mover_tls_certificate_left_seconds", "Until the certificate that browsers see ends. Alarm below 14 days."
)

SIGN_INS = _counter("mover_sign_ins_total", "Tries to sign in, and how they ended.", "by", "outcome")

SHARDS = _gauge("mover_shards", "Shards by state, as the catalog counted them last.", "queue", "state")
SHARDS_DONE = _counter("mover_shards_done_total", "Shards that ended.", "kind", "outcome")
SHARD_SECONDS = _histogram("mover_shard_seconds", "Time in one shard.", "kind")
SHARDS_FORGOTTEN = _counter("mover_shards_forgotten_total", "Shards that ended long ago and were removed.", "state")
SHARD_OLDEST = _gauge("mover_shard_oldest_seconds", "How long ago the oldest shard that still stands ended.")
TABLE_BYTES = _gauge("mover_table_bytes", "What a table of a megabyte or more takes, with its indexes.", "table")
LEASES_LOST = _counter("mover_leases_lost_total", "Shards whose worker was too late and was fenced off.", "kind")

PACKS = _counter("mover_packs_total", "Packs decided, by final state.", "state")
PACKS_QUARANTINED = _counter("mover_packs_quarantined_total", "Packs held back, by reason code.", "code")
SLIDES_SEARCHED = _counter(
    "mover_slides_searched_again_total", "Published slides searched for what records brought later, by outcome.",
    "outcome",
)  # fmt: skip
CERTIFICATES = _counter("mover_certificates_total", "Certificates of batches that were issued.")
ROWS = _counter("mover_rows_total", "Rows and images of record sets, by ledger state.", "state")

BYTES_READ = _counter("mover_tier_read_bytes_total", "Bytes read from a tier.", "tier")
BYTES_WRITTEN = _counter("mover_tier_written_bytes_total", "Bytes written to a tier.", "tier")
BYTES_MOVED = _counter("mover_moved_bytes_total", "Bytes that came from one tier to another.", "source", "target")
BYTES_VERIFIED = _counter("mover_tier_verified_bytes_total", "Bytes read back cold and compared.", "tier")
TIER_ERRORS = _counter(
    "mover_tier_errors_total",
    "Failed calls on a tier, by code; a call that was tried again counts each time.",
    "tier",
    "code",
)
TIER_STUCK = _gauge(
    "mover_tier_stuck_calls",
    "Calls that a network file system has not answered and that nobody waits for any more; above 0 the tier is hung.",
    "tier",
)
TIER_ONLINE = _gauge("mover_tier_online", "1 while the tier is mounted and is the one it claims to be.", "tier")
TIER_FREE = _gauge("mover_tier_free_bytes", "Free space on the tier.", "tier")
TIER_RESERVED = _gauge("mover_tier_reserved_bytes", "Space that live runs have reserved.", "tier")

TIER_LATENCY = _histogram(
    "mover_tier_latency_seconds", "Time of one step or group on a tier, waiting for budgets not counted.",
    "tier", "direction",
)  # fmt: skip
TIER_BACKOFF = _gauge(
    "mover_tier_backoff_ratio", "Part of the usual rate and concurrency in use; below 1 the daemon gives way.",
    "tier", "direction",
)  # fmt: skip
BUDGET_WAIT = _counter("mover_budget_wait_seconds_total", "Time threads waited for a budget.", "tier", "direction")
BUDGET_SHARE = _gauge("mover_budget_share_ratio", "Part of the tier's budget that this daemon holds.", "tier")

VERIFY_FINDINGS = _counter(
    "mover_verify_findings_total", "Entries that a verification found other than the catalog says.", "tier", "kind"
)
VERIFY_REPAIRED = _counter("mover_verify_repaired_total", "Entries repaired from a second copy.", "tier")
VERIFY_OPEN = _gauge(
    "mover_verify_open_findings", "Damage that stands: found, not repaired, not seen whole since. Alarm above 0.",
    "tier", "kind",
)  # fmt: skip

ARCHIVE_UNCOPIED = _gauge(
    "mover_archive_slides_uncopied", "Slides published more than a day ago without a whole second copy. Alarm above 0.",
    "policy",
)  # fmt: skip
ARCHIVE_DAMAGED = _gauge(
    "mover_archive_files_damaged", "Files of slides found damaged or gone on either tier, not repaired. Alarm above 0.",
    "policy",
)  # fmt: skip

RUNS = _gauge("mover_runs", "Runs by state, as the catalog counted them last.", "state")
STAGE_SECONDS = _histogram("mover_run_stage_seconds", "From admission to ready.")
STAGED_FROM_COPY = _counter(
    "mover_staged_from_copy_total", "Files staged from a second copy, the first being damaged, gone or away.", "tier"
)
STAGED_BYTES = _counter("mover_run_staged_bytes_total", "Bytes brought into run roots.", "how")
CONTENT_DAMAGED = _counter(
    "mover_content_damaged_total", "Content on flash that held other bytes than its name says. Alarm above 0.", "tier"
)
STRAYS = _counter("mover_run_strays_total", "Stranger files moved aside at cleanup.")

SNAPSHOTS = _counter("mover_snapshots_total", "Snapshots written and checked.", "tier")
SNAPSHOT_ADDED_BYTES = _counter("mover_snapshot_added_bytes_total", "New bytes in repositories.", "tier")
SNAPSHOTS_MISSING = _gauge(
    "mover_snapshots_missing", "Snapshots whose file left the repository, and not by us. Alarm above 0.", "policy"
)
SNAPSHOTS_DOUBTFUL = _gauge(
    "mover_snapshots_doubtful", "Snapshots of a flood, or far smaller than what was there. Alarm above 0.", "policy"
)
SNAPSHOTS_TRASHED = _gauge("mover_snapshots_trashed", "Snapshots that wait in the trash.", "policy")
SHORTENINGS_WAITING = _gauge(
    "mover_protect_shortenings_waiting",
    "What would shorten protection and waits, by kind; `file`: a policy's file says less than holds. Alarm above 0.",
    "kind",
)  # fmt: skip
RESTORE_DRILLS = _counter("mover_restore_drills_total", "Drills of restores, by outcome.", "policy", "outcome")
REPOSITORY_DAMAGE = _gauge(
    "mover_repository_damage", "Objects that the newest check found lost or wrong. Alarm above 0.", "policy"
)
RECOVERY_TIME = _gauge(
    "mover_recovery_time_seconds", "What bringing back the newest snapshot of the largest series takes, as measured.",
    "policy",
)  # fmt: skip
RECOVERY_POINT = _gauge(
    "mover_recovery_point_seconds", "Age of the oldest change that no whole snapshot holds.", "policy"
)
RECOVERY_MISSED = _gauge(
    "mover_recovery_target_missed", "1 while a policy's target of recovery (time, point) is missed. Alarm at 1.",
    "policy", "target",
)  # fmt: skip
PRUNED_BYTES = _counter("mover_pruned_bytes_total", "Bytes of packs that no snapshot needed any more.", "tier")
RESTORED_BYTES = _counter("mover_restored_bytes_total", "Bytes restored.", "tier")

TIER_IMMUTABLE = _gauge(
    "mover_tier_immutable",
    "1 while the last lock probe could destroy nothing with the daemon's own credential. Alarm at 0.", "tier",
)  # fmt: skip
LOCKS_RENEWED = _counter("mover_locks_renewed_total", "Objects whose lock was extended or found long enough.", "tier")
LOCKS_BROUGHT_BACK = _counter(
    "mover_locks_brought_back_total",
    "Objects that kept snapshots need and that somebody had hidden or overwritten. Alarm above 0.", "tier",
)  # fmt: skip

DUMPS = _counter("mover_dumps_total", "Dumps of vault and catalog that ended, by state.", "state")
DUMP_AGE = _gauge(
    "mover_dump_age_seconds", "Age of the newest verified dump of vault and catalog, by policy.", "policy"
)
DUMP_DRILLS = _counter("mover_dump_drills_total", "Drills of dumps, by kind and outcome.", "kind", "outcome")
RELEASE_STOPPED = _gauge(
    "mover_release_stopped", "1 while no new slide is released because no verified dump is young enough. Alarm at 1."
)

TRANSFER_ENTRIES = _counter("mover_transfer_entries_total", "Entries of transfers, by outcome.", "state")
TRANSFER_BYTES = _counter("mover_transfer_moved_bytes_total", "Bytes that transfers moved.")
RELEASES = _counter("mover_release_entries_total", "Sources released, kept, brought back and purged.", "state")

WALKED = _counter("mover_walked_entries_total", "Names that walks asked for their state.", "tier")
WALK_FINDINGS = _counter("mover_walk_findings_total", "Places that walks could not see.", "tier")
DRIFT = _counter("mover_drift_entries_total", "Entries that scans found drifted, by kind.", "tier", "kind")

VAULT_LOOKS = _counter("mover_vault_looks_total", "Times sealed names were opened.")
ERRORS = _counter("mover_errors_total", "Errors by stable code.", "code")
DATABASE_UP = _gauge("mover_database_up", "1 while the catalog answers.")


def names() -> list[str]:
    """Every name as it is exposed; the documentation is checked against it."""
    return sorted(metric.name + ("_total" if metric.type == "counter" else "") for metric in REGISTRY.collect())


def described() -> list[Described]:
    """Every metric, by name."""
    return sorted(_described, key=lambda one: one.name)


def moved_bytes() -> dict[tuple[str, str], float]:
    """By source and target, since this process began."""
    [metric] = BYTES_MOVED.collect()
    totals = (sample for sample in metric.samples if sample.name.endswith("_total"))
    return {(sample.labels["source"], sample.labels["target"]): sample.value for sample in totals}


def render() -> bytes:
    """The answer of /metrics."""
    return generate_latest(REGISTRY)
