"""The whole workflow on the small hospital, told to a person: `mover demo`.

Prepares the file systems, the bucket and the hospital, starts the daemon, then does what pathology, a data
manager and a training scheduler would do, through the HTTP API only. Each step prints what it saw and adds it to
`report.json`. Anything that is not as it must be stops the story with an error.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from mover.clock import monotonic_s
from mover.demo import artifacts, generate, places, planted, seaweed
from mover.demo.site import BUCKET, Site, write_secret
from mover.demo.teller import Teller, counts, size
from mover.demo.trees import differences, remove_tree
from mover.errors import IntegrityError, NotProtected, RunRefused
from mover.model import wire
from mover.sdk import SyncClient

LINGER_S = 1800
BATCH_S = 3600  # a busy machine is slow and not broken; progress is shown meanwhile
LINES_SHOWN = 20
BUCKET_STEP_BYTES = 8 << 20
OVERLAP_BYTES = 4096  # no disguise of an identifier is longer
RECORDS_FOLDER = "records"
STRANGER = "data/somebody-left-this.txt"
STRANGER_TEXT = b"not in any manifest\n"


class Story:
    def __init__(self, root: Path, *, scale: float = 1.0, seed: int = 7, console: Console | None = None) -> None:
        self.site = Site(root)
        self.scale, self.seed = scale, seed
        self.teller = Teller(console)
        self._say = self.teller.say
        self.report: dict[str, Any] = {"steps": {}, "run_roots": []}
        self.answers: list[bytes] = []      # everything the API said to an operator, searched at the end

    # --- before -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """A fresh site on an old or new hospital; whatever an earlier demo left running ends first."""
        self.site.stop()
        places.release(self.site.root)
        # a report tells of a story that ended well, so none stands while one is told
        self.site.report.unlink(missing_ok=True)
        for leftover in (self.site.state, self.site.policies, self.site.root / "home"):
            remove_tree(leftover)
        # the bucket comes up while the hospital is built; leaving the block waits for it, also after a failure,
        # so that whoever stops the site finds it
        with ThreadPoolExecutor(1, thread_name_prefix="bucket") as pool:
            starting = pool.submit(seaweed.start, self.site.bucket, bucket=BUCKET)
            with self.teller.bar("building the hospital") as tick:
                self.hospital = generate.build_hospital(
                    self.site.root, scale=self.scale, seed=self.seed,
                    progress=lambda done, total, what: tick(done, total),
                )  # fmt: skip
            self.places = places.prepare(self.site.root, source=Path(self.hospital.source))
            self.server = starting.result()
        self.site.write(self.places, self.server)
        self.url = self.site.start_daemon()
        h = self.hospital
        self._say(f"hospital: {h.packs} packs, {size(h.size_bytes)}, {h.rows} rows of tables"
                  f"{' (built before, reused)' if h.reused else ''}")  # fmt: skip
        for place in self.places.all:
            self._say(f"tier: {place.sentence}")
        self._say(f"tier: archive is a bucket of its own S3 server, {self.server.endpoint}")
        self._say(f"daemon: {self.url}")
        self._say(f"log: {self.site.log}")

    def tell(self) -> None:
        began = monotonic_s()
        with self.site.client(self.url) as admin:
            token = admin.tokens.make(
                wire.TokenRequest(
                    actor="scheduler", role="operator", posix_uid=os.getuid(), posix_gid=os.getgid()
                )
            )
            assert token.secret is not None
            write_secret(self.site.operator, token.secret)
            with self.site.client(self.url, token.secret) as client:
                self.client = client
                self._images()
                self._records()
                run = self._stage()
                self._protect(run)
                self._clean(run)
                self._look_over(admin)
                self._search(admin)
        self.report["seconds"] = round(monotonic_s() - began, 1)
        self._write_report()

    # --- step 1 -------------------------------------------------------------------------------------------

    def _images(self) -> None:
        with self._step("images", "1. Image workflow: batches become de-identified slides in the bucket") as out:
            self.batches: dict[str, wire.Batch] = {}
            first = next(iter(self.hospital.declared))
            plan = self.client.batches.plan_declare(
                wire.BatchRequest(folder=first, expected_count=self.hospital.declared[first])
            )
            self._keep(plan)
            self._say(f"plan of the first batch, nothing done yet: {counts(plan.counts)}; {size(plan.bytes)}")
            for folder, count in self.hospital.declared.items():
                batch = self.client.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
                self.batches[folder] = batch
            self._declare_records_early()
            for folder, batch in self.batches.items():
                self.batches[folder] = self._watch_batch(batch)
            again = self.client.batches.declare(
                wire.BatchRequest(folder=first, expected_count=self.hospital.declared[first])
            )
            before = self._numbers()
            again = self.client.batches.wait(again.id, timeout_s=120)
            self._must(before == self._numbers(), "the same batch twice minted a number")
            self._say("the first batch declared a second time: no number was minted")
            self._images_report(out)
            self._keep(again)

    def _watch_batch(self, batch: wire.Batch) -> wire.Batch:
        with self.teller.bar(f"batch {batch.id[-6:]}") as tick:

            def seen(now: wire.Batch) -> None:
                done = sum(count for state, count in now.packs.items() if state != "found")
                tick(done, max(1, sum(now.packs.values())))

            found = self.client.batches.wait(batch.id, progress=seen, timeout_s=BATCH_S)
        self._must(found.state == "complete", f"batch {batch.id} is {found.state}: {found.explanation}")
        return found

    def _images_report(self, out: dict[str, Any]) -> None:
        columns = ("batch", "packs>", "published>", "duplicate>", "quarantined>", "bytes>", "proof")
        self.teller.table(columns, (
            (b.id[-6:], sum(b.packs.values()), b.packs.get("published", 0), b.packs.get("duplicate", 0),
             b.packs.get("quarantined", 0), size(b.bytes), b.proofs[-1].root[:16])
            for b in self.batches.values()
        ))  # fmt: skip
        refused = []
        for batch in self.batches.values():
            for pack in self._packs(batch, "quarantined"):
                refused.append({"pack": pack.id, "reason": pack.reason, "explanation": pack.explanation})
                self._say(f"quarantined {pack.id[-6:]}: {pack.reason} - {pack.explanation}")
        slides = self._slides()
        out["counts"] = _add(batch.packs for batch in self.batches.values()) | {"slides": len(slides)}
        out["bytes"] = sum(s.size_bytes for s in slides)
        out["refused"] = refused
        out["proofs"] = [_proof(p) for b in self.batches.values() for p in b.proofs]
        for batch in self.batches.values():
            out["proofs"] += [_proof(p) for pack in self._packs(batch, "published") for p in pack.proofs]

    def _packs(self, batch: wire.Batch, state: str) -> list[wire.Pack]:
        page = self.client.batches.packs(batch.id, state=state, limit=1000)
        self._keep(page)
        return page.packs

    def _slides(self) -> list[wire.Slide]:
        found: list[wire.Slide] = []
        after = None
        while True:
            page = self.client.slides.list(after=after, limit=500)
            found += page.slides
            after = page.next
            if after is None:
                self._keep(found)
                return found

    def _numbers(self) -> set[str]:
        return {slide.number for slide in self._slides()}

    # --- step 2 -------------------------------------------------------------------------------------------

    def _declare_records_early(self) -> None:
        """Tables often come before the images are done: they wait, and nothing is matched by halves."""
        self.records: dict[str, wire.RecordSet] = {}
        for folder, batch in self.batches.items():
            source = Path(self.hospital.source) / RECORDS_FOLDER / folder
            files = {path.stem: f"{RECORDS_FOLDER}/{folder}/{path.name}" for path in sorted(source.glob("*.csv"))}
            self.records[folder] = self.client.records.declare(wire.RecordsRequest(batch=batch.id, files=files))
            self._say(f"records of batch {batch.id[-6:]} declared: {self.records[folder].state}")

    def _records(self) -> None:
        title = "2. Record workflow: three tables a batch, matched by name, stripped of names"
        with self._step("records", title) as out:
            states: list[dict[str, int]] = []
            out["refused"], out["proofs"], out["ledger"] = [], [], {}
            self._say("these exports hold more cases than were scanned: most of their rows have no image here")
            for place, declared in enumerate(self.records.values(), start=1):
                found = self.client.records.wait(declared.id, timeout_s=300)
                self._must(found.state == "aligned", f"record set {found.id} is {found.state}: {found.explanation}")
                self._keep(found)
                self._print_ledger(found)
                for table, row in found.ledger.items():
                    self._must(sum(row.values()) == found.totals[table], f"ledger of {table} does not add up")
                    states.append({f"{table} {state}": count for state, count in row.items()})
                # batch folders are identifiers; in the report stands which one it was
                out["ledger"][f"batch {place}"] = found.ledger
                out["proofs"] += [_proof(p) for p in found.proofs]
                out["refused"] += [{"batch": f"batch {place}", **group} for group in self._held_back(found)]
            out["counts"] = _add(states)
            out["bytes"] = sum(p["bytes"] for p in out["proofs"])

    def _print_ledger(self, found: wire.RecordSet) -> None:
        self._say(f"ledger of {found.id[-6:]}: every row and every image in exactly one state")
        states = ("matched", "image-without-row", "row-without-image", "duplicate", "conflict", "late")
        heads = ("matched>", "image\nwithout row>", "row\nwithout image>", "duplicate>", "conflict>", "late>")
        rows = (
            (name, *(row.get(state, 0) for state in states), found.totals[name])
            for name, row in found.ledger.items()
        )
        self.teller.table(("table", *heads, "total>"), rows)
        self._say(f"{found.slides_aligned} slides have their facts; the smallest group of equal ones is k = {found.k}")

    def _held_back(self, found: wire.RecordSet) -> list[dict[str, Any]]:
        """Everything that was not matched, by table and reason, with the first lines of each."""
        groups: dict[tuple[str, str, str], list[int]] = {}
        for state in ("row-without-image", "image-without-row", "duplicate", "conflict", "late"):
            for line in self._ledger_lines(found, state):
                groups.setdefault((line.table, state, line.reason or state), []).append(line.line)
        listed = [
            {"table": table, "state": state, "reason": reason, "count": len(lines),
             "lines": sorted(lines)[:LINES_SHOWN]}
            for (table, state, reason), lines in groups.items()
        ]  # fmt: skip
        for group in listed:
            reason = "" if group["reason"] == group["state"] else f" ({group['reason']})"
            self._say(f"  {group['count']:5} of {group['table']}: {group['state']}{reason}")
        return listed

    def _ledger_lines(self, found: wire.RecordSet, state: str) -> Iterator[wire.LedgerLine]:
        after = None
        while True:
            page = self.client.records.ledger(found.id, state=state, after=after, limit=1000)
            self._keep(page)
            yield from page.lines
            after = page.next
            if after is None:
                return

    # --- step 3 -------------------------------------------------------------------------------------------

    def _stage(self) -> wire.Run:
        with self._step("stage", "3. Align and stage: a cohort by expression, on flash, sealed") as out:
            expression = msgspec.json.decode(Path(self.hospital.expected).read_bytes())["cohort"]["expression"]
            cohort = self.client.cohorts.save("high-grade-prostate", expression)
            self._keep(cohort)
            selects = f"{expression}: {cohort.count} slides, {size(cohort.bytes)}"
            self._say(f"cohort {cohort.name}@{cohort.version}: {selects}")
            known = self._slides()
            out["refused"] = self._refused_run([known[0].number, "no-such-slide", known[1].number])
            request = wire.RunRequest(cohort=cohort.name)
            plan = self.client.runs.plan_request(request)
            self._keep(plan)
            self._say(f"plan, nothing done yet: {counts(plan.counts)}; {size(plan.bytes)} to copy")
            run = self.client.runs.request(request, key="demo/1/2026-11-21T08:00:00Z/0")
            again = self.client.runs.request(request, key="demo/1/2026-11-21T08:00:00Z/0")
            self._must(run.id == again.id, "the same key gave two runs")
            run = self._watch_run(run)
            self._must(run.count == cohort.count + 1, "the run does not hold the cohort and its records")
            self._look_at_root(run)
            out["counts"] = {"slides": cohort.count, "files": run.count, "linked": run.linked_count}
            out["bytes"] = run.bytes
            out["proofs"] = [_proof(p) for p in run.proofs]
            out["run"] = run.id
            self.report["run_roots"].append(run.root)
            return run

    def _refused_run(self, numbers: list[str]) -> list[dict[str, Any]]:
        try:
            self.client.runs.request(wire.RunRequest(files=numbers), key="demo/0/2026-11-21T07:59:00Z/0")
        except RunRefused as refusal:
            self._say(f"a list with one unknown name is refused before the first byte: {refusal.what}")
            for offender in refusal.details:
                self._say(f"  position {offender['position']}: {offender['name']} ({offender['why']})")
            self._keep_bytes(msgspec.json.encode(refusal.details))
            return [{"reason": "run-refused", **offender} for offender in refusal.details]
        raise IntegrityError("a run with an unknown number was accepted")

    def _watch_run(self, run: wire.Run, until: str = "ready") -> wire.Run:
        with self.teller.bar(f"run {run.id[-6:]}") as tick:
            # a run that could not be protected whole goes back to `ready`: that ends the wait too
            found = self.client.runs.wait(
                run.id,
                until=frozenset({until, "ready"}),
                progress=lambda now: tick(now.staged_count, max(1, now.count)),
                timeout_s=600,
            )
        self._must(found.state == until, f"run {run.id} is {found.state}: {found.explanation}")
        self._keep(found)
        where = f", in {found.root}" if found.root else ""
        self._say(f"run {run.id[-6:]} is {found.state}: {found.count} files, {size(found.bytes)}{where}")
        return found

    def _look_at_root(self, run: wire.Run) -> None:
        """What a training job sees: exactly the manifest, both ways."""
        assert run.root is not None
        root = Path(run.root)
        manifest = self.client.runs.manifest(run.id)
        self._keep_bytes(manifest.encode())
        lines = [msgspec.json.decode(line) for line in manifest.splitlines()[1:]]
        listed = {line["path"]: line["size_bytes"] for line in lines}
        found = {str(p.relative_to(root)): p.stat().st_size for p in (root / "data").rglob("*") if p.is_file()}
        found["records.parquet"] = (root / "records.parquet").stat().st_size
        self._must(listed == found, "the run root differs from its manifest")
        self._say(f"its {len(listed)} files equal the manifest in both directions; manifest root {run.manifest_root}")

    # --- step 4 -------------------------------------------------------------------------------------------

    def _protect(self, run: wire.Run) -> None:
        title = "4. Protect: artifacts, code, manifest and environment, readable by any restic"
        with self._step("protect", title) as out:
            assert run.out is not None
            made = artifacts.write_artifacts(Path(run.out), seed=self.seed, scale=self.scale)
            artifacts.write_code(self.site.code)
            self._say(f"the job wrote {made.files} artifacts, {size(made.size_bytes)}, into {run.out}")
            out["refused"] = self._clean_too_early(run)
            finish = wire.FinishRequest(
                code=str(self.site.code), exit=0, environment={"framework": "none", "job": "demo/1"}
            )
            plan = self.client.runs.plan_finish(run.id, finish)
            self._keep(plan)
            self._say("plan, nothing done yet:")
            for step in plan.steps:
                self._say(f"  {step.action} {step.subject}: {step.reason}")
            self.client.runs.finish(run.id, finish)
            found = self._watch_run(run, until="protected")
            snapshot = self.client.snapshots.list(run=run.id).snapshots[0]
            self._keep(snapshot)
            self._say(
                f"snapshot {snapshot.repository_id[:8]}: {snapshot.files} files, {size(snapshot.bytes)}, "
                f"{size(snapshot.added_bytes)} added, missing parts: {', '.join(snapshot.missing) or 'none'}"
            )
            self._restore(run, snapshot)
            self._stock_restic(snapshot)
            out["counts"] = {"files": snapshot.files, "missing": len(snapshot.missing)}
            out["bytes"], out["added_bytes"] = snapshot.bytes, snapshot.added_bytes
            out["proofs"] = [_proof(p) for p in found.proofs]
            out["snapshot"] = {"id": snapshot.id, "repository_id": snapshot.repository_id, "missing": snapshot.missing}

    def _clean_too_early(self, run: wire.Run) -> list[dict[str, Any]]:
        try:
            self.client.runs.clean(run.id)
        except NotProtected as refusal:
            self._say(f"cleaning now is refused (409): {refusal.what}")
            self._keep_bytes(msgspec.json.encode(refusal.details))
            return [{"reason": refusal.code, "what": refusal.what, "first": refusal.details[:LINES_SHOWN]}]
        raise IntegrityError("a run was cleaned before it was protected")

    def _restore(self, run: wire.Run, snapshot: wire.Snapshot) -> None:
        assert run.out is not None
        target = self.site.restored / snapshot.repository_id[:8]
        request = wire.RestoreRequest(snapshot=snapshot.id, to=str(target))
        asked = self.client.restores.request(request, key=f"demo/{snapshot.id}")
        answer = self.client.restores.wait(asked.id, timeout_s=600)
        self._keep(answer)
        self._must(answer.state == "complete", f"the restore is {answer.state}: {answer.reason}")
        found = differences(Path(run.out), target / "artifacts")
        self._must(not found, f"the restored artifacts differ: {found[:3]}")
        self._say(f"restored whole: {answer.files} files in {answer.seconds:.1f} s, artifacts byte-identical")

    def _stock_restic(self, snapshot: wire.Snapshot) -> None:
        """The independent reader, where it is installed."""
        restic = shutil.which("restic")
        where = self.site.repository()
        if restic is None:
            self._say(f"stock restic is not installed here; with it: restic -r {where['path']} "
                      f"--password-file {where['password_file']} check --read-data")  # fmt: skip
            return
        base = [restic, "-r", where["path"], "--password-file", where["password_file"], "--no-cache"]
        check = subprocess.run([*base, "check", "--read-data"], capture_output=True, text=True, check=False)
        self._must(check.returncode == 0, f"restic check failed: {check.stderr[-300:]}")
        listing = subprocess.run([*base, "snapshots"], capture_output=True, text=True, check=False)
        self._must(snapshot.repository_id[:8] in listing.stdout, "restic does not list the snapshot")
        self._say("stock restic: check --read-data found no error, and it lists the snapshot")

    # --- step 5 -------------------------------------------------------------------------------------------

    def _clean(self, run: wire.Run) -> None:
        with self._step("clean", "5. Clean up: the run root goes, strangers are kept aside") as out:
            assert run.root is not None
            self._plant_stranger(Path(run.root))
            plan = self.client.runs.plan_clean(run.id)
            self._keep(plan)
            self._say(f"plan, nothing done yet: {counts(plan.counts)}; {size(plan.bytes)} to free")
            self.client.runs.clean(run.id)
            found = self._watch_run(run, until="cleaned")
            self._must(not Path(run.root).exists(), "the run root still stands")
            self._must([s["path"] for s in found.strays] == [STRANGER], f"strays: {found.strays}")
            kept = Path(self.places.flash.path) / found.strays[0]["moved_to"]
            self._must(kept.read_bytes() == STRANGER_TEXT, "the stranger was not kept")
            stray = found.strays[0]
            self._say(f"stray kept: {stray['path']} ({stray['why']}), now {stray['moved_to']}")
            second = self.client.runs.request(wire.RunRequest(like=run.id), key="demo/2/2026-11-21T09:00:00Z/0")
            second = self._watch_run(second)
            self._look_at_root(second)
            self._must(second.manifest_root is not None and second.linked_count > 0, "the second run copied again")
            self._must(not any(Path(second.out or "").iterdir()), "the second run sees artifacts of the first")
            self._say(f"a second run like the first: {second.linked_count} files linked, nothing of the first in it")
            out["counts"] = {"strays": len(found.strays), "removed": plan.counts.get("remove", 0)}
            out["bytes"] = plan.bytes
            out["proofs"] = [_proof(p) for p in found.proofs if p.kind == "cleaned"]
            out["refused"] = [{"path": s["path"], "reason": s["why"], "moved_to": s["moved_to"]} for s in found.strays]
            out["second_run"] = second.id
            self.report["run_roots"].append(second.root)

    def _plant_stranger(self, root: Path) -> None:
        """Somebody with the daemon's rights drops a file among the data."""
        folder = root / "data"
        mode = folder.stat().st_mode
        folder.chmod(0o750)
        (root / STRANGER).write_bytes(STRANGER_TEXT)
        folder.chmod(mode & 0o777)

    def _look_over(self, admin: SyncClient) -> None:
        """What the pages of tiers and slides are about: scans saw what stands there, and people tagged some of it. New
        words are an admin's."""
        with self._step("look over", "6. Look over: tiers are scanned, slides are tagged") as out:
            entries = 0
            for tier in ("intake", "archive", "flash"):
                scan = self.client.scans.declare(wire.ScanRequest(tier=tier))
                found = self.client.scans.wait(scan.id, timeout_s=BATCH_S)
                self._must(found.state == "complete", f"the scan of {tier} is {found.state}: {found.explanation}")
                self._say(f"{tier}: {found.entries} entries, {size(found.bytes)}")
                entries += found.entries
            body = wire.TagChangeRequest("large", expression="size_bytes > 1000000", reason="for the next benchmark")
            made, extra = admin.tags.change(body), admin.tags.change(wire.TagChangeRequest(
                "try-out", expression="sampled(0.5, seed = 7)"))  # fmt: skip
            undone = self.client.tags.undo(extra.id)
            self._must(undone.count == extra.count, "a change of tags was not taken back whole")
            self._say(f"{made.count} slides tagged {made.tag}; {extra.count} tagged {extra.tag}, and that taken back")
            self._keep([made, extra, undone])
            out["counts"] = {"entries": entries, "tagged": made.count}
            out["bytes"], out["proofs"], out["refused"] = made.bytes, [], []

    # --- after --------------------------------------------------------------------------------------------

    def _search(self, admin: SyncClient) -> None:
        """Every planted identifier, in every disguise, everywhere outside the identified zone."""
        with self._step("search", "Looking for every planted identifier outside the identified zone") as out:
            verdict = admin.audit.verify()
            self._must(verdict.whole, f"the audit chain is broken: {verdict.broken}")
            self._keep(admin.audit.page(limit=1000))
            dump = self._ordinary_dump()
            known = planted.load(Path(self.hospital.planted))
            began = monotonic_s()
            # file names are searched too; restored files stand for the repository, whose own are encrypted
            folders = [self.site.log, Path(self.places.flash.path), Path(self.places.protect.path), self.site.restored]
            # the bucket comes piece by piece: it does not fit into memory
            hits = planted.search_everything(itertools.chain(folders, self.answers, [dump], self._bucket()), known)
            self._must(not hits, f"{len(hits)} identifiers found, first in {hits[0].where if hits else ''}")
            answered = sum(len(answer) for answer in self.answers)
            self._say(f"0 of {len(known)} identifiers found, in any disguise, in {monotonic_s() - began:.0f} s:")
            self._say(f"  bucket ({size(self.bucket_bytes)}), flash, repository, restored files, log,")
            self._say(f"  {len(self.answers)} API answers ({size(answered)}), database dump ({size(len(dump))})")
            self._say(f"audit: {verdict.records} records in {_chains(len(verdict.chains))}, recomputed and whole")
            out["counts"] = {"hits": len(hits), "identifiers": len(known), "audit_records": verdict.records}
            out["bytes"] = self.bucket_bytes + len(dump) + answered
            out["proofs"], out["refused"] = [{"kind": "audit", "chains": verdict.chains}], []

    def _ordinary_dump(self) -> bytes:
        from mover.catalog.postgres import Embedded, find_binaries

        embedded = Embedded(self.site.state)
        dsn = embedded.start().superuser_dsn
        command = [find_binaries() / "pg_dump", "--schema=mover", "--schema=queue", "--dbname", dsn]
        try:
            return subprocess.run([str(c) for c in command], capture_output=True, check=True).stdout
        finally:
            embedded.stop()

    def _bucket(self) -> Iterator[bytes]:
        """Every key and object of the bucket as the bucket gives it, in pieces that overlap: nothing can hide
        on a seam."""
        from mover.tiers.object import ObjectTier

        s = self.server
        tier = ObjectTier(
            "archive", "deidentified", url=f"s3://{s.bucket}", endpoint=s.endpoint, region=s.region,
            credentials_file=s.credentials_file,
        )  # fmt: skip
        self.bucket_bytes = 0
        for entry in tier.list(""):
            yield entry.key.encode()
            end = b""
            for piece in tier.stream(entry.key, step_bytes=BUCKET_STEP_BYTES):
                self.bucket_bytes += len(piece)
                yield end + piece
                end = piece[-OVERLAP_BYTES:]

    def _write_report(self) -> None:
        self.report |= {
            "api_url": self.url,
            "token_file": str(self.site.token),
            "repository": self.site.repository(),
            "bucket": {
                "endpoint": self.server.endpoint,
                "name": self.server.bucket,
                "region": self.server.region,
                "credentials_file": self.server.credentials_file,
            },
            "planted": self.hospital.planted,
            "log": str(self.site.log),
            "tiers": [place.sentence for place in self.places.all],
            "hospital": {"packs": self.hospital.packs, "bytes": self.hospital.size_bytes, "rows": self.hospital.rows},
        }
        self.site.report.write_bytes(msgspec.json.format(msgspec.json.encode(self.report), indent=2) + b"\n")

    # --- small tools --------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, name: str, title: str) -> Iterator[dict[str, Any]]:
        self.teller.title(title)
        began = monotonic_s()
        out: dict[str, Any] = {}
        yield out
        out["seconds"] = round(monotonic_s() - began, 1)
        self.report["steps"][name] = out
        self._say(f"took {out['seconds']} s")

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise IntegrityError(otherwise, hint=f"The daemon's log is {self.site.log}.")

    def _keep(self, answer: Any) -> None:
        self._keep_bytes(msgspec.json.encode(answer))

    def _keep_bytes(self, answer: bytes) -> None:
        self.answers.append(answer)


# --- the command's entry ----------------------------------------------------------------------------------


def main(
    root: Path, *, serve: bool = False, remove: bool = False, linger_s: int | None = None, scale: float = 1.0
) -> None:
    """`serve` opens the hospital of an earlier demo (or tells the story first) and leaves it up; `remove` ends
    and deletes everything; with `linger_s` 0 nothing is left running."""
    site = Site(root)
    linger_s = LINGER_S if linger_s is None else linger_s
    # a polite kill ends what was started, as Ctrl-C does; what another kill leaves, the next demo ends
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # before anything is looked at or ended: it may all be another user's
    places.own(site.root)
    if remove:
        remove_all(site)
        return
    if serve and site.report.exists():
        open_again(site)
        return
    story = Story(root, scale=scale)
    try:
        story.prepare()
        story.tell()
        if serve:
            site.keep_up()
        elif linger_s:
            site.linger(linger_s)
        else:
            site.stop()
    except BaseException:
        site.stop()
        raise
    if serve or linger_s:
        what_next(site, story.url, story.teller, linger_s=0 if serve else linger_s)


def what_next(site: Site, url: str, teller: Teller, *, linger_s: int) -> None:
    """Where everything is, and the first things to type."""
    here = Path.cwd()
    command, config = (_shown(path, here) for path in (Path(sys.executable).parent / "mover", site.config))
    teller.title("What next")
    stay = f"for {linger_s // 60} minutes (`make serve` keeps them)" if linger_s else "until `make stop`"
    teller.say(f"report  {_shown(site.report, here)}")
    teller.say(f"pages   {url}/ui/ - sign in with the token that stands in")
    teller.say(f"        {_shown(site.operator, here)} (operator) or {_shown(site.token, here)} (admin)")
    teller.say(f"        or as a person: {command} --config {config} account add NAME --role admin")
    teller.say("        (two people made so can agree to each other's changes)")
    teller.say(f"API     {url}, described at /openapi.json; token file {_shown(site.token, here)}")
    teller.say(f"        it and the bucket stay up {stay}")
    teller.say("        `make stop` ends them, `make clean` removes everything")
    teller.say(f"try     export MOVER_CONFIG={config} MOVER_TOKEN_FILE={_shown(site.operator, here)}")
    for line in ("status", "batch list", "run list"):
        teller.say(f"        {command} {line}")


def _shown(path: Path, here: Path) -> str:
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def open_again(site: Site) -> None:
    """Serve what the last demo left, on new ports where the old ones are gone."""
    url = site.running_url()
    report = msgspec.json.decode(site.report.read_bytes())
    if url is None:
        site.stop()
        where = places.prepare(site.root, source=site.root / "hospital" / "source", fresh=False)
        server = seaweed.start(site.bucket, bucket=BUCKET, fresh=False)
        site.write_settings(where, server)
        url = site.start_daemon()
        report["bucket"]["endpoint"] = server.endpoint
    site.keep_up()
    report["api_url"] = url
    site.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    teller = Teller()
    teller.say(f"serving {url}")
    what_next(site, url, teller, linger_s=0)


def stop(root: Path) -> None:
    if root.exists():
        site = Site(root)
        places.own(site.root)
        site.stop()


def remove_all(site: Site) -> None:
    site.stop()
    places.release(site.root)
    remove_tree(site.root)


def _proof(proof: wire.Proof) -> dict[str, Any]:
    return {k: v for k, v in msgspec.to_builtins(proof).items() if k in ("id", "kind", "count", "bytes", "root", "at")}


def _add(counts: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for key, count in one.items():
            total[key] = total.get(key, 0) + count
    return total


def _chains(count: int) -> str:
    return "1 chain" if count == 1 else f"{count} chains"


__all__ = ["Story", "main", "open_again", "remove_all", "stop"]
