"""The vault: where original names and numbers are tied (D10, D19).

Every body is sealed with AES-256-GCM under a random nonce; its place (table, owner, kind, lookup) is
associated data, so a row copied to another place does not open. Lookups are keyed hashes: the database can
find a row again but cannot try names. The two keys are derived from one secret file that the database never
sees.

A number or a sealed name is committed before anything refers to it: a crash between leaves a row in the
vault that nobody points at, never a reference to nothing. Opening names is `unseal`, and only together with
its audit record.
"""

from __future__ import annotations

import hmac
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct
from psycopg.errors import UniqueViolation

from mover import audit, metrics
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.deid.identity import Aliases, Identity, Subject
from mover.errors import Denied, NotFound, RequestInvalid, SettingsInvalid, VaultConflict
from mover.model.ids import encode_base32
from mover.model.names import name_bytes
from mover.randomness import new_id, new_number, new_offset_days, new_uid, random_bytes

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_LIMIT = 1000  # rows of one statement
UNSEAL_LIMIT = 10_000  # names opened by one audit record
MINT_ATTEMPTS = 5  # collisions of 80 random bits in a row: never, unless the random source is broken
KEY_KINDS = ("case", "block", "slide")
PATIENT = "patient|"  # before a patient's text in an entity key; the vault's subjects are found by the text alone

_Q = queries.load(__file__)


class VaultKey:
    """The vault's two keys. Losing the file loses the crosswalk for ever: it is backed up apart from the
    database."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise SettingsInvalid(f"a vault key is {KEY_BYTES} bytes long")
        self._sealing = AESGCM(_derive(secret, b"mover vault sealing 1"))
        self._lookup = _derive(secret, b"mover vault lookup 1")

    @classmethod
    def create(cls, path: Path) -> VaultKey:
        """A new key file, 0600. An existing one is never overwritten. Written aside, synced, then linked to its
        name: a kill leaves no key or a whole one, never a short one that would be taken for damage."""
        secret = random_bytes(KEY_BYTES)
        side = path.with_name(f"{path.name}.new-{os.getpid()}")
        side.unlink(missing_ok=True)
        handle = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(side, path)
        except FileExistsError as error:
            raise SettingsInvalid("there is a vault key already; it was left as it is", where=str(path)) from error
        finally:
            side.unlink()
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return cls(secret)

    @classmethod
    def load(cls, path: Path) -> VaultKey:
        """Refuses a file that anybody but its owner could have read."""
        try:
            with open(path, "rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise SettingsInvalid(
                        "the vault key can be read by others", where=str(path), hint=f"chmod 600 {path}"
                    )
                return cls(file.read(KEY_BYTES + 1))
        except OSError as error:
            raise SettingsInvalid(
                "the vault key cannot be read", where=str(path),
                hint="`mover init` makes one for a new site. For an old site put the backed-up key back: "
                "without it the crosswalk cannot be opened.",
            ) from error  # fmt: skip

    def seal(self, body: bytes, *, place: bytes) -> bytes:
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, body, place)

    def open(self, sealed: bytes, *, place: bytes) -> bytes:
        """Raises VaultConflict when the row was changed, moved, or sealed under another key."""
        try:
            return self._sealing.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except InvalidTag as error:
            raise VaultConflict(
                "a sealed row does not open", hint="Was the vault key replaced, or the row moved or edited?"
            ) from error

    def keyed(self, text: str) -> bytes:
        """The same text always gives the same 32 bytes, and nobody without the key can try texts."""
        return hmac.digest(self._lookup, text.encode("utf-8", "surrogateescape"), sha256)


class Vault:
    """`database` is opened with the vault's own DSN: its role sees no ordinary table."""

    def __init__(self, database: Database, key: VaultKey, *, site: str, node: str) -> None:
        self._database = database
        self._key = key
        self._site = site
        self._node = node

    def keyed(self, text: str) -> bytes:
        return self._key.keyed(text)

    async def seal_many(self, project: str, kind: str, items: Sequence[tuple[str, bytes]]) -> list[str]:
        """The ids of the rows for `(lookup, body)` pairs, in their order: made, or the ones that were there
        (whose bodies stay). Committed on return, so the catalog may refer to them."""
        ids: list[str] = []
        for start in range(0, len(items), SEAL_LIMIT):
            ids += await self._seal_some(project, kind, items[start : start + SEAL_LIMIT])
        return ids

    async def _seal_some(self, project: str, kind: str, items: Sequence[tuple[str, bytes]]) -> list[str]:
        lookups = [self._sealed_lookup(project, kind, text) for text, _ in items]
        bodies: dict[bytes, bytes] = {}
        for lookup, (_, body) in zip(lookups, items, strict=True):
            bodies.setdefault(lookup, self._key.seal(body, place=_place("sealed", project, kind, lookup)))
        rows = {
            "ids": [new_id("sealed") for _ in bodies], "projects": [project] * len(bodies),
            "kinds": [kind] * len(bodies), "lookups": list(bodies), "bodies": list(bodies.values()),
        }  # fmt: skip
        async with self._database.project(project) as conn:
            await conn.execute(_Q["insert_sealed"], rows)
            found = await self._find_some(conn, project, kind, list(bodies))
        return [found[lookup] for lookup in lookups]

    async def find(self, project: str, kind: str, lookup: str) -> str | None:
        """The id of what was sealed under this lookup. Opens nothing, so it leaves no audit record."""
        key = self._sealed_lookup(project, kind, lookup)
        async with self._database.project(project) as conn:
            return (await self._find_some(conn, project, kind, [key])).get(key)

    async def find_many(self, project: str, kind: str, lookups: Sequence[str]) -> set[str]:
        """Those of the lookups under which something was sealed. Opens nothing, so it leaves no audit record."""
        found: set[str] = set()
        for start in range(0, len(lookups), SEAL_LIMIT):
            keys = {self._sealed_lookup(project, kind, text): text for text in lookups[start : start + SEAL_LIMIT]}
            async with self._database.project(project) as conn:
                found |= {keys[key] for key in await self._find_some(conn, project, kind, list(keys))}
        return found

    def tag(self, project: str, kind: str, lookup: str) -> bytes:
        """What a sealed row is found by: the same for the same lookup, and useless for trying names."""
        return self._sealed_lookup(project, kind, lookup)

    async def find_tags(self, project: str, kind: str, tags: Sequence[bytes]) -> dict[bytes, str]:
        """The ids of the rows that were sealed under these tags. Opens nothing, so it leaves no audit record."""
        found: dict[bytes, str] = {}
        for start in range(0, len(tags), SEAL_LIMIT):
            async with self._database.project(project) as conn:
                found |= await self._find_some(conn, project, kind, list(tags[start : start + SEAL_LIMIT]))
        return found

    async def unseal(self, project: str, ids: Sequence[str], *, purpose: str, actor: str) -> dict[str, bytes]:
        """The bodies by id. Who looked, why, and at what is recorded in the same transaction: no record, no
        look. Raises NotFound when an id is not this project's."""
        wanted = sorted(set(ids))
        if not purpose.strip() or len(wanted) > UNSEAL_LIMIT:
            raise RequestInvalid(f"opening names needs a purpose and at most {UNSEAL_LIMIT} ids at once")
        if not wanted:
            return {}
        async with self._database.project(project) as conn:
            cursor = await conn.execute(_Q["read_sealed"], {"project": project, "ids": wanted})
            rows = await cursor.fetchall()
            if len(rows) != len(wanted):
                raise NotFound(f"{len(wanted) - len(rows)} of {len(wanted)} sealed ids are not known in this project")
            bodies = {
                row.id: self._key.open(row.body, place=_place("sealed", project, row.kind, row.lookup)) for row in rows
            }
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action="unseal", reason=purpose,
                subject=wanted[0] if len(wanted) == 1 else "sealed", details={"ids": wanted},
            )  # fmt: skip
        metrics.VAULT_LOOKS.inc()
        return bodies

    # --- minting: insert-or-get, committed on return ----------------------------------------------------------

    async def mint_number(self, source_digest: str, *, body: bytes) -> tuple[str, bool]:
        """The site's number of this scan and whether it was minted now. Two daemons that scan the same
        bytes get the same number; committed on return."""
        minted, fresh = await self._mint(_NUMBERS, {self._number_lookup(source_digest): ("", body)})
        [(lookup, number)] = minted.items()
        return number, lookup in fresh

    async def mint_numbers(self, scans: Mapping[str, bytes]) -> dict[str, str]:
        """The numbers of many scans, in few statements: source digest and what to seal beside a new number."""
        wanted = {self._number_lookup(digest): ("", body) for digest, body in scans.items()}
        minted, _ = await self._mint(_NUMBERS, wanted)
        return {digest: minted[self._number_lookup(digest)] for digest in scans}

    async def find_number(self, source_digest: str) -> str | None:
        """The number of a scan that has one; mints nothing."""
        lookup = self._number_lookup(source_digest)
        async with self._database.instance() as conn:
            return (await self._found(conn, _NUMBERS, "", [lookup])).get(lookup)

    async def mint_subject(self, patient: str) -> tuple[str, int]:
        """The patient's pseudonym and date offset in days; the same at every call and for every project."""
        subject = (await self.mint_subjects([patient]))[patient]
        return subject.pseudonym, subject.offset_days

    async def mint_subjects(self, patients: Sequence[str]) -> dict[str, Subject]:
        """The same for many patients, in few transactions. The records that use it audit their own shard."""
        names = list(dict.fromkeys(patients))
        minted: dict[str, Subject] = {}
        for start in range(0, len(names), SEAL_LIMIT):
            minted |= await self._mint_subjects(names[start : start + SEAL_LIMIT])
        return minted

    async def mint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """What stands for cases, blocks and slides, by their `entity_key`; the same for every project of the site."""
        wanted: dict[str, dict[bytes, tuple[str, bytes]]] = {}
        lookups: dict[bytes, str] = {}
        for key in dict.fromkeys(keys):
            kind, lookup = key.partition("|")[0], self._key.keyed(f"entity|{self._site}|{key}")
            if kind not in KEY_KINDS:
                raise RequestInvalid(f"keys are minted for {', '.join(KEY_KINDS)}; patients are subjects")
            lookups[lookup] = key
            wanted.setdefault(kind, {})[lookup] = (kind, name_bytes(key))
        minted: dict[bytes, str] = {}
        for kind in sorted(wanted):
            minted |= (await self._mint(_ENTITIES, wanted[kind]))[0]
        return {lookups[lookup]: pseudonym for lookup, pseudonym in minted.items()}

    async def mint_uids(self, uids: Iterable[str]) -> dict[str, str]:
        """What stands for DICOM UIDs. The map is the site's, as the number is (D19): a scan is published once, and
        whoever is granted it later must find one graph with what was published for them before."""
        lookups = {self._key.keyed(f"uid|{self._site}|{uid}"): uid for uid in dict.fromkeys(uids)}
        minted, _ = await self._mint(_UIDS, {lookup: ("", name_bytes(uid)) for lookup, uid in lookups.items()})
        return {lookups[lookup]: replacement for lookup, replacement in minted.items()}

    async def aliases(self, identities: Iterable[Identity], *, number: str) -> Aliases:
        """Everything that may be written in the place of what these identities name: a pack's files in one go."""
        entities = list(dict.fromkeys(key for identity in identities for key in identity.entities))
        patients = [key for key in entities if key.startswith(PATIENT)]
        subjects = await self.mint_subjects([key.removeprefix(PATIENT) for key in patients])
        return Aliases(
            number=number,
            subjects={key: subjects[key.removeprefix(PATIENT)] for key in patients},
            keys=await self.mint_keys(key for key in entities if not key.startswith(PATIENT)),
            uids=await self.mint_uids(uid for identity in identities for uid in identity.uids),
        )

    async def _mint(
        self, table: _Table, wanted: Mapping[bytes, tuple[str, bytes]]
    ) -> tuple[dict[bytes, str], set[bytes]]:
        """Insert-or-get: what stands for each lookup, and the lookups for which it was drawn now. In slices, each
        in the order of its lookups, so that two daemons never wait for each other in a circle."""
        ordered = sorted(wanted)
        minted: dict[bytes, str] = {}
        fresh: set[bytes] = set()
        for start in range(0, len(ordered), SEAL_LIMIT):
            some = {lookup: wanted[lookup] for lookup in ordered[start : start + SEAL_LIMIT]}
            found, drawn = await self._mint_some(table, some)
            minted |= found
            fresh |= drawn
        return minted, fresh

    async def _mint_some(
        self, table: _Table, wanted: Mapping[bytes, tuple[str, bytes]]
    ) -> tuple[dict[bytes, str], set[bytes]]:
        [kind] = {kind for kind, _ in wanted.values()}
        for _ in range(MINT_ATTEMPTS):
            async with self._database.instance() as conn:
                found = await self._found(conn, table, kind, list(wanted))
            missing = {lookup: body for lookup, (_, body) in wanted.items() if lookup not in found}
            try:
                drawn = await self._insert(table, kind, missing) if missing else {}
            except UniqueViolation:
                continue  # what was drawn stands for another one already
            if len(found) + len(drawn) == len(wanted):
                return found | drawn, set(drawn)
        raise VaultConflict(f"no free {table.name} was found", hint="The random source of this machine is broken.")

    async def _insert(self, table: _Table, kind: str, bodies: Mapping[bytes, bytes]) -> dict[bytes, str]:
        """Those of the lookups that nobody else minted meanwhile, with what now stands for them."""
        values = {
            "site": self._site, "kind": kind, "lookups": list(bodies), "drawn": [table.draw() for _ in bodies],
            "bodies": [
                self._key.seal(body, place=_place(table.name, self._site, kind, lookup))
                for lookup, body in bodies.items()
            ],
        }  # fmt: skip
        async with self._database.instance() as conn:
            cursor = await conn.execute(_Q[f"insert_{table.name}"], values)
            return {bytes(row.lookup): str(row.drawn) for row in await cursor.fetchall()}

    async def _found(self, conn: Connection, table: _Table, kind: str, lookups: list[bytes]) -> dict[bytes, str]:
        values = {"site": self._site, "kind": kind, "lookups": lookups}
        cursor = await conn.execute(_Q[f"find_{table.name}"], values)
        return {bytes(row.lookup): str(row.drawn) for row in await cursor.fetchall()}

    async def _mint_subjects(self, names: list[str]) -> dict[str, Subject]:
        lookups = {self._key.keyed(f"subject|{self._site}|{name}"): name for name in names}
        async with self._database.instance() as conn:
            found = await self._subjects(conn, list(lookups))
            missing = sorted(set(lookups) - set(found))
            if missing:
                new = [self._new_subject(key, lookups[key]) for key in missing]
                await conn.cursor().executemany(_Q["insert_subject"], new)
                found |= await self._subjects(conn, missing)
        return {name: found[lookup] for lookup, name in lookups.items()}

    async def _subjects(self, conn: Connection, lookups: list[bytes]) -> dict[bytes, Subject]:
        cursor = await conn.execute(_Q["find_subjects"], {"site": self._site, "lookups": lookups})
        found = {}
        for row in await cursor.fetchall():
            body = self._key.open(row.body, place=_place("subject", self._site, row.pseudonym, row.lookup))
            sealed = msgspec.msgpack.decode(body, type=int | _SealedSubject)
            offset_days = sealed if isinstance(sealed, int) else sealed.offset_days
            found[bytes(row.lookup)] = Subject(row.pseudonym, offset_days)
        return found

    def _new_subject(self, lookup: bytes, name: str) -> dict[str, object]:
        pseudonym = "S" + encode_base32(int.from_bytes(random_bytes(10), "big"), length=16)
        body = msgspec.msgpack.encode(_SealedSubject(new_offset_days(), name_bytes(name)))
        sealed = self._key.seal(body, place=_place("subject", self._site, pseudonym, lookup))
        return {"site": self._site, "lookup": lookup, "pseudonym": pseudonym, "body": sealed}

    def _sealed_lookup(self, project: str, kind: str, text: str) -> bytes:
        return self._key.keyed(f"sealed|{project}|{kind}|{text}")

    def _number_lookup(self, source_digest: str) -> bytes:
        return self._key.keyed(f"number|{self._site}|{source_digest}")

    async def _find_some(self, conn: Connection, project: str, kind: str, lookups: list[bytes]) -> dict[bytes, str]:
        cursor = await conn.execute(_Q["find_sealed"], {"project": project, "kind": kind, "lookups": lookups})
        return {bytes(row.lookup): row.id for row in await cursor.fetchall()}


class _Table(Struct, frozen=True):
    """One kind of insert-or-get: its statements are `insert_<name>` and `find_<name>`."""

    name: str
    draw: Callable[[], str]


_NUMBERS = _Table("number", lambda: new_number())
_ENTITIES = _Table("entity", lambda: new_number())
_UIDS = _Table("uid", lambda: new_uid())


class _SealedSubject(Struct, frozen=True, array_like=True):
    """What stands sealed beside a pseudonym; rows of the first form hold the offset alone."""

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


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)


def _place(table: str, owner: str, kind: str, lookup: bytes) -> bytes:
    return f"{table}|{owner}|{kind}|{lookup.hex()}".encode()
