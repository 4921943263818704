"""What this site signs, and how a signature is checked: Ed25519 (RFC 8032) over bytes of one form."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mover.errors import RequestInvalid, tier_error
from mover.model.certificate import Signature
from mover.randomness import random_bytes
from mover.wholefile import write_new

SigningKey = Ed25519PrivateKey
_MAKE_ONE: Final = "Make one: mover deid certify --new-key FILE."


def canonical(value: object) -> bytes:
    """One value, one form: sorted keys, no spaces."""
    return msgspec.json.encode(msgspec.to_builtins(value), order="sorted")


def sign(data: bytes, key: SigningKey) -> Signature:
    public = _raw(key.public_key())
    return Signature(
        algorithm="Ed25519",
        public_key=b64encode(public).decode(),
        fingerprint=fingerprint_of(public),
        value=b64encode(key.sign(data)).decode(),
    )


def problems_of(signature: Signature, data: bytes) -> list[str]:
    """What is wrong with a signature over these bytes; empty when it stands. It carries its own public key: whether
    that key is the site's is for the fingerprint to tell."""
    try:
        raw = b64decode(signature.public_key, validate=True)
        public = Ed25519PublicKey.from_public_bytes(raw)
    except ValueError:
        return ["signature: the public key is no Ed25519 key"]
    problems = []
    if fingerprint_of(raw) != signature.fingerprint:
        problems.append("signature: the fingerprint is not that of the public key")
    try:
        public.verify(b64decode(signature.value, validate=True), data)
    except (InvalidSignature, ValueError):
        problems.append("signature: does not fit the parts; one of them or the signature was changed")
    return problems


def grouped(digest: str) -> str:
    """A digest in groups of four, for people to compare."""
    return " ".join(digest[at : at + 4] for at in range(0, len(digest), 4))


def fingerprint_of(public: bytes) -> str:
    """Short enough to be read aloud over a telephone: 20 bytes in groups of four."""
    return grouped(blake3(public).hexdigest()[:40])


def public_fingerprint(key: SigningKey) -> str:
    return fingerprint_of(_raw(key.public_key()))


def same_key(fingerprint: str, trusted: list[str] | tuple[str, ...]) -> bool:
    """Whether a fingerprint is among those that somebody wrote down, with or without spaces."""
    return fingerprint.replace(" ", "") in {one.replace(" ", "") for one in trusted}


def new_key(path: Path) -> str:
    """A new private key, 0600, never over another file; the fingerprint of its public half."""
    key = Ed25519PrivateKey.from_private_bytes(random_bytes(32))
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_new(path, text)
    except FileExistsError as error:
        raise RequestInvalid("a file of that name is there already", hint="Name a new file for the key.") from error
    except OSError as error:
        raise tier_error(error, of="the signing key") from error
    return public_fingerprint(key)


def load_key(path: Path) -> SigningKey:
    """The private key of a file that nobody else may read."""
    try:
        if path.stat().st_mode & 0o077:
            raise RequestInvalid("others may read the signing key", hint="chmod 600 the key file.")
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise tier_error(error, of="the signing key") from error
    except (ValueError, TypeError) as error:
        raise RequestInvalid("the signing key is no key", hint=_MAKE_ONE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise RequestInvalid("the signing key is no Ed25519 key", hint=_MAKE_ONE)
    return key


def _raw(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
