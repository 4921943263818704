"""A certificate authority of one's own, and a server certificate by it, as PEM files."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mover.clock import SYSTEM


class Authority:
    """`file` is its certificate, which clients believe."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._own = _certificate("hospital authority", self._key, None, self._key)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._own.public_bytes(serialization.Encoding.PEM))

    def certify(self, *names: str, ended: bool = False, file: str = "server.pem") -> Path:
        """The server's key and certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(names[0], key, self._own, self._key, names=names, ended=ended)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / file
        path.touch(mode=0o600)
        path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        return path


def make_authority(folder: Path) -> tuple[Path, Path]:
    """(the authority's certificate, the server's key and certificate) for 127.0.0.1 and localhost."""
    made = Authority(folder)
    return made.file, made.certify("127.0.0.1", "localhost")


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...] = (),
    ended: bool = False,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = SYSTEM.now()
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=-1 if ended else 1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        made = made.add_extension(x509.SubjectAlternativeName([_alternative(one) for one in names]), critical=False)
    return made.sign(signer, hashes.SHA256())


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
