"""The smallest true rows of each noun, for tests that attack what stands on them. Written by a superuser, who is
bound by constraints and triggers but not by row-level security."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

NUMBER = "0123456789ABCDEFG"
DIGEST = "ab" * 32


def insert(conn: psycopg.Connection[Any], table: str, **values: Any) -> None:
    statement = sql.SQL("insert into mover.{} ({}) values ({})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
    )
    conn.execute(statement, list(values.values()))


def whole_project(conn: psycopg.Connection[Any], project: str, *, mark: str, number: str) -> None:
    """One row in every table that belongs to a project. Tiers exist already."""
    batch, records, cohort = f"batch-{mark}", f"records-{mark}", f"cohort-{mark}"
    selection, run, snapshot = f"selection-{mark}", f"run-{mark}", f"snapshot-{mark}"
    of = {"project_id": project}
    insert(conn, "slide", number=number, site="ward", family="aperio", extension="svs", size_bytes=10, digest=DIGEST,
           tier="archive", key=f"{number}/1/{number}.svs", facts="{}")  # fmt: skip
    insert(conn, "slide_grant", **of, number=number)
    insert(conn, "token", **of, id=f"token-{mark}", hash=mark.encode(), actor="ann", role="viewer")
    insert(conn, "account", id=f"account-{mark}", name=f"ann-{mark}", person="ann", made_by="ann")
    insert(conn, "account_grant", **of, account_id=f"account-{mark}", role="viewer")
    insert(conn, "shard", **of, id=f"shard-{mark}", queue="tier:intake", kind="walk", subject_id=batch)
    insert(conn, "batch", **of, id=batch, tier="intake", policy="images", folder=f"sealed-{mark}", created_by="ann")
    insert(conn, "pack", **of, id=f"pack-{mark}", batch_id=batch, barcode=f"sealed-b-{mark}", entry="sealed-e")
    insert(conn, "quarantine_rule", **of, id=f"rule-{mark}", cause="0" * 16, version=1, action="retry", standing=False,
           code="format-unknown", kind="svs", words="", reason="mended", packs=1, decided_by="ann")  # fmt: skip
    insert(conn, "quarantine_proposal", **of, id=f"proposal-{mark}", cause="1" * 16, action="retry", standing=False,
           code="redaction-unproven", kind="svs", words="", waiting=1, reason="mended", proposed_by="ann",
           proposed_person="ann")  # fmt: skip
    insert(conn, "adoption", **of, id=f"adoption-{mark}", tier="archive", prefix="", trust_names=False, reason="told",
           created_by="ann")  # fmt: skip
    insert(conn, "adoption_file", **of, adoption_id=f"adoption-{mark}", key=b"a", verdict="suspect", size_bytes=1)
    insert(conn, "adoption_slide", **of, adoption_id=f"adoption-{mark}", number=number, scan=DIGEST, sidecar="{}",
           evidence="{}", marks="{}")  # fmt: skip
    insert(conn, "slide_copy", number=number, tier="flash")
    insert(conn, "slide_ruling", **of, id=f"ruling-{mark}", number=number, action="remove", reason="it is in there",
           asked_by="ann", asked_person="ann", state="granted", decided_by="cora", decided_person="cora",
           manifests=0)  # fmt: skip
    insert(conn, "slide_withdrawal", number=number, reason="identifier-found-later", found_by=records)
    insert(conn, "slide_removal", **of, ruling_id=f"ruling-{mark}", place=1, tier="archive",
           key=f"{number}/1/{number}.svs", digest=DIGEST, size_bytes=1)  # fmt: skip
    insert(conn, "record_set", **of, id=records, batch_id=batch, policy="records", version=1, source="sealed-s",
           created_by="ann")  # fmt: skip
    insert(conn, "ledger", **of, record_set_id=records, table_name="images", line=1, state="image-without-row")
    insert(conn, "fact_column", **of, name="diagnosis", type="text", table_name="outcomes")
    insert(conn, "aligned", **of, number=number, facts="{}", record_set_id=records)
    insert(conn, "slide_search", **of, record_set_id=records, number=number, outcome="clean", strings=1, forms=1,
           bytes=1, root=DIGEST)  # fmt: skip
    insert(conn, "certificate", **of, digest=f"{ord(mark):064x}", batch_id=batch, content=DIGEST, fingerprint="f",
           body="{}", issued_by="ann")  # fmt: skip
    insert(conn, "cohort", **of, id=cohort, name="all", version=1, expression="true", created_by="ann")
    insert(conn, "selection", **of, id=selection, cohort_id=cohort, count=1, bytes=10, root=DIGEST)
    insert(conn, "slide_place", **of, place=0, number=number)
    insert(conn, "fact_block", **of, name="slide:number", block=0, body=b"")
    insert(conn, "selection_list", **of, root=DIGEST, block=0, offsets=[0])
    insert(conn, "run", **of, id=run, selection_id=selection, tier="flash", policy="stage", requested_by="ann")
    insert(conn, "run_entry", **of, run_id=run, path="a.svs", number=number, size_bytes=10, digest=DIGEST,
           archive_tier="archive", archive_key=f"{number}/1/{number}.svs")  # fmt: skip
    insert(conn, "run_tar", **of, run_id=run, path="data/000000.tar", made_of=DIGEST, count=1, size_bytes=2048)
    insert(conn, "run_hook", **of, run_id=run, phase="before-clean", name="drain", state="running", node="n1")
    insert(conn, "stray", **of, run_id=run, path="x", size_bytes=1, why="stranger", moved_to="y")
    insert(conn, "snapshot", **of, id=snapshot, run_id=run, tier="protect", repository_id=DIGEST + mark,
           policy="protect", files=1, bytes=1, added_bytes=1)  # fmt: skip
    insert(conn, "lineage", **of, run_id=run, event="START")
    insert(conn, "tagged_snapshot", **of, tag="best", recorded_at="2026-01-01Z", sequence=1, snapshot_id=snapshot)
    insert(conn, "snapshot_series", **of, policy="protect", series=f"run:{run}", files=1, bytes=1)
    insert(conn, "hold", **of, id=f"hold-{mark}", snapshot_id=snapshot, reason="a paper", placed_by="ann",
           placed_person="ann")  # fmt: skip
    insert(conn, "protect_terms", **of, policy="protect", terms="{}", wanted="{}")
    insert(conn, "protect_request", **of, id=f"shortening-{mark}", kind="large", policy="protect", reason="a paper",
           requested_by="ann", requested_person="ann", requested_at="2026-01-01Z", not_before="2026-01-02Z",
           lapses_at="2026-02-02Z")  # fmt: skip
    insert(conn, "protect_turn", **of, id=f"turn-{mark}", policy="protect", kind="keep")
    insert(conn, "protected_folder", **of, id=f"folder-{mark}", policy="protect", name="plans")
    insert(conn, "restore", **of, id=f"restore-{mark}", snapshot_id=snapshot, tier="protect", node="n1", path="/",
           target="/back", local=True, created_by="ann")  # fmt: skip
    insert(conn, "archive_turn", **of, id=f"turn-{mark}", policy="archive", created_by="ann")
    insert(conn, "archive_doubt", **of, tier="archive", key="k", reason="digest-mismatch")
    insert(conn, "run_records", **of, digest=DIGEST, body=b"r")
    insert(conn, "lock_renewal", **of, id=f"renewal-{mark}", tier="protect", prefix=mark, retain_s=1)
    insert(conn, "dump", **of, id=f"dump-{mark}", policy="dump", why="asked", created_by="ann")
    insert(conn, "dump_copy", **of, dump_id=f"dump-{mark}", tier="archive", key="k")
    insert(conn, "dump_drill", **of, id=f"drill-{mark}", dump_id=f"dump-{mark}", kind="read", created_by="ann")
    insert(conn, "alarm", **of, id=f"alarm-{mark}", key="k", code="batch-failed", severity="now", noun="batch",
           words="a batch failed", hint="Read why.", count=1)  # fmt: skip
    insert(conn, "alarm_telling", **of, alarm_id=f"alarm-{mark}", receiver="night", event="opened", words="failed",
           count=1)  # fmt: skip
    insert(conn, "policy_change", **of, id=f"change-{mark}", node="n1", name="stage", kind="stage", risks=["a tier"],
           reason="flash two", requested_by="ann", requested_person="ann")  # fmt: skip
    insert(conn, "tag_change", **of, id=f"change-t{mark}", tag="look-again", action="add", chosen="a list", count=1,
           bytes=10, reason="", created_by="ann")  # fmt: skip
    insert(conn, "slide_tag", **of, tag="look-again", number=number, present=True, change_id=f"change-t{mark}")
    insert(conn, "slide_view", **of, number=number)
    insert(conn, "checkpoint", **of, n=1, digest=DIGEST, fingerprint="f", body="{}")
    insert(conn, "checkpoint_copy", **of, n=1, tier="archive")
    insert(conn, "audit_restore", **of, id=f"acceptance-{mark}", n=2, facts="{}", reason="a lost disk", asked_by="ann",
           asked_person="ann")  # fmt: skip
    insert(conn, "audit_retirement", **of, id=f"retirement-{mark}", before="2019-01-01", chains="[]", digest="0" * 64,
           bytes=1, tiers=["archive"], reason="room", asked_by="ann", asked_person="ann")  # fmt: skip
    insert(conn, "artifact", **of, snapshot_id=snapshot, path="a", size_bytes=1, digest=DIGEST)
    insert(conn, "idempotency", **of, key="k", route="POST /v1/batches", body_digest=DIGEST, subject_id=batch)
    insert(conn, "proof", **of, id=f"proof-{mark}", kind="verified", subject_id=f"pack-{mark}", count=1, bytes=1,
           root=DIGEST, verifier="test")  # fmt: skip
    scan, of_scan = f"scan-{mark}", {**of, "scan_id": f"scan-{mark}"}
    insert(conn, "scan", **of, id=scan, tier="flash", created_by="ann")
    insert(conn, "scan_folder", **of_scan, key=b"left")
    insert(conn, "scan_finding", **of_scan, code="unreadable", key=b"shut")
    insert(conn, "folder_watch", **of, tier="flash", since="now", heard_at="now", reason="started")
    insert(conn, "folder_hint", **of, tier="flash", folder=b"", deep=False)
    insert(conn, "listing", **of, tier="flash", folder=b"", part=0, digest=b"", entries=1, seen=1, sent=1)
    insert(conn, "entry", **of, tier="flash", key=b"a", kind="file", size_bytes=1, mtime_ns=1, mark="1:1")
    transfer, release = f"transfer-{mark}", f"release-{mark}"
    insert(conn, "transfer", **of, id=transfer, verb="move", sources=["flash"], target="archive", request="{}",
           created_by="ann")  # fmt: skip
    insert(conn, "transfer_entry", **of, transfer_id=transfer, at=0, source=b"a", target=b"a", kind="file",
           size_bytes=1, mtime_ns=1, mark="1:1")  # fmt: skip
    insert(conn, "transfer_part", **of, transfer_id=transfer, attempt_id="1", number=0, place="upload")
    insert(conn, "release", **of, id=release, transfer_id=transfer, tier="flash", entries=1, bytes=1, hold_s=1,
           epoch="1", requested_by="ann")  # fmt: skip
    insert(conn, "release_entry", **of, release_id=release, entry_id=ord(mark), source=b"a", size_bytes=1,
           digest=DIGEST)  # fmt: skip
    verification, key = f"verification-{mark}", {"key": b"a", "source": "entry"}
    insert(conn, "verification", **of, id=verification, tier="flash", scope="tier", strangers=False, created_by="ann")
    insert(conn, "verification_entry", **of, **key, verification_id=verification)
    insert(conn, "verification_finding", **of, **key, id=f"finding-{mark}", verification_id=verification, tier="flash",
           kind="missing")  # fmt: skip
    conn.execute("select set_config('mover.project', %s, true)", [project])
    conn.execute("select mover.audit_append(%s, 'n1', '{}')", [project])
