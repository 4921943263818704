"""One living hospital for all walks: published slides, aligned records, runs in several states; a token of each role.

Playwright's loop must not stand open while other tests run theirs, so every module of this folder is one group
(`pytestmark = browsing`), and its browser ends with the module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from mover.catalog.postgres import Embedded
from mover.model import wire
from tests.system.conftest import hospital, worked
from tests.system.ward import Ward, ending
from tests.web.browser import CHROMIUM, Seen, chromium, seen
from tests.web.hospital import House, places, play

__all__ = ["hospital", "worked"]

ROLES = ("viewer", "operator", "admin", "custodian")


@pytest.fixture(scope="session")
def house(worked: Ward, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with living(worked, tmp_path_factory.mktemp("web")) as one:
        yield one


@contextmanager
def living(worked: Ward, folder: Path, fill: Callable[[str], None] | None = None) -> Iterator[House]:
    """`fill` gets the database's address, and makes it larger by more than anybody could play."""
    ward = Ward.copy(folder / "site", worked)
    with ending([ward]), ward.start() as admin:
        tokens = {}
        for role in ROLES:
            made = admin.tokens.make(wire.TokenRequest(actor=f"the-{role}", role=role))  # type: ignore[arg-type]
            assert made.secret
            tokens[role] = made.secret
        second = admin.tokens.make(wire.TokenRequest(actor="the-second", role="admin"))
        assert second.secret
        ward.change("update mover.token set person = id where id = %s", second.id)  # as root makes one at the machine
        # the custodian is another person, too, and all are known since two days: who decides is not who asked
        ward.change("update mover.token set person = id where actor = 'the-custodian'")
        ward.change("update mover.token set created_at = now() - interval '2 days'")
        runs = play(admin)
        ward.restore(admin, admin.runs.view(runs.cleaned).snapshots[0], ward.site.restored / "web", "/")
        known = places(admin)
        if fill is not None:
            fill(Embedded(ward.site.state).start().superuser_dsn)
            # what rests on bytes is shown of a slide and a snapshot that have them
            known = places(admin) | {path: known[path] for path in ("/slides/{number}", "/snapshots/{id}")}
        yield House(ward.url, tokens | {"second": second.secret}, runs, ward.site.policies, ward.change, known)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("Debian's chromium walks the pages: apt-get install chromium-headless-shell")
    with chromium() as opened:
        yield opened


@pytest.fixture
def walk(browser: Browser, house: House) -> Iterator[Callable[..., Seen]]:
    """`walk("operator", "/runs")`: signed in and there. What a browser complained of fails the test at its end."""
    opened: list[Seen] = []
    with ExitStack() as stack:

        def begin(role: str = "operator", path: str = "/", *, narrow: bool = False, dark: bool = False) -> Seen:
            one = stack.enter_context(seen(browser, house.url, theme="dark" if dark else "light", narrow=narrow))
            opened.append(one)
            one.sign_in(house.tokens[role], path)
            return one

        yield begin
        complaints = [line for one in opened for line in one.complaints]
        assert complaints == []
