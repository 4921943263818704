"""What a page does by itself: it shows what changed at once, draws a long list row by row, and outlives its connection,
its daemon and its session without losing what somebody typed. A site of its own: its daemon stops on the way."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mover.model import wire
from tests.system.ward import Ward, ending
from tests.web.browser import Seen, seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
# of which a table keeps 5,000
RECORDS, MORE_RECORDS = 8_000, 20_000
ROWS_DRAWN_AT_MOST = 200
# a heap of some MB, and the pages that are kept
HEAP_GROWS_AT_MOST = 30 << 20
# less than a page waits before it asks by itself while changes are told
TOLD_MS = 30_000
PASSWORD = "correct horse battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module", params=[RECORDS, pytest.param(MORE_RECORDS, marks=pytest.mark.soak)])
def records(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def site(worked: Ward, tmp_path_factory: pytest.TempPathFactory, records: int) -> Iterator[Ward]:
    """At one port for all its life, as a service is; with an admin who has an account, and a long audit."""
    ward = Ward.copy(tmp_path_factory.mktemp("live") / "site", worked)
    ward.change_settings(lambda settings: settings["listen"].update(tcp=f"127.0.0.1:{free_port()}"))
    with ending([ward]), ward.start() as admin:
        admin.accounts.make(wire.AccountRequest(name="ann", role="admin", password=PASSWORD))
        project = admin.who().project
        ward.change("select set_config('mover.project', %s, false)", project)
        ward.change(
            "select count(mover.audit_append(%s, 'elsewhere', json_build_object('actor', 'ann', 'action', 'tried',"
            " 'subject', 'try ' || n, 'reason', '', 'request', '')::text)) from generate_series(1, %s) n",
            project, records,
        )  # fmt: skip
        yield ward


def enter(one: Seen, path: str) -> Page:
    one.page.goto(f"{one.url}/ui{path}")
    pass_gate(one.page)
    one.settled()
    return one.page


def pass_gate(page: Page) -> None:
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def heap(page: Page) -> int:
    """After the garbage is gone."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    return int(session.send("Runtime.getHeapUsage")["usedSize"])


def number(row: Locator) -> int:
    return int(row.get_attribute("aria-rowindex") or 0)


def test_thousands_of_rows_are_walked_with_the_keyboard_and_stay_where_they_are(
    browser: Browser, site: Ward, records: int
) -> None:
    """The elements and the memory of a page stay what they were; a screen reader hears each row's number; what happens
    meanwhile moves no row from under somebody's eyes."""
    with seen(browser, site.url) as one, site.client() as admin:
        page = enter(one, "/audit")
        grid = page.get_by_role("grid", name="Audit records")
        rows, active = grid.locator(".tbody [role=row]"), grid.locator("[role=row].active")
        expect(rows.nth(3)).to_be_visible()
        before, most, last = heap(page), 0, 1
        grid.focus()
        while grid.get_attribute("aria-rowcount") == "-1":
            page.keyboard.press("End")
            expect(active).not_to_have_attribute("aria-rowindex", str(last))
            last, most = number(active), max(most, rows.count())
            # the next page came, or there is none
            expect(grid.locator(f'[role=row][aria-rowindex="{last + 1}"]').or_(
                page.locator(f'[role=grid][aria-rowcount="{last}"]')).first).to_be_attached()  # fmt: skip
        whole = int(grid.get_attribute("aria-rowcount") or 0)
        assert whole > records and most < ROWS_DRAWN_AT_MOST
        page.keyboard.press("End")
        expect(active).to_have_attribute("aria-rowindex", str(whole))
        expect(active).to_be_in_viewport()
        page.keyboard.press("Home")
        expect(active).to_have_attribute("aria-rowindex", "2")
        expect(active).not_to_have_class(re.compile("far"))  # forgotten meanwhile, and there again
        page.keyboard.press("PageDown")
        page.keyboard.press("PageDown")
        page.keyboard.press("ArrowUp")
        expect(active).to_be_in_viewport()
        assert heap(page) - before < HEAP_GROWS_AT_MOST

        read_of = lambda: active.inner_text().splitlines()[1:]  # noqa: E731  # how long ago it was is said anew each second
        here, read = number(active), read_of()
        made = admin.tokens.make(wire.TokenRequest(actor="meanwhile", role="viewer"))
        newer = page.get_by_role("button", name="Show what is new")
        expect(newer).to_be_visible()
        assert (number(active), read_of()) == (here, read)
        newer.click()
        expect(grid.get_by_text("token made").first).to_be_in_viewport()
        assert made.id and one.complaints == []


def test_a_page_outlives_its_connection_its_daemon_and_its_session_with_what_was_typed(
    browser: Browser, site: Ward
) -> None:
    with seen(browser, site.url) as one, site.client() as admin:
        page = enter(one, "/people")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        grid = page.get_by_role("grid", name="Accounts")
        expect(grid.get_by_text("ann")).to_be_visible()
        # one stream for all tabs of a session: a browser has six connections
        second = page.context.new_page()
        streams: list[str] = []
        second.on("request", lambda request: streams.append(request.url) if "/v1/events" in request.url else None)
        second.goto(page.url)
        expect(second.get_by_role("grid").get_by_text("ann")).to_be_visible()

        # told, and not found by asking every so often
        admin.accounts.make(wire.AccountRequest(name="bob", role="viewer", password=PASSWORD))
        for tab in (page, second):
            expect(tab.get_by_role("grid").get_by_text("bob")).to_be_visible()
        assert streams == []

        page.get_by_role("button", name="Add an account").click()
        typed = page.get_by_role("dialog").get_by_role("textbox", name="Name (needed)")
        typed.fill("cid")

        # the daemon stops: its streams are cut, and the page says so, also while somebody types
        site.stop()
        lost = page.get_by_text("Connection lost")
        expect(lost).to_be_visible()
        expect(page.locator(".lost")).to_contain_text(re.compile(r"trying again (in \d+ s|now)"))
        typed.press_sequentially("-two")
        again = site.start()
        expect(lost).to_have_count(0)
        expect(typed).to_have_value("cid-two")
        again.accounts.make(wire.AccountRequest(name="dan", role="viewer", password=PASSWORD))
        expect(grid.get_by_text("dan")).to_be_attached()

        # somebody was faster: 409, and the form stands as it was
        again.accounts.make(wire.AccountRequest(name="cid-two", role="viewer", password=PASSWORD))
        one.expect(409)
        add = page.get_by_role("dialog").get_by_role("button", name="Add an account")
        add.click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
        typed.fill("eve")

        # the session is ended by another admin: the stream ends, and who is gone sees nothing of what stands here
        one.expect(401)
        again.accounts.sign_out("ann")
        # one tab finds out by what it asks; the other by the stream, which is its own now
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        over = page.get_by_role("dialog", name="Your session is over")
        expect(over).to_be_visible()
        expect(second.get_by_role("dialog", name="Your session is over")).to_be_visible()
        expect(typed).to_be_hidden()
        expect(grid).to_be_hidden()
        pass_gate(page)
        expect(over).to_have_count(0)
        expect(typed).to_have_value("eve")
        add.click()
        expect(page.get_by_role("dialog", name="Password of eve")).to_be_visible()
        page.get_by_role("button", name="I have it").click()
        expect(grid.get_by_text("eve")).to_be_visible()
        assert sum("/v1/events" in url for url in asked) >= 2  # after the daemon, and after the session
        again.accounts.make(wire.AccountRequest(name="fay", role="viewer", password=PASSWORD))
        expect(grid.get_by_text("fay")).to_be_visible()
        again.close()
        # the other tab is in again, too, as soon as somebody looks at it, and shows what it was not told of before its
        # clock would ask; when the one that listens closes, it goes on
        second.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(second.get_by_role("dialog", name="Your session is over")).to_have_count(0)
        expect(second.get_by_role("grid").get_by_text("fay")).to_be_visible(timeout=TOLD_MS)
        with second.expect_request("**/v1/events"):
            page.close()
        # what the browser itself says of a daemon that is away, and of streams that were cut
        assert [line for line in one.complaints if "net::ERR_" not in line] == []
