"""The certificate of a batch: what stands in the catalog of it, told by the builder that one-shot runs use, signed.

Nothing is looked at again for it: decisions, proofs and digests were stored when the slides were published. The same
content under the same key is the same certificate, byte for byte, however often it is asked for; its first issue is
kept with its digest and stands in the audit record. No name and no digest of a source is in it: sources are known to
the vault only, by keyed hashes that nobody outside can join.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.dicom.confidentiality import EDITION
from mover.deid.certificate import Scope, build, encode, fence_words, removed_counts, sign, this_tool
from mover.errors import Conflict, LimitExceeded, MoverError, NotFound, PolicyInvalid, SettingsInvalid
from mover.ingest.publish import applied
from mover.model.certificate import Anonymity, Certificate, ChainHead, FileRecord, Inventory, Number, OutputFile
from mover.model.policy import DeidPolicy, ImagesPolicy, RecordsPolicy
from mover.model.slides import Decision
from mover.policy import PolicyBook, parse
from mover.sandbox import Sandbox
from mover.signing import SigningKey, canonical, grouped, load_key, public_fingerprint

SLIDES_MAX: Final = 20_000  # of one certificate
PROFILES_MAX: Final = 1000
# counted of a slide's second look, and what a certificate calls it
LOOKED: Final = {
    "strings_sought": "strings", "forms_sought": "forms", "bytes_searched": "bytes", "tags_checked": "tags",
    "elements_checked": "elements", "levels": "levels", "tiles_decoded": "tiles_decoded", "frames": "frames",
    "masked_boxes": "masked_boxes",
}  # fmt: skip
PROVED: Final = ("tiles", "tile_list_blake3", "objects", "pixel_bytes", "pixel_list_blake3")

_Q = load(__file__)


class Certificates:
    def __init__(
        self,
        database: Database,
        policies: PolicyBook,
        sandbox: Sandbox,
        *,
        key_file: Path,
        site: str,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._policies = policies
        self._sandbox = sandbox
        self._key_file = key_file
        self._site = site
        self._node = node
        self._clock = clock

    async def issue(self, project: str, actor: str, role: str, batch: str, *, request: str = "") -> str:
        """The signed certificate as text; `mover deid verify-certificate` checks it. Conflict before the batch is
        complete."""
        key = await asyncio.to_thread(self._key)
        async with self._database.project(project) as conn:
            scope = await self._scope(conn, batch, role)
        made = await asyncio.to_thread(lambda: build(scope, this_tool(scope.fences)))
        custody = msgspec.structs.replace(made.custody, sources_blake3="")
        return await self._issue(project, actor, batch, msgspec.structs.replace(made, custody=custody), key, request)

    def _key(self) -> SigningKey:
        try:
            return load_key(self._key_file)
        except MoverError as error:
            raise SettingsInvalid(
                f"the key that signs certificates cannot be used: {error.what}", where=str(self._key_file),
                hint="`mover init` makes one for a new site; else `mover deid certify --new-key FILE`, 0600, and"
                " name it in mover.yaml as `certificate_key`.",
            ) from error  # fmt: skip

    async def _issue(
        self, project: str, actor: str, batch: str, made: Certificate, key: SigningKey, request: str
    ) -> str:
        said = {"batch": batch, "content": blake3(canonical(made)).hexdigest(), "fingerprint": public_fingerprint(key)}
        async with self._database.project(project) as conn:
            await conn.execute(_Q["lock_issue"], {"project": project})
            standing = await _Q.one(conn, "standing", **said)
            if standing is not None:
                return str(standing.body)
            previous = await _Q.one(conn, "previous")
            custody = msgspec.structs.replace(
                made.custody, previous=grouped(previous.digest) if previous else "", audit=await _heads(conn, project)
            )
            made = msgspec.structs.replace(
                made, made_at=self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ"), custody=custody
            )
            body = await asyncio.to_thread(lambda: encode(sign(made, key)))
            digest = blake3(body).hexdigest()
            await _Q.one(conn, "issue", **said, digest=digest, project=project, body=body.decode(), actor=actor)
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="certificate issued", subject=batch,
                request=request,
                details={"digest": digest, "fingerprint": said["fingerprint"], "slides": len(made.files)},
            )  # fmt: skip
        metrics.CERTIFICATES.inc()
        return body.decode()

    # --- what the catalog knows -------------------------------------------------------------------------------

    async def _scope(self, conn: Connection, id: str, role: str) -> Scope:
        batch = await _Q.one(conn, "batch", id=id)
        if batch is None:
            raise NotFound("no such batch", where=id)
        if batch.state != "complete":
            raise Conflict(
                f"the batch is {batch.state}; only a complete one is certified", where=id,
                hint="Wait for it (mover batch show BATCH --wait), or declare it again.",
            )  # fmt: skip
        slides = await _Q.many(conn, "slides", batch=id, limit=SLIDES_MAX + 1)
        if len(slides) > SLIDES_MAX:
            raise LimitExceeded(f"a batch of more than {SLIDES_MAX} slides has no certificate", where=id)
        files: dict[str, list[Any]] = {}
        for row in await _Q.many(conn, "files", numbers=[slide.number for slide in slides]):
            files.setdefault(row.number, []).append(row)
        profile, text_blake3 = await self._profile(conn, batch, slides)
        ours = applied(profile, dicom=False).blake3
        records = tuple(_record(slide, files.get(slide.number, []), profile=ours) for slide in slides)
        return Scope(
            made_at="",
            role=f"{role}, through the daemon of site {self._site}",
            profile=profile,
            profile_text_blake3=text_blake3,
            dicom_table=EDITION,
            fences=fence_words(await asyncio.to_thread(lambda: self._sandbox.protection)),
            inventory=_inventory(await _Q.many(conn, "packs", batch=id), slides, records),
            files=records,
            anonymity=await self._anonymity(conn, id),
            source_digests=(),
            previous="",
            crosswalk=(
                "the site's vault: every row sealed with AES-256-GCM, its key kept outside the database; numbers are"
                " random. It is kept until a patient is erased from it or it is destroyed as a whole"
            ),
        )

    async def _profile(self, conn: Connection, batch: Any, slides: Sequence[Any]) -> tuple[DeidPolicy, str]:
        """The profile most of the slides were made under, with the digest of its text: the one in force, or one of
        those that were. The others are named with their slides."""
        made_under: dict[str, int] = {}
        for slide in slides:
            digest = (slide.details.get("profile") or {}).get("blake3", "")
            made_under[digest] = made_under.get(digest, 0) + 1
        policy = self._policies.get(batch.policy, ImagesPolicy)
        current = self._policies.profile(policy.profile)
        wanted = max(made_under, key=lambda digest: made_under[digest], default="")
        if wanted in ("", applied(current, dicom=False).blake3):
            text = next((one.digest for one in self._policies.all() if one.policy == current), "")
            return current, text
        for row in await _Q.many(conn, "profiles", limit=PROFILES_MAX):
            earlier = _parsed(row.text)
            if earlier is not None and applied(earlier, dicom=False).blake3 == wanted:
                return earlier, row.digest
        if applied(DeidPolicy(), dicom=False).blake3 == wanted:
            return DeidPolicy(), ""
        raise Conflict("the profile that these slides were made under is not known here any more", where=batch.id)

    async def _anonymity(self, conn: Connection, batch: str) -> tuple[Anonymity, ...]:
        row = await _Q.one(conn, "records", batch=batch)
        if row is None:
            return ()
        policy = self._policies.get(row.policy, RecordsPolicy)
        columns = tuple(sorted({
            rule.rename or name for table in policy.tables for name, rule in table.columns.items() if rule.quasi
        }))  # fmt: skip
        aligned = row.report.get("slides_aligned", 0)
        return (
            (Anonymity(policy.name, columns, aligned, row.report.get("k") or 0, row.report.get("suppressed", 0)),)
            if columns else ()
        )  # fmt: skip


# --- small tools --------------------------------------------------------------------------------------------


def _parsed(text: str) -> DeidPolicy | None:
    """A text that was valid once may not be any more: then it is none of ours."""
    try:
        policy, _ = parse(text, file="").check(DeidPolicy)
    except PolicyInvalid:
        return None
    return policy if isinstance(policy, DeidPolicy) else None


async def _heads(conn: Connection, project: str) -> tuple[ChainHead, ...]:
    return tuple(
        ChainHead(_number(head.seq), grouped(head.hash.hex())) for head in await audit.heads(conn, project)
    )


def _number(count: int) -> Number:
    return f"{count:,}".replace(",", " ") if count >= 10_000 else count


def _record(slide: Any, files: Sequence[Any], *, profile: str) -> FileRecord:
    details: Mapping[str, Any] = slide.details
    decisions = msgspec.convert(slide.decisions or [], list[Decision])
    removed, kept = removed_counts(decisions)
    looked = {word: details[name] for name, word in LOOKED.items() if details.get(name)}
    if slide.searches:
        looked |= {"later_searches": slide.searches, "later_strings": slide.later_strings,
                   "later_bytes": slide.later_bytes}  # fmt: skip
    return FileRecord(
        number=slide.number,
        kind="dicom" if slide.family.startswith("dicom") else "slide",
        format=slide.family,
        outputs=_outputs(slide, files),
        removed=removed,
        kept=kept,
        strings_removed=details.get("strings_sought", 0),
        methods=(*details.get("methods", ()), *(("search-again",) if slide.searches else ())),
        verifier=slide.verifier,
        looked=looked,
        proof={name: details[name] for name in PROVED if name in details} | {"copied_bytes": slide.copied_bytes},
        options=(*details.get("options", ()), *_other_profile(details, profile)),
    )


def _other_profile(details: Mapping[str, Any], profile: str) -> tuple[str, ...]:
    made = details.get("profile") or {}
    if made.get("blake3", profile) == profile:
        return ()
    return (f"made under profile {made['name']} version {made['version']}, {grouped(made['blake3'])}",)


def _outputs(slide: Any, files: Sequence[Any]) -> tuple[OutputFile, ...]:
    """Named by their keys below the archive tier's root, so that they can be hashed again there."""
    found = [OutputFile(slide.key, slide.digest, slide.size_bytes)]
    found += [OutputFile(row.key, row.digest, row.size_bytes) for row in files]
    if slide.thumbnail_key and slide.thumbnail_digest:
        found.append(OutputFile(slide.thumbnail_key, slide.thumbnail_digest, slide.thumbnail_bytes))
    return tuple(found)


def _inventory(packs: Sequence[Any], slides: Sequence[Any], records: Sequence[FileRecord]) -> Inventory:
    """Packs by what became of them: each is published, waits for a person, or was left out with a reason."""
    quarantined = {row.reason or "unknown": row.count for row in packs if row.state == "quarantined"}
    dropped: dict[str, int] = {}
    for row in packs:
        if row.state not in ("published", "quarantined"):
            word = "duplicate" if row.state == "duplicate" else f"{row.state}: {row.reason or 'by decision'}"
            dropped[word] = dropped.get(word, 0) + row.count
    families: dict[str, dict[str, int]] = {}
    for slide in slides:
        of = families.setdefault(slide.family, {})
        of["deidentified"] = of.get("deidentified", 0) + 1
    withdrawn = sum(row.count for row in packs if row.state == "published") - len(slides)
    if withdrawn > 0:
        # found through another project's records: its packs here say so with their next round
        quarantined["identifier-found-later"] = quarantined.get("identifier-found-later", 0) + withdrawn
    return Inventory(
        files=sum(row.count for row in packs),
        published=len(slides),
        quarantined=quarantined,
        dropped=dropped,
        by_kind=families,
        source_bytes=sum(row.bytes for row in packs),
        output_bytes=sum(int(output.size_bytes) for one in records for output in one.outputs),
    )
