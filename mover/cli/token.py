"""`mover token`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient

ROLES = ["viewer", "operator", "admin", "custodian", "scheduler"]


@click.group("token", cls=WholeLines)
def command() -> None:
    """Make, list and revoke API tokens."""


@command.command("make")
@click.argument("actor")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it lives; default: until it is revoked.")
@click.option("--scope", "scopes", multiple=True, metavar="ACTION", help="For this action only, as runs.read; repeat.")
@click.option("--uid", "posix_uid", type=click.IntRange(0), help="Whose rights open artifact paths.")
@click.option("--gid", "posix_gid", type=click.IntRange(0), help="And the group's; a scheduler acts for its members.")
@with_client
def make(
    *,
    mover: SyncClient,
    out: Output,
    actor: str,
    role: str,
    days: int | None,
    scopes: tuple[str, ...],
    posix_uid: int | None,
    posix_gid: int | None,
) -> None:
    """Make a token for ACTOR (a person or a scheduler). The secret is shown this once."""
    from datetime import timedelta

    from mover.clock import SYSTEM
    from mover.model import wire

    expires_at = SYSTEM.now() + timedelta(days=days) if days else None
    body = wire.TokenRequest(
        actor=actor, role=role, expires_at=expires_at, posix_uid=posix_uid, posix_gid=posix_gid,  # type: ignore[arg-type]
        scopes=list(scopes) or None,
    )  # fmt: skip
    token = mover.tokens.make(body)
    out.facts(
        token, [("token", token.id), ("role", token.role), ("expires", token.expires_at), ("secret", token.secret)]
    )
    out.note("Keep the secret in a file of mode 0600 and name it with MOVER_TOKEN_FILE; it is not shown again.")


@command.command("list")
@with_client
def list_tokens(*, mover: SyncClient, out: Output) -> None:
    """The tokens of the project, without their secrets."""
    tokens = mover.tokens.list()
    rows = [
        (t.id, t.actor, t.role, " ".join(t.scopes or ["all"]), t.created_at, t.last_used_at, t.expires_at, t.revoked_at)
        for t in tokens
    ]
    out.table(tokens, "token actor role scopes made used expires revoked", rows, empty="no tokens")


@command.command("revoke")
@click.argument("token")
@with_client
def revoke(*, mover: SyncClient, out: Output, token: str) -> None:
    """End a token for good."""
    seen = mover.tokens.revoke(token)
    out.facts(seen, [("token", seen.id), ("actor", seen.actor), ("revoked", seen.revoked_at)])
