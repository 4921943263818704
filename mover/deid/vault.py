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
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from psycopg.errors import UniqueViolation

from mover import audit, metrics
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.deid.identity import Subject
from mover.errors import Denied, NotFound, RequestInvalid, SettingsInvalid, VaultConflict
from mover.model.ids import encode_base32
from mover.randomness import new_id, new_number, random_bytes

KEY_BYTES = 32
NONCE_BYTES = 12
SEAL_LIMIT = 1000  # rows of one statement
UNSEAL_LIMIT = 10_000  # names opened by one audit record
MINT_ATTEMPTS = 5  # collisions of 80 random bits in a row: never, unless the random source is broken
OFFSET_DAYS = 365

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

    async def mint_number(self, source_digest: str, *, body: bytes) -> tuple[str, bool]:
        """The site's number of this scan and whether it was minted now. Two daemons that scan the same
        bytes get the same number; committed on return."""
        lookup = self._number_lookup(source_digest)
        sealed = self._key.seal(body, place=_place("number", self._site, "", lookup))
        for _ in range(MINT_ATTEMPTS):
            try:
                minted = await self._insert_number(lookup, sealed)
            except UniqueViolation:
                continue  # another scan has this number
            if minted:
                return minted, True
            found = await self.find_number(source_digest)
            if found:
                return found, False
        raise VaultConflict("no free slide number was found", hint="The random source of this machine is broken.")

    async def _insert_number(self, lookup: bytes, sealed: bytes) -> str | None:
        values = {"site": self._site, "lookup": lookup, "number": new_number(), "body": sealed}
        async with self._database.instance() as conn:
            row = await (await conn.execute(_Q["insert_number"], values)).fetchone()
        return str(row.number) if row else None

    async def find_number(self, source_digest: str) -> str | None:
        """The number of a scan that has one; mints nothing."""
        values = {"site": self._site, "lookup": self._number_lookup(source_digest)}
        async with self._database.instance() as conn:
            row = await (await conn.execute(_Q["find_number"], values)).fetchone()
        return str(row.number) if row else None

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

    async def _mint_subjects(self, names: list[str]) -> dict[str, Subject]:
        lookups = {self._key.keyed(f"subject|{self._site}|{name}"): name for name in names}
        async with self._database.instance() as conn:
            found = await self._subjects(conn, list(lookups))
            missing = sorted(set(lookups) - set(found))
            if missing:
                await conn.cursor().executemany(_Q["insert_subject"], [self._new_subject(key) for key in missing])
                found |= await self._subjects(conn, missing)
        return {name: found[lookup] for lookup, name in lookups.items()}

    async def _subjects(self, conn: Connection, lookups: list[bytes]) -> dict[bytes, Subject]:
        cursor = await conn.execute(_Q["find_subjects"], {"site": self._site, "lookups": lookups})
        found = {}
        for row in await cursor.fetchall():
            body = self._key.open(row.body, place=_place("subject", self._site, row.pseudonym, row.lookup))
            found[bytes(row.lookup)] = Subject(row.pseudonym, msgspec.msgpack.decode(body, type=int))
        return found

    def _new_subject(self, lookup: bytes) -> dict[str, object]:
        pseudonym = "S" + encode_base32(int.from_bytes(random_bytes(10), "big"), length=16)
        body = msgspec.msgpack.encode(_random_offset_days())
        sealed = self._key.seal(body, place=_place("subject", self._site, pseudonym, lookup))
        return {"site": self._site, "lookup": lookup, "pseudonym": pseudonym, "body": sealed}

    def _sealed_lookup(self, project: str, kind: str, text: str) -> bytes:
        return self._key.keyed(f"sealed|{project}|{kind}|{text}")

    def _number_lookup(self, source_digest: str) -> bytes:
        return self._key.keyed(f"number|{self._site}|{source_digest}")

    async def _find_some(self, conn: Connection, project: str, kind: str, lookups: list[bytes]) -> dict[bytes, str]:
        cursor = await conn.execute(_Q["find_sealed"], {"project": project, "kind": kind, "lookups": lookups})
        return {bytes(row.lookup): row.id for row in await cursor.fetchall()}


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


def _random_offset_days() -> int:
    """Never zero: between one day and a year, earlier or later. 64 bits make the modulo's bias invisible."""
    drawn = int.from_bytes(random_bytes(8), "big") % (2 * OFFSET_DAYS)
    return drawn - OFFSET_DAYS if drawn < OFFSET_DAYS else drawn - OFFSET_DAYS + 1
