"""The vault: where original names and numbers are tied (D10, D19).

Every body is sealed with AES-256-GCM under a random nonce; its place (table, owner, kind, lookup) is
associated data, so a row copied to another place does not open. Lookups are keyed hashes: the database can
find a row again but cannot try names. The keys are derived from one secret file that the database never sees
(`vaultkeys`). Where a site has two sealed key files, originals are sealed for these alone: what is left under the
everyday key is what the work itself needs.

The vault's role can call functions and read no table: a row is found by its keyed lookup, and a list leaves its
record (`custody`). Every call says of which generation its key is; who is behind learns it, reads the key files
again and asks once more, so a re-key needs no pause.

A number or a sealed name is committed before anything refers to it: a crash between leaves a row in the
vault that nobody points at, never a reference to nothing. Opening names is `unseal`, and only together with
its audit record.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import psycopg
from msgspec import Struct
from psycopg.errors import UniqueViolation

from mover import audit, metrics
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.decide.folding import canonical_name, fold, one_gap
from mover.decide.matching import canonical_image
from mover.decide.patients import OF, at_home, claims, issued
from mover.deid.identity import Aliases, Identity, Subject
from mover.deid.vaultkeys import KEY_BYTES, CopySealer, PublicKey, VaultKey
from mover.errors import CatalogUnavailable, Denied, NotFound, RequestInvalid, SubjectErased, VaultConflict
from mover.model.ids import encode_base32
from mover.model.names import decode_names, encode_names, name_bytes
from mover.model.policy import EXTENSIONS
from mover.randomness import new_id, new_number, new_offset_days, new_uid, random_bytes

__all__ = ["KEY_BYTES", "ClosedVault", "Vault", "VaultKey"]

SEAL_LIMIT = 1000  # rows of one statement
UNSEAL_LIMIT = 10_000  # names opened by one audit record
MINT_ATTEMPTS = 5  # collisions of 80 random bits in a row: never, unless the random source is broken
REKEYS_SEEN = 3  # re-keys that end while one call asks again: never, unless the key files are wrong
KEY_KINDS = ("case", "block", "slide")
PATIENT = "patient|"  # before a patient's text in an entity key; the vault's subjects are found by the text alone

# what the functions of the schema raise
OTHER_GENERATION, ERASED = "MV001", "MV002"

_Q = queries.load(__file__)
P = ParamSpec("P")
R = TypeVar("R")


def _renewed(
    method: Callable[Concatenate[Vault, P], Awaitable[R]],
) -> Callable[Concatenate[Vault, P], Awaitable[R]]:
    """Everything below is insert-or-get or a look: when the vault was re-keyed meanwhile, it is asked again with the
    key that is now in the file."""

    @functools.wraps(method)
    async def asked(self: Vault, *args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(REKEYS_SEEN):
            try:
                return await method(self, *args, **kwargs)
            except psycopg.DatabaseError as error:
                if error.sqlstate == ERASED:
                    raise SubjectErased("this belongs to a subject that was erased") from error
                if error.sqlstate != OTHER_GENERATION:
                    raise
            self._renew()
        raise CatalogUnavailable("the vault is re-keyed again and again")

    return asked


class Vault:
    """`database` is opened with the vault's own DSN: its role sees no ordinary table. `renew` reads the key files
    anew, for a key of another generation than the given one; `public` answers the daemon's part of the two sealed key
    files, where the site has them."""

    def __init__(
        self,
        database: Database,
        key: VaultKey,
        *,
        site: str,
        node: str,
        public: Callable[[], PublicKey | None] = lambda: None,
        renew: Callable[[int], VaultKey] | None = None,
    ) -> None:
        self._database = database
        self._key = key
        self._site = site
        self._node = node
        self._public = public
        self._read_key = renew

    @property
    def key(self) -> VaultKey:
        """For the custodian's work beside this."""
        return self._key

    def keyed(self, text: str) -> bytes:
        """The same for the same text for ever, re-keyed or not: the catalog holds what is said here."""
        return self._key.keyed(text)

    def _renew(self) -> None:
        newer = self._read_key(self._key.generation) if self._read_key is not None else self._key
        if newer.generation == self._key.generation:
            raise CatalogUnavailable(
                f"the vault was re-keyed, and this process has the key of generation {newer.generation}",
                hint="Put the new key file in the place of the old one (or beside it, as `<key>.next`).",
            )
        self._key = newer

    # --- names of a project -----------------------------------------------------------------------------------

    async def seal_many(self, project: str, kind: str, items: Sequence[tuple[str, bytes]]) -> list[str]:
        """The ids of the rows for `(lookup, body)` pairs, in their order: made, or the ones that were there
        (whose bodies stay). Committed on return, so the catalog may refer to them."""
        ids: list[str] = []
        for start in range(0, len(items), SEAL_LIMIT):
            ids += await self._seal_some(project, kind, items[start : start + SEAL_LIMIT])
        return ids

    @_renewed
    async def _seal_some(self, project: str, kind: str, items: Sequence[tuple[str, bytes]]) -> list[str]:
        tags = [self.tag(project, kind, text) for text, _ in items]
        bodies: dict[bytes, bytes] = {}
        for tag, (_, body) in zip(tags, items, strict=True):
            bodies.setdefault(tag, body)
        async with self._database.project(project) as conn:
            found = await self._find_some(conn, project, kind, list(bodies))
            missing = [tag for tag in bodies if tag not in found]
            if missing:
                lookups = [self._key.lookup(tag) for tag in missing]
                sealed = [
                    self._key.seal(bodies[tag], place=place("sealed", project, kind, lookup))
                    for tag, lookup in zip(missing, lookups, strict=True)
                ]
                rows = {
                    "generation": self._key.generation, "project": project, "kind": kind, "lookups": lookups,
                    "ids": [new_id("sealed") for _ in missing], "bodies": sealed,
                }  # fmt: skip
                await conn.execute(_Q["put_sealed"], rows)
                found |= await self._find_some(conn, project, kind, missing)
        return [found[tag] for tag in tags]

    async def find(self, project: str, kind: str, lookup: str) -> str | None:
        """The id of what was sealed under this lookup. Opens nothing, so it leaves no audit record."""
        tag = self.tag(project, kind, lookup)
        return (await self.find_tags(project, kind, [tag])).get(tag)

    async def find_many(self, project: str, kind: str, lookups: Sequence[str]) -> set[str]:
        """Those of the lookups under which something was sealed. Opens nothing, so it leaves no audit record."""
        tags = {self.tag(project, kind, text): text for text in lookups}
        return {tags[tag] for tag in await self.find_tags(project, kind, list(tags))}

    async def known_words(self, project: str, words: Iterable[str], *, batches: Sequence[str]) -> set[str]:
        """Those of the words that stand for a patient, a case, a block, a slide, an image, or a pack of these batches.
        Opens nothing, so it leaves no audit record."""
        asked = sorted(set(words))
        patients = {self.subject_tag(fold(word)): word for word in asked}
        found = {patients[tag] for tag in await self._met(SUBJECTS, "", list(patients))}
        for kind in KEY_KINDS:
            keys = {self._key.keyed(f"entity|{self._site}|{kind}|{fold(w.replace('_', ' '))}"): w for w in asked}
            found |= {keys[tag] for tag in await self._met(_ENTITIES, kind, list(keys))}
        images = {self.tag(project, "image", canonical_image(word, EXTENSIONS)): word for word in asked}
        found |= {images[tag] for tag in await self.find_tags(project, "image", list(images))}
        for batch in batches:
            packs = {
                self.tag(project, "barcode", f"{batch}\0{canonical_image(word, EXTENSIONS)}"): word for word in asked
            }
            packs |= {self.tag(project, "barcode", f"{batch}\0{word}"): word for word in asked}
            found |= {packs[tag] for tag in await self.find_tags(project, "barcode", list(packs))}
        return found

    async def _met(self, table: Table, kind: str, tags: Sequence[bytes]) -> set[bytes]:
        """Those of the tags under which a row stands."""
        met: set[bytes] = set()
        for start in range(0, len(tags), SEAL_LIMIT):
            met |= set(await self._look(table, kind, tags[start : start + SEAL_LIMIT]))
        return met

    def tag(self, project: str, kind: str, lookup: str) -> bytes:
        """By what the catalog knows a sealed row: the same for the same lookup, re-keyed or not, and useless for
        trying names."""
        return self._key.keyed(f"sealed|{project}|{kind}|{lookup}")

    async def find_tags(self, project: str, kind: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        """The ids of the rows that were sealed under these tags. Opens nothing, so it leaves no audit record."""
        found: dict[bytes, str] = {}
        for start in range(0, len(tags), SEAL_LIMIT):
            found |= await self._find_slice(project, kind, tags[start : start + SEAL_LIMIT])
        return found

    @_renewed
    async def _find_slice(self, project: str, kind: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        async with self._database.project(project) as conn:
            return await self._find_some(conn, project, kind, tags)

    async def _find_some(self, conn: Connection, project: str, kind: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        known = self._known(tags)
        values = {"generation": self._key.generation, "project": project, "kind": kind, "lookups": list(known)}
        cursor = await conn.execute(_Q["find_sealed"], values)
        return {known[bytes(row.lookup)]: row.id for row in await cursor.fetchall()}

    @_renewed
    async def unseal(self, project: str, ids: Sequence[str], *, purpose: str, actor: str) -> dict[str, bytes]:
        """The bodies by id. Who looked, why, and at what is recorded in the same transaction: no record, no
        look. Raises NotFound when an id is not this project's. Names that were erased read as one that no file
        has."""
        wanted = sorted(set(ids))
        if not purpose.strip() or len(wanted) > UNSEAL_LIMIT:
            raise RequestInvalid(f"opening names needs a purpose and at most {UNSEAL_LIMIT} ids at once")
        if not wanted:
            return {}
        async with self._database.project(project) as conn:
            values = {"generation": self._key.generation, "project": project, "ids": wanted}
            cursor = await conn.execute(_Q["read_sealed"], values)
            rows = await cursor.fetchall()
            if len(rows) != len(wanted):
                raise NotFound(f"{len(wanted) - len(rows)} of {len(wanted)} sealed ids are not known in this project")
            bodies = {row.id: self._open_sealed(project, row) for row in rows}
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="unseal", reason=purpose,
                subject=wanted[0] if len(wanted) == 1 else "sealed", details={"ids": wanted},
            )  # fmt: skip
        metrics.VAULT_LOOKS.inc()
        return bodies

    def _open_sealed(self, project: str, row: Any) -> bytes:
        if not row.body:
            gone = f"erased/{row.id}.svs"
            return encode_names([gone]) if row.kind in ("entry", "expected") else name_bytes(gone)
        where = place("sealed", project, row.kind, bytes(row.lookup))
        return self._key.open(bytes(row.body), place=where, generation=row.generation)

    # --- minting: insert-or-get, committed on return ----------------------------------------------------------

    async def mint_number(self, source_digest: str, *, body: bytes) -> tuple[str, bool]:
        """The site's number of this scan and whether it was minted now. Two daemons that scan the same
        bytes get the same number; committed on return. Raises SubjectErased for a scan that was erased."""
        minted, fresh = await self._mint_numbers({source_digest: body})
        [(tag, number)] = minted.items()
        return number, tag in fresh

    async def mint_numbers(self, scans: Mapping[str, bytes]) -> dict[str, str]:
        """The numbers of many scans, in few statements: source digest and what to seal beside a new number."""
        minted, _ = await self._mint_numbers(scans)
        return {digest: minted[self._number_tag(digest)] for digest in scans}

    async def _mint_numbers(self, scans: Mapping[str, bytes]) -> tuple[dict[bytes, str], set[bytes]]:
        promised = await self._promised(scans)
        wanted = {
            self._number_tag(digest): Wanted(body=body, drawn=promised.get(digest)) for digest, body in scans.items()
        }
        return await self._mint(_NUMBERS, wanted)

    async def _promised(self, scans: Mapping[str, bytes]) -> dict[str, str]:
        """The numbers that an imported crosswalk gave to files of these names."""
        tags = {tag: digest for digest, body in scans.items() for tag in map(self.promise_tag, _file_names(body))}
        found: dict[str, str] = {}
        ordered = list(tags)
        for start in range(0, len(ordered), SEAL_LIMIT):
            rows = await self._look(_PROMISES, "", ordered[start : start + SEAL_LIMIT])
            found |= {tags[tag]: number for tag, number in rows.items()}
        return found

    async def find_number(self, source_digest: str) -> str | None:
        """The number of a scan that has one; mints nothing."""
        tag = self._number_tag(source_digest)
        return (await self._look(_NUMBERS, "", [tag])).get(tag)

    async def mint_subject(self, patient: str) -> tuple[str, int]:
        """The patient's pseudonym and date offset in days; the same at every call and for every project."""
        subject = (await self.mint_subjects([patient]))[patient]
        return subject.pseudonym, subject.offset_days

    async def mint_subjects(self, patients: Sequence[str], *, erased: bool = True) -> dict[str, Subject]:
        """The same for many patients, in few transactions. The records that use it audit their own shard.

        Tables go on naming a patient who was erased: such a one gets a pseudonym of the moment, tied to nothing.
        With `erased=False` it raises SubjectErased instead."""
        names = list(dict.fromkeys(patients))
        minted: dict[str, Subject] = {}
        for start in range(0, len(names), SEAL_LIMIT):
            minted |= await self._mint_subjects(names[start : start + SEAL_LIMIT], erased=erased)
        return minted

    async def mint_keys(self, keys: Iterable[str], *, subjects: Mapping[str, str] | None = None) -> dict[str, str]:
        """What stands for cases, blocks and slides, by their `entity_key`; the same for every project of the site.
        `subjects` says of a key whose it is, by pseudonym: it goes when that subject is erased."""
        whose = subjects or {}
        wanted: dict[str, dict[bytes, Wanted]] = {}
        tags: dict[bytes, str] = {}
        for key in dict.fromkeys(keys):
            kind, tag = key.partition("|")[0], self._key.keyed(f"entity|{self._site}|{key}")
            if kind not in KEY_KINDS:
                raise RequestInvalid(f"keys are minted for {', '.join(KEY_KINDS)}; patients are subjects")
            tags[tag] = key
            wanted.setdefault(kind, {})[tag] = Wanted(kind=kind, body=name_bytes(key), subject=whose.get(key))
        minted: dict[bytes, str] = {}
        for kind in sorted(wanted):
            minted |= (await self._mint(_ENTITIES, wanted[kind]))[0]
        return {tags[tag]: pseudonym for tag, pseudonym in minted.items()}

    async def mint_uids(self, uids: Iterable[str], *, subjects: Mapping[str, str] | None = None) -> dict[str, str]:
        """What stands for DICOM UIDs. The map is the site's, as the number is (D19): a scan is published once, and
        whoever is granted it later must find one graph with what was published for them before."""
        whose = subjects or {}
        tags = {self._key.keyed(f"uid|{self._site}|{uid}"): uid for uid in dict.fromkeys(uids)}
        minted, _ = await self._mint(
            _UIDS, {tag: Wanted(body=name_bytes(uid), subject=whose.get(uid)) for tag, uid in tags.items()}
        )
        return {tags[tag]: replacement for tag, replacement in minted.items()}

    async def aliases(self, identities: Iterable[Identity], *, number: str) -> Aliases:
        """Everything that may be written in the place of what these identities name: a pack's files in one go.
        Raises SubjectErased, before anything is minted, when one of them names a patient who was erased."""
        seen = list(identities)
        entities = list(dict.fromkeys(key for identity in seen for key in identity.entities))
        patients = [key for key in entities if key.startswith(PATIENT)]
        known_by = at_home(patients, await self._homes(patients))
        subjects = await self.mint_subjects([key.removeprefix(PATIENT) for key in known_by.values()], erased=False)
        by_key = {key: subjects[known_by[key].removeprefix(PATIENT)] for key in patients}
        whose = _whose(seen, by_key)
        if by_key and number:
            await self._tie(number, sorted({subject.pseudonym for subject in by_key.values()}))
        return Aliases(
            number=number,
            subjects=by_key,
            keys=await self.mint_keys((key for key in entities if not key.startswith(PATIENT)), subjects=whose),
            uids=await self.mint_uids((uid for identity in seen for uid in identity.uids), subjects=whose),
        )

    async def _homes(self, patients: Iterable[str]) -> dict[str, str]:
        """Of these patients' numbers whose they are where nobody says it; what nobody claimed is claimed now."""
        claimed = claims(patients)
        if not claimed:
            return {}
        numbers = {self._key.keyed(f"home|{self._site}|{number}"): number for number in claimed}
        issuers = {self._key.keyed(f"issuer|{self._site}|{one}"): one for one in {issued(key)[1] for key in patients}}
        tags = {one: tag for tag, one in issuers.items()}
        first = [tags[claimed[number]] for number in numbers.values()]
        values = {"site": self._site, "patients": list(numbers), "issuers": first}
        async with self._database.instance() as conn:
            rows = await (await conn.execute(_Q["homes"], values)).fetchall()
        return {numbers[bytes(row.patient)]: issuers.get(bytes(row.issuer), OF) for row in rows}

    async def _tie(self, number: str, subjects: list[str]) -> None:
        async with self._database.instance() as conn:
            await conn.execute(_Q["tie"], {"site": self._site, "number": number, "subjects": subjects})

    async def _mint(self, table: Table, wanted: Mapping[bytes, Wanted]) -> tuple[dict[bytes, str], set[bytes]]:
        """Insert-or-get: what stands for each tag, and the tags for which it was drawn now. In slices, each in the
        order of its lookups, so that two daemons never wait for each other in a circle."""
        ordered = sorted(wanted)
        minted: dict[bytes, str] = {}
        fresh: set[bytes] = set()
        for start in range(0, len(ordered), SEAL_LIMIT):
            some = {tag: wanted[tag] for tag in ordered[start : start + SEAL_LIMIT]}
            found, drawn = await self._mint_some(table, some)
            minted |= found
            fresh |= drawn
        return minted, fresh

    @_renewed
    async def _mint_some(self, table: Table, wanted: Mapping[bytes, Wanted]) -> tuple[dict[bytes, str], set[bytes]]:
        [kind] = {one.kind for one in wanted.values()}
        missing = wanted
        for _ in range(MINT_ATTEMPTS):
            found = await self._look(table, kind, list(wanted))
            missing = {tag: one for tag, one in wanted.items() if tag not in found}
            try:
                drawn = await self._insert(table, kind, missing) if missing else {}
            except UniqueViolation:
                continue  # what was drawn stands for another one already
            if len(found) + len(drawn) == len(wanted):
                return found | drawn, set(drawn)
        if any(one.drawn for one in missing.values()):
            raise VaultConflict(
                "another scan stands for the number that an imported crosswalk gave to files of this name",
                hint="Two files of one name, in two folders or of two contents: find out which of them the broker "
                "meant, before the one that has the number is used, and give the other file another name.",
            )
        raise VaultConflict(f"no free {table.name} was found", hint="The random source of this machine is broken.")

    async def _insert(self, table: Table, kind: str, wanted: Mapping[bytes, Wanted]) -> dict[bytes, str]:
        """Those of the tags that nobody else minted meanwhile, with what now stands for them."""
        public = self._public()
        sealer = public.sealer() if public is not None else None
        rows = [self._row(table, kind, tag, one, sealer) for tag, one in wanted.items()]
        lookups, before, drawn, bodies, copies, subjects = (list(column) for column in zip(*rows, strict=True))
        values = {
            "generation": self._key.generation, "table": table.name, "site": self._site, "kind": kind,
            "lookups": lookups, "before": before, "drawn": drawn, "bodies": bodies, "copies": copies,
            "subjects": subjects,
        }  # fmt: skip
        known = dict(zip(lookups, wanted, strict=True))
        async with self._database.instance() as conn:
            cursor = await conn.execute(_Q["mint"], values)
            return {known[bytes(row.lookup)]: str(row.drawn) for row in await cursor.fetchall()}

    def _row(self, table: Table, kind: str, tag: bytes, one: Wanted, sealer: CopySealer | None) -> tuple[object, ...]:
        """Lookup, lookup before, what is drawn, body, copy, subject. With two sealed key files the original stands in
        the copy alone."""
        lookups = self._key.lookups(tag)
        drawn = one.drawn or table.draw()
        where = place(table.name, self._site, drawn if table is SUBJECTS else kind, lookups[0])
        kept = one.daily if sealer is not None else one.daily_alone or one.body
        body = self._key.seal(kept, place=where) if kept else b""
        copy = sealer.seal(one.body, place=copy_place(table.name, self._site, drawn)) if sealer is not None else None
        return lookups[0], lookups[-1], drawn, body, copy, one.subject

    @_renewed
    async def _look(self, table: Table, kind: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        async with self._database.instance() as conn:
            known = self._known(tags)
            return {known[bytes(row.lookup)]: str(row.drawn) for row in await self._rows(conn, table, kind, known)}

    async def _rows(self, conn: Connection, table: Table, kind: str, lookups: Iterable[bytes]) -> list[Any]:
        values = {
            "generation": self._key.generation, "table": table.name, "site": self._site, "kind": kind,
            "lookups": list(lookups),
        }  # fmt: skip
        return await (await conn.execute(_Q["find"], values)).fetchall()

    def _known(self, tags: Iterable[bytes]) -> dict[bytes, bytes]:
        """Tags by every lookup under which their rows may stand."""
        return {lookup: tag for tag in tags for lookup in self._key.lookups(tag)}

    @_renewed
    async def _mint_subjects(self, names: list[str], *, erased: bool) -> dict[str, Subject]:
        tags = {self.subject_tag(name): name for name in names}
        found = await self._subjects(list(tags))
        missing = sorted(set(tags) - set(found))
        if missing and erased:
            stones = await self._look(_TOMBSTONES, "subject", missing)
            found |= {tag: Subject(new_pseudonym(), new_offset_days()) for tag in stones}
            missing = [tag for tag in missing if tag not in stones]
        if missing:
            wanted = {tag: self._wanted_subject(tags[tag], new_offset_days()) for tag in missing}
            await self._mint_some(SUBJECTS, wanted)
            found |= await self._subjects(missing)
        return {name: found[tag] for tag, name in tags.items()}

    async def _subjects(self, tags: list[bytes]) -> dict[bytes, Subject]:
        async with self._database.instance() as conn:
            known = self._known(tags)
            found = {}
            for row in await self._rows(conn, SUBJECTS, "", known):
                where = place("subject", self._site, row.drawn, bytes(row.lookup))
                body = self._key.open(bytes(row.body), place=where, generation=row.generation)
                sealed = msgspec.msgpack.decode(body, type=int | SealedSubject)
                offset_days = sealed if isinstance(sealed, int) else sealed.offset_days
                found[known[bytes(row.lookup)]] = Subject(row.drawn, offset_days)
        return found

    # --- another's crosswalk ----------------------------------------------------------------------------------

    @_renewed
    async def known_subjects(self, names: Sequence[str]) -> tuple[dict[str, tuple[str, int]], set[str]]:
        """Of these patients, pseudonym and offset of those who have one, and those who were erased."""
        tags = {self.subject_tag(name): name for name in names}
        found = await self._subjects(list(tags))
        stones = await self._look(_TOMBSTONES, "subject", list(tags))
        known = {tags[tag]: (one.pseudonym, one.offset_days) for tag, one in found.items()}
        return known, {tags[tag] for tag in stones}

    async def known_promises(self, file_names: Sequence[str]) -> dict[str, str]:
        tags = {self.promise_tag(name): name for name in file_names}
        return {tags[tag]: number for tag, number in (await self._look(_PROMISES, "", list(tags))).items()}

    @_renewed
    async def take_subjects(self, given: Mapping[str, tuple[str, int]]) -> int:
        """Patients with the pseudonyms and offsets that somebody else gave them; how many were new."""
        wanted = {
            self.subject_tag(name): self._wanted_subject(name, offset_days, pseudonym)
            for name, (pseudonym, offset_days) in sorted(given.items())
        }
        return len(await self._insert(SUBJECTS, "", wanted)) if wanted else 0

    @_renewed
    async def take_promises(self, given: Mapping[str, str]) -> int:
        """Numbers for files that come later; how many were new."""
        wanted = {self.promise_tag(name): Wanted(body=b"", drawn=number) for name, number in sorted(given.items())}
        return len(await self._insert(_PROMISES, "", wanted)) if wanted else 0

    def _wanted_subject(self, name: str, offset_days: int, pseudonym: str | None = None) -> Wanted:
        """Dates are moved every day; whose they are is told to two."""
        return Wanted(
            body=name_bytes(name),
            daily=msgspec.msgpack.encode(offset_days),
            daily_alone=msgspec.msgpack.encode(SealedSubject(offset_days, name_bytes(name))),
            drawn=pseudonym,
        )

    def subject_tag(self, name: str) -> bytes:
        return self._key.keyed(f"subject|{self._site}|{one_gap(name)}")

    def promise_tag(self, file_name: str) -> bytes:
        return self._key.keyed(f"promise|{self._site}|{file_name}")

    def _number_tag(self, source_digest: str) -> bytes:
        return self._key.keyed(f"number|{self._site}|{source_digest}")


class Wanted(Struct, frozen=True, kw_only=True):
    """One row to mint: `body` is the original. `daily` is what the work itself opens, and `daily_alone` the same where
    no two key files are there to seal the original for."""

    kind: str = ""
    body: bytes
    daily: bytes = b""
    daily_alone: bytes = b""
    drawn: str | None = None
    subject: str | None = None


class Table(Struct, frozen=True):
    """One kind of insert-or-get."""

    name: str
    draw: Callable[[], str]


def new_pseudonym() -> str:
    return "S" + encode_base32(int.from_bytes(random_bytes(10), "big"), length=16)


SUBJECTS = Table("subject", lambda: new_pseudonym())
_NUMBERS = Table("number", lambda: new_number())
_ENTITIES = Table("entity", lambda: new_number())
_UIDS = Table("uid", lambda: new_uid())
_PROMISES = Table("promise", lambda: new_number())
_TOMBSTONES = Table("tombstone", lambda: "")


class SealedSubject(Struct, frozen=True, array_like=True):
    """What stands sealed beside a pseudonym where there are no two key files; with them, the offset alone does."""

    offset_days: int
    name: bytes


class ClosedVault(Vault):
    """What a clean process has instead of the vault: no key, no connection, and a refusal that says who has."""

    def __init__(self) -> None:
        """Nothing to open."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise Denied(
            "this process serves the deidentified zone and has no vault",
            hint="Ask the process of the identified zone (mover-identified.service).",
        )


def _file_names(body: bytes) -> list[str]:
    """The names under which an imported crosswalk may know a scan: with and without its extension."""
    try:
        names = [canonical_name(name) for name in decode_names(body)]
    except (msgspec.DecodeError, ValueError):
        return []
    return list(dict.fromkeys(one for name in names for one in (name, name.rpartition(".")[0]) if one))


def _whose(identities: Sequence[Identity], subjects: Mapping[str, Subject]) -> dict[str, str]:
    """Of keys and UIDs, whose they are: the one patient of every file that names them. Of two it is nobody's."""
    whose: dict[str, set[str]] = {}
    for identity in identities:
        owners = {subjects[key].pseudonym for key in identity.entities if key in subjects}
        for name in (*identity.entities, *identity.uids):
            whose.setdefault(name, set()).update(owners)
    return {name: next(iter(owners)) for name, owners in whose.items() if len(owners) == 1}


def place(table: str, owner: str, kind: str, lookup: bytes) -> bytes:
    return f"{table}|{owner}|{kind}|{lookup.hex()}".encode()


def copy_place(table: str, site: str, drawn: str) -> bytes:
    """A copy is bound to what it tells the original of; a re-key does not touch it."""
    return f"copy|{table}|{site}|{drawn}".encode()
