"""Sealing and keys of the public restic repository format.

Read restic's "References: Design", section "Keys, Encryption and MAC", first. Everything in the repository
is IV | AES-256-CTR ciphertext | Poly1305-AES MAC under one master key; a key file wraps that master key
under a password by scrypt, so several passwords may open the same repository.

AES lets go of the interpreter lock, so threads scale; Poly1305 does not, at 11 GB/s.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from datetime import datetime

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.randomness import random_bytes

IV_BYTES = 16
MAC_BYTES = 16
IVS_DRAWN = 64
SEAL_OVERHEAD_BYTES = IV_BYTES + MAC_BYTES

# What restic's own calibration gives on machines of today; stored in each key file, so it may change.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 32768, 8, 5
# A key file is read before anything is authenticated: parameters beyond these are a bomb, not a key.
MAX_SCRYPT_MEMORY_BYTES = 1 << 30
MAX_SCRYPT_PARALLEL = 64

# Poly1305 clamps these bits of r; restic stores the clamped form.
_R_MASK = b"\xff\xff\xff\x0f" + b"\xfc\xff\xff\x0f" * 3

Buffer = bytes | bytearray | memoryview


class MasterKey(Struct, frozen=True):
    """The three secrets of a repository (or of one password, while its key file is opened)."""

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes

    def seal(self, plaintext: Buffer) -> bytearray:
        """IV | ciphertext | MAC with a fresh IV."""
        sealed = bytearray(len(plaintext) + SEAL_OVERHEAD_BYTES)
        Sealer(self).seal_into(plaintext, memoryview(sealed))
        return sealed

    def open(self, sealed: Buffer) -> bytes:
        """The plaintext, or RepositoryDamaged when the MAC does not hold; nothing is decrypted before."""
        iv, ciphertext = self._authentic(sealed)
        return Cipher(algorithms.AES(self.encrypt), modes.CTR(iv)).decryptor().update(ciphertext)

    def open_into(self, sealed: Buffer, room: memoryview) -> None:
        """The same, into the caller's buffer, which has the plaintext's size."""
        iv, ciphertext = self._authentic(sealed)
        if len(ciphertext) != len(room):
            raise RepositoryDamaged("a sealed object has another length than its index entry says")
        Cipher(algorithms.AES(self.encrypt), modes.CTR(iv)).decryptor().update_into(ciphertext, room)

    def _authentic(self, sealed: Buffer) -> tuple[bytes, memoryview]:
        """IV and ciphertext of what nobody has changed."""
        if len(sealed) < SEAL_OVERHEAD_BYTES:
            raise RepositoryDamaged("a sealed object is shorter than its own frame")
        view = memoryview(sealed)
        iv = bytes(view[:IV_BYTES])
        ciphertext = view[IV_BYTES:-MAC_BYTES]
        if not hmac.compare_digest(self._mac(iv, ciphertext), bytes(view[-MAC_BYTES:])):
            raise RepositoryDamaged("the authentication code of a sealed object does not hold")
        return iv, ciphertext

    def _mac(self, iv: bytes, ciphertext: Buffer) -> bytes:
        nonce = Cipher(algorithms.AES(self.mac_k), modes.ECB()).encryptor().update(iv)
        authenticator = Poly1305(self.mac_r + nonce)
        authenticator.update(ciphertext)
        return authenticator.finalize()


class Sealer:
    """Seals one object after the other, for one thread at a time: to make its ciphers anew would cost more than to
    seal a small blob."""

    def __init__(self, key: MasterKey) -> None:
        self._body = Cipher(algorithms.AES(key.encrypt), modes.CTR(bytes(IV_BYTES))).encryptor()
        self._nonces = Cipher(algorithms.AES(key.mac_k), modes.ECB()).encryptor()
        self._mac_r = key.mac_r
        self._ivs: Iterator[bytes] = iter(())

    def seal_into(self, plaintext: Buffer, room: memoryview) -> None:
        """IV | ciphertext | MAC with a fresh IV; `room` is as long as that, and nothing is copied on the way."""
        iv = next(self._ivs, None) or self._draw()
        ciphertext = room[IV_BYTES:-MAC_BYTES]
        room[:IV_BYTES] = iv
        self._body.reset_nonce(iv)
        self._body.update_into(plaintext, ciphertext)
        room[-MAC_BYTES:] = Poly1305.generate_tag(self._mac_r + self._nonces.update(iv), ciphertext)

    def _draw(self) -> bytes:
        """The system is asked for many at once; each is used once."""
        drawn = random_bytes(IVS_DRAWN * IV_BYTES)
        self._ivs = iter([drawn[at : at + IV_BYTES] for at in range(0, len(drawn), IV_BYTES)])
        return next(self._ivs)


class _WireMac(Struct):
    k: str
    r: str


class _WireMaster(Struct):
    mac: _WireMac
    encrypt: str


class KeyFile(Struct):
    """A file below keys/; field order as restic writes it. Plain JSON: it must be read before any key."""

    created: str
    username: str
    hostname: str
    kdf: str
    N: int
    r: int
    p: int
    salt: str
    data: str


def new_master_key() -> MasterKey:
    r = bytes(a & b for a, b in zip(random_bytes(16), _R_MASK, strict=True))
    return MasterKey(encrypt=random_bytes(32), mac_k=random_bytes(16), mac_r=r)


def wrap_key(master: MasterKey, password: bytes, *, hostname: str, username: str, created: datetime) -> bytes:
    """The bytes of a new key file; its name in keys/ is the SHA-256 of these bytes."""
    salt = random_bytes(64)
    user = _derive(password, salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P)
    mac = _WireMac(k=_text(master.mac_k), r=_text(master.mac_r))
    wire = _WireMaster(mac=mac, encrypt=_text(master.encrypt))
    sealed = user.seal(msgspec.json.encode(wire))
    return msgspec.json.encode(
        KeyFile(
            created=created.isoformat(),
            username=username,
            hostname=hostname,
            kdf="scrypt",
            N=SCRYPT_N,
            r=SCRYPT_R,
            p=SCRYPT_P,
            salt=_text(salt),
            data=_text(bytes(sealed)),
        )
    )


def unwrap_key(content: bytes, password: bytes) -> MasterKey | None:
    """The master key, or None when this password does not open this key file (or it was tampered with:
    the two cannot be told apart). RepositoryDamaged when the file is not a key file at all."""
    try:
        wire = msgspec.json.decode(content, type=KeyFile)
        salt, data = base64.b64decode(wire.salt), base64.b64decode(wire.data)
    except ValueError as cause:
        raise RepositoryDamaged("a key file cannot be decoded") from cause
    if wire.kdf != "scrypt":
        raise RepositoryDamaged("a key file names a key derivation other than scrypt")
    user = _derive(password, salt, n=wire.N, r=wire.r, p=wire.p)
    try:
        opened = user.open(data)
    except RepositoryDamaged:
        return None
    return _master_of(opened)


def _master_of(opened: bytes) -> MasterKey:
    try:
        wire = msgspec.json.decode(opened, type=_WireMaster)
        key = MasterKey(
            encrypt=base64.b64decode(wire.encrypt),
            mac_k=base64.b64decode(wire.mac.k),
            mac_r=base64.b64decode(wire.mac.r),
        )
    except ValueError as cause:
        raise RepositoryDamaged("the master key inside a key file cannot be decoded") from cause
    if (len(key.encrypt), len(key.mac_k), len(key.mac_r)) != (32, 16, 16):
        raise RepositoryDamaged("the master key inside a key file has the wrong lengths")
    return key


def _derive(password: bytes, salt: bytes, *, n: int, r: int, p: int) -> MasterKey:
    needed = 128 * r * (n + p + 2)
    if n < 2 or n & (n - 1) or r < 1 or not 1 <= p <= MAX_SCRYPT_PARALLEL or needed > MAX_SCRYPT_MEMORY_BYTES:
        raise RepositoryDamaged("a key file asks for impossible scrypt parameters")
    secret = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=needed + (1 << 20), dklen=64)
    return MasterKey(encrypt=secret[:32], mac_k=secret[32:48], mac_r=secret[48:])


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
