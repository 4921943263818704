"""The vault's keys: the everyday key that finds and seals, and the pair of files that only together reveal.

**The everyday key** is one secret file the database never sees. A re-key makes its successor: a new secret, and the
lookup keys of all generations before, because a lookup of generation n is the keyed hash of the lookup of generation
n - 1. So rows can be re-keyed whose text nobody has any more, and who holds an old key cannot try names against new
rows. Until the re-key ends the successor also holds the secret before it: it opens both.

**The pair**: what `reveal` and `export` open is sealed to a public key (X25519, HKDF-SHA-256, AES-256-GCM) whose
private part is the XOR of two files. Each alone is a random number. The daemon holds the public part only, so no
copy can be opened where it runs; a request proves by its signature (Ed25519, of the same secret) that the asker holds
both.
"""

from __future__ import annotations

import hmac
import os
import pwd
import stat
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from mover import wholefile
from mover.errors import Denied, SettingsInvalid, VaultConflict
from mover.randomness import random_bytes

KEY_BYTES = 32
NONCE_BYTES = 12
PAIR_BYTES = 8
GENERATIONS = 1000  # re-keys of one vault
FILE_BYTES = 1 << 17

T = TypeVar("T", bound=Struct)


class VaultKey:
    """The everyday key. Losing the file loses the crosswalk for ever: it is backed up apart from the database."""

    def __init__(self, secret: bytes, *, lookups: tuple[bytes, ...] = (), before: bytes | None = None) -> None:
        if {len(one) for one in (secret, *lookups, before or secret)} != {KEY_BYTES}:
            raise SettingsInvalid(f"a vault key is {KEY_BYTES} bytes long")
        self._secret, self._before = secret, before
        self._lookups = (*lookups, _derive(secret, b"mover vault lookup 1"))
        self.generation = len(self._lookups)
        self._sealing = {self.generation: AESGCM(_derive(secret, b"mover vault sealing 1"))}
        if before is not None:
            self._sealing[self.generation - 1] = AESGCM(_derive(before, b"mover vault sealing 1"))

    # --- files

    @classmethod
    def create(cls, path: Path) -> VaultKey:
        """A new key file, 0600. An existing one is never overwritten."""
        secret = random_bytes(KEY_BYTES)
        write_new(path, secret)
        return cls(secret)

    @classmethod
    def load(cls, path: Path) -> VaultKey:
        """Refuses a file that anybody but its owner could have read."""
        raw = read_private(path, what="vault key", hint=(
            "`mover init` makes one for a new site. For an old site put the backed-up key back: "
            "without it the crosswalk cannot be opened."
        ))  # fmt: skip
        if not raw.startswith(b"{"):
            return cls(raw)
        file = decode_file(raw, _KeyFile, where=path)
        if len(file.lookups) > GENERATIONS:
            raise SettingsInvalid("the vault key holds too many generations", where=str(path))
        return cls(file.secret, lookups=file.lookups, before=file.before)

    @classmethod
    def newest(cls, path: Path) -> VaultKey:
        """The key at `path`, or its successor beside it while the vault is re-keyed."""
        following = next_path(path)
        return cls.load(following if following.exists() else path)

    @classmethod
    def another(cls, path: Path, generation: int) -> VaultKey:
        """The key at `path` or beside it that is of another generation, if one is: a re-key that was called off before
        it began leaves a successor that nobody uses yet."""
        found = [cls.load(one) for one in (next_path(path), path) if one.exists()]
        return next((key for key in found if key.generation != generation), None) or cls.load(path)

    def successor(self) -> VaultKey:
        return VaultKey(random_bytes(KEY_BYTES), lookups=self._lookups, before=self._secret)

    def retired(self) -> VaultKey:
        """The same key without the secret before it: when no row needs that any more."""
        return VaultKey(self._secret, lookups=self._lookups[:-1])

    def follows(self, other: VaultKey) -> bool:
        return self._lookups[:-1] == other._lookups

    def holds_before(self) -> bool:
        return self._before is not None

    def to_file(self) -> bytes:
        return encode_file(_KeyFile(secret=self._secret, lookups=self._lookups[:-1], before=self._before))

    # --- sealing

    def seal(self, body: bytes, *, place: bytes) -> bytes:
        nonce = random_bytes(NONCE_BYTES)
        return nonce + self._sealing[self.generation].encrypt(nonce, body, place)

    def open(self, sealed: bytes, *, place: bytes, generation: int | None = None) -> bytes:
        """Raises VaultConflict when the row was changed, moved, or sealed under another key."""
        sealing = self._sealing.get(self.generation if generation is None else generation)
        try:
            if sealing is not None:
                return sealing.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except InvalidTag as error:
            raise _unopened() from error
        raise _unopened()

    # --- finding

    def keyed(self, text: str) -> bytes:
        """The same text always gives the same 32 bytes, whatever was re-keyed, and nobody without the key can try
        texts. Tags that the catalog holds are these."""
        return hmac.digest(self._lookups[0], text.encode("utf-8", "surrogateescape"), sha256)

    def lookup(self, tag: bytes, *, generation: int | None = None, since: int = 1) -> bytes:
        """By what the row of a tag is found under a generation; `tag` may be the lookup of generation `since`."""
        for key in self._lookups[since : self.generation if generation is None else generation]:
            tag = hmac.digest(key, tag, sha256)
        return tag

    def check(self, *, generation: int | None = None) -> bytes:
        """By what the vault knows its key."""
        return self.lookup(self.keyed("mover vault key check"), generation=generation)

    def lookups(self, tag: bytes) -> tuple[bytes, ...]:
        """Under this generation, and under the one before while rows of it may stand."""
        if self._before is None:
            return (self.lookup(tag),)
        before = self.lookup(tag, generation=self.generation - 1)
        return (hmac.digest(self._lookups[-1], before, sha256), before)


class PublicKey:
    """The daemon's part of the pair: seals copies, checks signatures, opens nothing."""

    def __init__(self, file: PublicFile) -> None:
        self.file = file
        self.pair = pair_of(file)
        self._seal_to = X25519PublicKey.from_public_bytes(file.opens)
        self._signed_by = Ed25519PublicKey.from_public_bytes(file.signs)

    @classmethod
    def load(cls, path: Path) -> PublicKey | None:
        """None when this site has no pair yet."""
        try:
            raw = path.read_bytes()[:FILE_BYTES]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SettingsInvalid("the public part of the two key files cannot be read", where=str(path)) from error
        return cls(decode_file(raw, PublicFile, where=path))

    def sealer(self) -> CopySealer:
        return CopySealer(self.pair, self._seal_to)

    def agree(self, purpose: bytes) -> tuple[bytes, bytes]:
        """An ephemeral public key to write down, and the key that it makes with the pair: only who holds both files
        makes it again (`RevealKey.agreed`)."""
        ephemeral = X25519PrivateKey.generate()
        mine = ephemeral.public_key().public_bytes_raw()
        return mine, _copy_key(ephemeral.exchange(self._seal_to), mine, self.file.opens, purpose)

    def is_signed(self, signature: bytes, message: bytes) -> bool:
        try:
            self._signed_by.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class PublicPart:
    """The public part as it stands in its file now: a new pair holds from the next slice on, without a restart."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._key: PublicKey | None = None

    def __call__(self) -> PublicKey | None:
        try:
            facts = self.path.stat()
        except FileNotFoundError:
            if self._key is not None:
                raise SettingsInvalid(
                    "the public part of the two key files is gone", where=str(self.path), hint="Put it back."
                ) from None
            return None
        seen = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if seen != self._seen:
            self._key, self._seen = PublicKey.load(self.path), seen
        return self._key


class CopySealer:
    """Seals the copies of one slice of rows: one ephemeral key, a random nonce for each."""

    def __init__(self, pair: bytes, public: X25519PublicKey) -> None:
        ephemeral = X25519PrivateKey.generate()
        mine, theirs = ephemeral.public_key().public_bytes_raw(), public.public_bytes_raw()
        self._head = pair + mine
        self._key = AESGCM(_copy_key(ephemeral.exchange(public), mine, theirs))

    def seal(self, body: bytes, *, place: bytes) -> bytes:
        nonce = random_bytes(NONCE_BYTES)
        return self._head + nonce + self._key.encrypt(nonce, body, place)


class RevealKey:
    """Both files together. It exists where a custodian asks, for as long as the answer takes."""

    def __init__(self, secret: bytes) -> None:
        self._opens = X25519PrivateKey.from_private_bytes(_derive(secret, b"mover vault reveal opens 1"))
        self._signs = Ed25519PrivateKey.from_private_bytes(_derive(secret, b"mover vault reveal signs 1"))
        self.public = PublicFile(
            opens=self._opens.public_key().public_bytes_raw(), signs=self._signs.public_key().public_bytes_raw()
        )
        self.pair = pair_of(self.public)

    @classmethod
    def join(cls, a: Path, b: Path) -> RevealKey:
        """Raises Denied when the two files are not the two of one pair."""
        one, other = (decode_file(read_private(path, what="key file"), ShareFile, where=path) for path in (a, b))
        if one.share == other.share:
            raise Denied("both are the same one of the two key files", hint="Reveal needs one of each of two persons.")
        key = cls(bytes(x ^ y for x, y in zip(one.secret, other.secret, strict=True)))
        if one.pair != key.pair or other.pair != key.pair:
            raise Denied("the two key files are not of one pair", hint="Ask both custodians which pair is in use.")
        return key

    def agreed(self, theirs: bytes, purpose: bytes) -> bytes:
        """What `PublicKey.agree` made. Any 32 bytes make a key; whether it is the right one shows when it opens."""
        try:
            shared = self._opens.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise _unopened() from error
        return _copy_key(shared, theirs, self.public.opens, purpose)

    def sign(self, message: bytes) -> bytes:
        return self._signs.sign(message)

    def open(self, copy: bytes, *, place: bytes) -> bytes:
        """Raises Denied when the copy was sealed for another pair, VaultConflict when it was changed or moved."""
        if copy[:PAIR_BYTES] != self.pair:
            raise Denied("a row is sealed for another pair of key files", hint="`mover vault keys status` names it.")
        theirs, sealed = copy[PAIR_BYTES : PAIR_BYTES + KEY_BYTES], copy[PAIR_BYTES + KEY_BYTES :]
        try:
            shared = self._opens.exchange(X25519PublicKey.from_public_bytes(theirs))
            key = AESGCM(_copy_key(shared, theirs, self.public.opens))
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place)
        except (InvalidTag, ValueError) as error:
            raise _unopened() from error


def new_pair(a: Path, b: Path) -> RevealKey:
    """Two new files, 0600, neither of which says anything alone. Existing ones are never overwritten."""
    if a.absolute() == b.absolute():
        raise SettingsInvalid("the two key files must be two files, best on two media in two safes")
    secret, first = random_bytes(KEY_BYTES), random_bytes(KEY_BYTES)
    key = RevealKey(secret)
    second = bytes(x ^ y for x, y in zip(secret, first, strict=True))
    write_new(a, encode_file(ShareFile(share="a", pair=key.pair, secret=first)))
    try:
        write_new(b, encode_file(ShareFile(share="b", pair=key.pair, secret=second)))
    except SettingsInvalid:
        a.unlink()
        raise
    return key


def ask_bytes(action: str, purpose: str, what: Iterable[str]) -> bytes:
    """What both key files sign when somebody asks."""
    return msgspec.json.encode(["mover vault ask 1", action, purpose, list(what)])


# --- files ------------------------------------------------------------------------------------------------


class _KeyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vault-key", tag_field="mover"):
    secret: bytes
    lookups: tuple[bytes, ...]
    before: bytes | None = None


class ShareFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vault-share", tag_field="mover"):
    share: Literal["a", "b"]
    pair: bytes
    secret: bytes


class PublicFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="vault-public", tag_field="mover"):
    opens: bytes
    signs: bytes


def pair_of(file: PublicFile) -> bytes:
    """By what a pair is called; it opens nothing."""
    return sha256(b"mover vault pair 1" + file.opens + file.signs).digest()[:PAIR_BYTES]


def next_path(path: Path) -> Path:
    return path.with_name(path.name + ".next")


def encode_file(file: Struct) -> bytes:
    return msgspec.json.encode(file) + b"\n"


def decode_file(raw: bytes, shape: type[T], *, where: Path) -> T:
    try:
        file: Any = msgspec.json.decode(raw, type=shape)
    except msgspec.DecodeError as error:
        raise SettingsInvalid("this is no key file of the kind that is needed", where=str(where)) from error
    secrets = [getattr(file, name, None) for name in ("secret", "before", "opens", "signs")]
    if any(one is not None and len(one) != KEY_BYTES for one in secrets):
        raise SettingsInvalid("a key in this file is of another length", where=str(where))
    return file


def read_private(path: Path, *, what: str, hint: str = "") -> bytes:
    try:
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise SettingsInvalid(
                    f"the {what} can be read by others", where=str(path), hint=f"chmod 600 {path}"
                )
            return file.read(FILE_BYTES)
    except FileNotFoundError as error:
        raise SettingsInvalid(f"the {what} cannot be read", where=str(path), hint=hint or None) from error
    except OSError as error:
        # it may well stand there: nobody shall make another one
        raise SettingsInvalid(f"the {what} cannot be read", where=str(path), hint=_whose(path)) from error


def _whose(path: Path) -> str | None:
    asks = _name(os.geteuid())
    try:
        owner = path.stat().st_uid
    except PermissionError:
        return f"{asks} may not look into its folder: ls -ld {path.parent}"
    except OSError:
        return None
    if owner == os.geteuid():
        return f"chmod 600 {path}"
    return (
        f"It is {_name(owner)}'s, and {asks} asks. Below the state of {asks}: chown {asks}: {path}. "
        "Where systemd hands it over, root calls this."
    )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def write_new(path: Path, content: bytes) -> None:
    """A kill leaves no file or a whole one, never a short one that would be taken for damage. An existing one is never
    overwritten."""
    try:
        wholefile.write_new(path, content)
    except FileExistsError as error:
        raise SettingsInvalid("there is a key file already; it was left as it is", where=str(path)) from error
    except OSError as error:
        raise SettingsInvalid("a key file cannot be written here", where=str(path)) from error


def write_over(path: Path, content: bytes) -> None:
    """As `write_new`, in the place of the file that is there: a kill leaves the old one or the new one."""
    try:
        wholefile.write_over(path, content)
    except OSError as error:
        raise SettingsInvalid("a key file cannot be written here", where=str(path)) from error


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(secret)


def _copy_key(shared: bytes, mine: bytes, theirs: bytes, purpose: bytes = b"mover vault copy 1") -> bytes:
    """Bound to both public keys, as HPKE (RFC 9180) binds its shared secret to enc and pkR."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=mine + theirs, info=purpose).derive(shared)


def _unopened() -> VaultConflict:
    return VaultConflict(
        "a sealed row does not open", hint="Was the vault key replaced, or the row moved or edited?"
    )
