"""`mover account`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

ROLES = ["viewer", "operator", "admin", "custodian"]
_ask = click.option("--ask", is_flag=True, help="Ask for the password; else one is made up and shown this once.")


@click.group("account", cls=WholeLines)
def command() -> None:
    """Accounts of people: roles, passwords, an end."""


@command.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may in the project.")
@click.option("--days", type=click.IntRange(1, 3650), help="How long it lives; default: until it is disabled.")
@click.option("--uid", "posix_uid", type=click.IntRange(1), help="Whose rights open the paths this person names.")
@click.option("--gid", "posix_gid", type=click.IntRange(1), help="And the group's.")
@_ask
@with_client
def add(
    *,
    mover: SyncClient,
    out: Output,
    name: str,
    role: str,
    days: int | None,
    posix_uid: int | None,
    posix_gid: int | None,
    ask: bool,
) -> None:
    """Make an account for a person. Made at the local socket, it is a person of its own beside all others."""
    from datetime import timedelta

    from mover.clock import SYSTEM
    from mover.model import wire

    expires_at = SYSTEM.now() + timedelta(days=days) if days else None
    body = wire.AccountRequest(
        name=name, role=role, password=_password(ask), expires_at=expires_at, posix_uid=posix_uid,  # type: ignore[arg-type]
        posix_gid=posix_gid,
    )  # fmt: skip
    _show(out, mover.accounts.make(body))


@command.command("list")
@with_client
def list_accounts(*, mover: SyncClient, out: Output) -> None:
    """The accounts that have, or had, a role in the project."""
    accounts = mover.accounts.list()
    rows = [
        (a.name, a.role or "none", a.created_at, a.last_seen_at, a.sessions, a.expires_at, a.disabled_at)
        for a in accounts
    ]
    out.table(accounts, "name role made seen sessions expires disabled", rows, empty="no accounts")


@command.command("password")
@click.argument("name")
@_ask
@with_client
def password(*, mover: SyncClient, out: Output, name: str, ask: bool) -> None:
    """Give an account another password; it is signed out everywhere."""
    from mover.model import wire

    _show(out, mover.accounts.password(name, wire.PasswordRequest(password=_password(ask))))


@command.command("grant")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="In place of the one it has.")
@with_client
def grant(*, mover: SyncClient, out: Output, name: str, role: str) -> None:
    """Give an account a role in the project."""
    from mover.model import wire

    _show(out, mover.accounts.grant(name, wire.GrantRequest(role=role)))  # type: ignore[arg-type]


@command.command("revoke")
@click.argument("name")
@with_client
def revoke(*, mover: SyncClient, out: Output, name: str) -> None:
    """Take an account's role in the project away."""
    _show(out, mover.accounts.revoke(name))


@command.command("disable")
@click.argument("name")
@with_client
def disable(*, mover: SyncClient, out: Output, name: str) -> None:
    """Sign an account out everywhere and in nowhere."""
    _show(out, mover.accounts.disable(name))


@command.command("enable")
@click.argument("name")
@with_client
def enable(*, mover: SyncClient, out: Output, name: str) -> None:
    """Let a disabled account sign in again."""
    _show(out, mover.accounts.enable(name))


@command.command("sign-out")
@click.argument("name")
@with_client
def sign_out(*, mover: SyncClient, out: Output, name: str) -> None:
    """End every session of an account; it may sign in again."""
    seen = mover.accounts.sign_out(name)
    out.facts(seen, [("sessions ended", seen.ended)])


def _password(ask: bool) -> str | None:
    """From the terminal, twice and unseen; never from the command line, which everybody on the machine can read."""
    return click.prompt("Password", hide_input=True, confirmation_prompt=True) if ask else None


def _show(out: Output, seen: wire.Account) -> None:
    out.facts(
        seen,
        [
            ("name", seen.name), ("role", seen.role or "none"), ("expires", seen.expires_at),
            ("disabled", seen.disabled_at), ("password", seen.secret),
        ],
    )  # fmt: skip
    if seen.secret:
        out.note("The password is not shown again; its person changes it after the first sign-in.")
