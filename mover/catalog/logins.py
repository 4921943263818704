"""Our roles at a server, and who may log in by which password, as statements for a superuser of it.

Passwords go to the server as verifiers: neither its log nor a script for psql holds one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path

from mover.randomness import random_bytes

DUMP = "mover_dump"  # may read everything, for dumps; of the embedded database its superuser does that
# as PostgreSQL's own (scram_iterations, SCRAM_DEFAULT_SALT_LEN)
ITERATIONS, SALT_BYTES = 4096, 16


def statements(secrets: dict[str, str]) -> str:
    """`secrets`: the password of each role. Called again they change nothing but passwords back to ours."""
    made = (Path(__file__).parent / "roles.sql").read_text("utf-8")
    passwords = "".join(f"alter role {role} password '{verifier(secret)}';\n" for role, secret in secrets.items())
    return f"""{made}do $$ begin
    if not exists (select from pg_roles where rolname = '{DUMP}') then
        create role {DUMP} login bypassrls in role pg_read_all_data;
    end if;
end $$;
{passwords}"""


def verifier(secret: str, *, salt: bytes | None = None) -> str:
    """What PostgreSQL keeps of a password, in its own words (RFC 5802, 3; RFC 7677). Ours are ASCII: SASLprep would
    change nothing."""
    salt = random_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_64, stored_64, server_64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt_64}${stored_64}:{server_64}"
