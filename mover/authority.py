"""Whose certificates we believe, and why one was not believed, in words that a person can act on.

A site's own authority is a file of certificates in PEM form. Where one is named, it counts and the system's do not.
"""

from __future__ import annotations

import ssl
from os import PathLike

from msgspec import Struct

from mover.errors import SettingsInvalid


class Refusal(Struct, frozen=True):
    what: str
    hint: str


# by X509_V_ERR_* of OpenSSL (x509_vfy.h); 7 is said of another authority with the same name
_UNKNOWN = Refusal(
    "its certificate is by an authority that is not trusted here",
    "Name the file of the authority that signed it, or have it signed by the one that is named.",
)
_OTHER_NAME = Refusal(
    "its certificate is for another name than the address we use",
    "Use the name that stands in the certificate, or have one made for this address.",
)
_REFUSALS = {code: _UNKNOWN for code in (7, 18, 19, 20, 21)} | {
    9: Refusal("its certificate is not valid yet", "Look at the clocks of both machines."),
    10: Refusal("its certificate has ended", "Have it renewed there, or look at the clocks of both machines."),
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}


def believing(ca_file: str | PathLike[str] | None, *, where: str) -> ssl.SSLContext:
    """A client's context that checks chain, name and dates. SettingsInvalid for a file that holds no certificate."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError):  # an SSLError is an OSError
        raise SettingsInvalid(
            "the authority's file holds no certificate that can be read", where=where,
            hint="Name a PEM file that this user may read, with the certificate of who signed the server's.",
        ) from None  # fmt: skip


def refusal(error: BaseException) -> Refusal | None:
    """Why the other side's certificate was not believed; None where something else went wrong."""
    error = getattr(error, "certificate_error", error)  # aiohttp's wraps it
    if not isinstance(error, ssl.SSLCertVerificationError):
        return None
    # otherwise OpenSSL's own fixed words, such as "Missing Authority Key Identifier"
    return _REFUSALS.get(error.verify_code) or Refusal(
        f"its certificate is not accepted ({error.verify_message})",
        "Have one made as docs/looking-after.md says: An authority of your own.",
    )
