"""Writes integrations/grafana/mover.json, integrations/prometheus/alerts.yaml and the list of alarms in
docs/looking-after.md from mover/metrics.py: `python docs/make_watching.py`. A test keeps them equal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from mover.metrics import Described, described

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "integrations" / "grafana" / "mover.json"
RULES = ROOT / "integrations" / "prometheus" / "alerts.yaml"
PAGE = ROOT / "docs" / "looking-after.md"
BEGIN, END = "<!-- alarms: made by docs/make_watching.py -->\n", "<!-- end of alarms -->\n"

METRICS = {one.name: one for one in described()}
# metrics by the beginnings of their names; whatever fits none stands in the last row
ROWS = {
    "Is it working": (
        "mover_info",
        "mover_database_up",
        "mover_errors",
        "mover_leases_lost",
        "mover_shard",
        "mover_job",
    ),
    "Tiers": ("mover_tier", "mover_moved", "mover_budget"),
    "Slides and records": ("mover_packs", "mover_slides", "mover_rows", "mover_certificates"),
    "Runs": ("mover_run", "mover_staged", "mover_content"),
    "Protection": (
        "mover_snapshot",
        "mover_restore",
        "mover_repository",
        "mover_recovery",
        "mover_protect",
        "mover_pruned",
        "mover_lock",
        "mover_archive",
    ),
    "Catalog and vault": ("mover_dump", "mover_release_stopped", "mover_vault", "mover_table"),
    "Walks, verification, transfers": ("mover_walk", "mover_drift", "mover_verify", "mover_transfer", "mover_release"),
    "Requests and people": ("mover_http", "mover_sign", "mover_tls"),
    "The rest": ("mover_",),
}
UNITS = (
    ("_bytes_total", "Bps"),
    ("_bytes", "bytes"),
    ("_seconds_total", "s"),
    ("_seconds", "s"),
    ("_ratio", "percentunit"),
)
WIDTH, HEIGHT, ACROSS = 8, 7, 3


class Alarm(Struct, frozen=True):
    """`severity` as in `mover needs`. `todo` is the line in the page of looking after."""

    name: str
    expr: str
    severity: str
    summary: str
    todo: str
    for_: str = "5m"


ALARMS = (
    Alarm(
        "MoverSilent",
        "absent(mover_info)",
        "now",
        "no daemon answers /metrics",
        "`systemctl status mover mover-identified`, then `journalctl -u mover -n 100`, then `mover doctor`.",
    ),
    Alarm(
        "MoverDatabaseAway",
        "mover_database_up == 0",
        "now",
        "the catalog does not answer",
        "`mover doctor` says why. Work waits and goes on by itself.",
        "2m",
    ),
    Alarm(
        "MoverTierAway",
        "mover_tier_online == 0",
        "now",
        "tier {{ $labels.tier }} is not there, or is another one",
        "`mover tier list` says what was seen; mount it. Nothing is deleted meanwhile.",
    ),
    Alarm(
        "MoverTierHung",
        "mover_tier_stuck_calls > 0",
        "now",
        "the file system of {{ $labels.tier }} does not answer",
        "Look at its server; [nfs.md](nfs.md) says what can be done at the client.",
    ),
    Alarm(
        "MoverTierFilling",
        "predict_linear(mover_tier_free_bytes[6h], 2 * 86400) < 0",
        "now",
        "{{ $labels.tier }} will be full within two days, as it fills now",
        "`mover tier levels`, `mover tier usage TIER`; clean up runs, or give it more room.",
        "1h",
    ),
    Alarm(
        "MoverTierFailing",
        "sum by (tier) (increase(mover_tier_errors_total[15m])) > 100",
        "soon",
        "many calls on {{ $labels.tier }} fail",
        "`mover tier pace`; the code in `mover_tier_errors_total` says how.",
        "15m",
    ),
    Alarm(
        "MoverWorkFails",
        'sum by (kind) (increase(mover_shards_done_total{outcome="failed"}[1h])) > 0',
        "soon",
        "work of kind {{ $labels.kind }} was given up",
        "`mover shard list --state failed`, then what it belongs to.",
        "0m",
    ),
    Alarm(
        "MoverLeasesLost",
        "sum by (kind) (increase(mover_leases_lost_total[1h])) > 3",
        "soon",
        "workers are too late with {{ $labels.kind }}",
        "Is the machine overloaded, or paused by its hypervisor?",
        "0m",
    ),
    Alarm(
        "MoverQuarantineGrows",
        "sum by (code) (increase(mover_packs_quarantined_total[1h])) > 20",
        "soon",
        "many packs are held back: {{ $labels.code }}",
        "`mover quarantine list`: one cause is mostly behind many.",
        "0m",
    ),
    Alarm(
        "MoverDamage",
        "mover_verify_open_findings > 0",
        "now",
        "files on {{ $labels.tier }} are damaged or missing",
        "`mover verification list`, then repair from another copy.",
    ),
    Alarm(
        "MoverArchiveDamaged",
        "mover_archive_files_damaged > 0",
        "now",
        "published slides are damaged",
        "`mover archive list`; they are repaired from the second copy where there is one.",
    ),
    Alarm(
        "MoverArchiveUncopied",
        "mover_archive_slides_uncopied > 0",
        "soon",
        "slides have no whole second copy",
        "Is the second tier there? `mover archive list`.",
        "1h",
    ),
    Alarm(
        "MoverContentDamaged",
        "increase(mover_content_damaged_total[1h]) > 0",
        "now",
        "content on {{ $labels.tier }} held other bytes than its name says",
        "It was not used. Look at the disks.",
        "0m",
    ),
    Alarm(
        "MoverSnapshotsMissing",
        "mover_snapshots_missing > 0",
        "now",
        "snapshots left the repository, and not by us",
        "`mover snapshot list`; somebody or something removed them there.",
        "0m",
    ),
    Alarm(
        "MoverSnapshotsDoubtful",
        "mover_snapshots_doubtful > 0",
        "now",
        "snapshots are not like the ones before",
        "Compare before anything is forgotten: `mover snapshot list`.",
        "0m",
    ),
    Alarm(
        "MoverRepositoryDamaged",
        "mover_repository_damage > 0",
        "now",
        "objects of a repository are lost or wrong",
        "`mover protect show`; repair from the second repository.",
        "0m",
    ),
    Alarm(
        "MoverDrillFailed",
        'increase(mover_restore_drills_total{outcome="wrong"}[1d]) > 0',
        "now",
        "a restored file was not what was protected",
        "`mover protect show`, then look at the repository's disks.",
        "0m",
    ),
    Alarm(
        "MoverRecoveryMissed",
        "mover_recovery_target_missed == 1",
        "soon",
        "{{ $labels.policy }} misses its target of recovery ({{ $labels.target }})",
        "`mover protect show`.",
        "15m",
    ),
    Alarm(
        "MoverShorteningWaits",
        "mover_protect_shortenings_waiting > 0",
        "soon",
        "somebody wants protection to be shorter",
        "`mover protect show`; a second person approves or withdraws it.",
    ),
    Alarm(
        "MoverTierNotImmutable",
        "mover_tier_immutable == 0",
        "now",
        "{{ $labels.tier }} can be emptied with the daemon's own key",
        "`mover tier list` says what the probe could do.",
        "0m",
    ),
    Alarm(
        "MoverLocksBrokenInto",
        "increase(mover_locks_brought_back_total[1h]) > 0",
        "now",
        "somebody hid or overwrote objects that kept snapshots need",
        "They are back. Who has the store's keys?",
        "0m",
    ),
    Alarm(
        "MoverDumpOld",
        "mover_dump_age_seconds > 2 * 86400",
        "soon",
        "the newest dump of vault and catalog is older than two days",
        "`mover vault dumps`, then `mover vault dump`.",
    ),
    Alarm(
        "MoverDumpDrillFailed",
        'increase(mover_dump_drills_total{outcome="failed"}[1d]) > 0',
        "now",
        "a dump of vault and catalog could not be read back",
        "`mover vault dumps`, then `mover vault dump`.",
        "0m",
    ),
    Alarm(
        "MoverReleaseStopped",
        "mover_release_stopped == 1",
        "now",
        "no new slide is released: no young dump",
        "`mover vault dumps` says why; `mover vault dump` makes one.",
        "0m",
    ),
    Alarm(
        "MoverCertificateEnds",
        "mover_tls_certificate_left_seconds < 14 * 86400",
        "soon",
        "the certificate that browsers see ends within two weeks",
        "Renew it and put it in its place: it is taken within seconds, without a restart.",
    ),
    Alarm(
        "MoverSignInsRefused",
        'sum(increase(mover_sign_ins_total{outcome="refused"}[10m])) > 50',
        "soon",
        "many refused tries to sign in",
        "The daemon slows them. `mover audit list` says from where.",
        "0m",
    ),
    Alarm(
        "MoverErrors",
        'sum(rate(mover_http_requests_total{status=~"5.."}[10m])) > 0.1',
        "soon",
        "requests are answered by errors of the daemon",
        "The log names each by its request id.",
        "10m",
    ),
)


def dashboard() -> dict[str, Any]:
    """One panel for each metric, in rows; what a metric says is the panel's description."""
    panels: list[dict[str, Any]] = []
    left, top = list(METRICS.values()), 0
    for title, beginnings in ROWS.items():
        here = [one for one in left if one.name.startswith(beginnings)]
        left = [one for one in left if one not in here]
        if here:
            panels.append(_place(len(panels), {"type": "row", "title": title, "collapsed": False}, 0, top, 24, 1))
            for at, one in enumerate(here):
                x, y = WIDTH * (at % ACROSS), top + 1 + HEIGHT * (at // ACROSS)
                panels.append(_place(len(panels), _panel(one), x, y, WIDTH, HEIGHT))
            top += 1 + HEIGHT * -(-len(here) // ACROSS)
    return {
        "uid": "mover", "title": "Mover", "tags": ["mover"], "editable": True, "schemaVersion": 38, "version": 1,
        "timezone": "browser", "refresh": "1m", "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [_SOURCE, _INSTANCE]}, "annotations": {"list": []}, "panels": panels,
    }  # fmt: skip


_SOURCE = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
_INSTANCE = {
    "name": "instance",
    "label": "Daemon",
    "type": "query",
    "datasource": {"type": "prometheus", "uid": "${source}"},
    "query": "label_values(mover_info, instance)",
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
}


def _place(id_: int, panel: dict[str, Any], x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return {"id": id_ + 1, **panel, "gridPos": {"x": x, "y": y, "w": w, "h": h}}


def _panel(one: Described) -> dict[str, Any]:
    unit = next((unit for end, unit in UNITS if one.name.endswith(end)), "short")
    title = one.name.removeprefix("mover_").removesuffix("_total").replace("_", " ")
    legend = " ".join(f"{{{{{label}}}}}" for label in one.labels) or "{{instance}}"
    return {
        "type": "timeseries", "title": title, "description": one.says,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "expr": _expr(one), "legendFormat": legend}],
    }  # fmt: skip


def _expr(one: Described) -> str:
    chosen = '{instance=~"$instance"}'
    by = f" by ({', '.join(one.labels or ('instance',))})"
    if one.kind == "counter":
        return f"sum{by} (rate({one.name}{chosen}[$__rate_interval]))"
    if one.kind == "histogram":
        by = f" by ({', '.join((*one.labels, 'le'))})"
        return f"histogram_quantile(0.95, sum{by} (rate({one.name}_bucket{chosen}[$__rate_interval])))"
    return f"max{by} ({one.name}{chosen})"


def alerts() -> dict[str, Any]:
    rules = [
        {
            "alert": one.name, "expr": one.expr, "for": one.for_, "labels": {"severity": one.severity},
            "annotations": {
                "summary": one.summary, "description": re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", one.todo),
                "runbook_url": f"docs/looking-after.md#{one.name.lower()}",
            },
        }
        for one in ALARMS
    ]  # fmt: skip
    return {"groups": [{"name": "mover", "interval": "1m", "rules": rules}]}


def runbook() -> str:
    """A heading for each alarm, so that a link leads to it."""
    return "".join(
        f"#### {one.name}\n\n{_plain(one.summary)} (*{one.severity}*). To do: {one.todo}\n\n" for one in ALARMS
    )


def _plain(summary: str) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", summary)


def written() -> dict[Path, str]:
    """Each file with what it should hold."""
    page = PAGE.read_text("utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    head = "# Made from mover/metrics.py by docs/make_watching.py; edit there.\n"
    return {
        DASHBOARD: json.dumps(dashboard(), indent=1) + "\n",
        RULES: head + yaml.safe_dump(alerts(), sort_keys=False, width=120),
        PAGE: before + BEGIN + "\n" + runbook() + END + after,
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, "utf-8")
