"""Somebody wants a page to do what they wrote: in a name, a reason, a file's path, an error, an address, or from a page
of their own in the next tab. Chromium is the judge: no script of theirs runs, nothing is sent, nothing is changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

from mover.errors import Denied
from mover.model import wire
from mover.sdk import SyncClient
from mover.web.assets import HOME
from tests.web.browser import PATIENCE_MS, Seen, seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]

HOSTILE = (
    "\u202e\"'><img src=x onerror=\"window.owned='img'\"></script><script>window.owned='script'</script>"
    "<svg onload=\"window.owned='svg'\"/><a href=\"javascript:window.owned='link'\">x</a>"
    "${window.owned='template'}<${x}/>{{7*7}}"
)
# what the pages' own logic needs whole: moments, cursors, bytes, what a session may
MOMENT = re.compile(r"\d{4}-\d\d-\d\d")
WHOLE = {"csrf", "data", "media_type", "next", "cursor", "actions", "role", "project", "retry", "text"}
HARMLESS = re.compile(r"plan=true|/(count|explain|describe|simulate)$|policy-check")


def poisoned(told: Any, name: str = "") -> Any:
    """An answer with something hostile behind every text and every word (states, kinds, ids), and one more name in each
    object, as a table of a hostile file's columns would have it."""
    if isinstance(told, dict):
        return {key: poisoned(one, key) for key, one in told.items()} | {HOSTILE: HOSTILE}
    if isinstance(told, list):
        return [poisoned(one, name) for one in told]
    spared = not isinstance(told, str) or name in WHOLE or MOMENT.match(told)
    return told if spared else told + HOSTILE


STRANGE = "iframe, object, embed, base, form[action], [onerror], [onload], [onclick], script:not([src^='/ui/static/'])"
LOOK = """() => {
  const all = (what) => [...document.querySelectorAll(what)];
  const ours = [location.origin + '/ui/', location.origin + '/v1/session/oidc'];
  return {
    owned: window.owned ?? null, refused: window.refused ?? [], title: document.title,
    strange: all(`STRANGE`).map((one) => one.outerHTML),
    pictures: all('img').map((one) => one.src).filter((src) => !/^(data:image|blob:)/.test(src)),
    links: all('a').map((one) => one.href).filter((href) => !ours.some((begin) => href.startsWith(begin))),
  };
}""".replace("STRANGE", STRANGE)


class Watched:
    """A person's browser, whose daemon says hostile things and is asked for no deed; and what came of it."""

    def __init__(self, one: Seen) -> None:
        self.one, self.page = one, one.page
        self.harm: list[str] = []
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation', e => (window.refused ??= []).push(e.violatedDirective))"
        )

    def lie(self) -> None:
        self.page.route(re.compile(r"/v1/"), self._answer)

    def _answer(self, route: Route) -> None:
        asked = route.request
        if asked.url.endswith("/events"):
            route.abort()
        elif asked.method == "GET" or HARMLESS.search(asked.url):
            answer = route.fetch()
            if "json" not in answer.headers.get("content-type", "") or "jsonl" in answer.headers["content-type"]:
                route.fulfill(response=answer)
                return
            route.fulfill(response=answer, json=poisoned(answer.json()))
        else:
            problem: dict[str, Any] = dict.fromkeys(("title", "detail", "where", "hint", "request"), HOSTILE)
            problem |= {"status": 409, "code": "conflict", "retry": "never", "details": [{HOSTILE: HOSTILE}]}
            route.fulfill(status=409, content_type="application/problem+json", body=json.dumps(problem))

    def _dialog(self, dialog: Any) -> None:
        self.harm.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, asked: Request) -> None:
        place = urlsplit(asked.url)
        at_home = f"{place.scheme}://{place.netloc}" == self.one.url and place.path.startswith(("/ui/", "/v1/"))
        if not (at_home or place.scheme in ("data", "blob")) or place.path.endswith("/x"):
            self.harm.append(f"asked for {asked.url[:80]}")

    def look(self, where: str) -> None:
        """What stands there now."""
        found = self.page.evaluate(LOOK)
        harmless = {"owned": None, "refused": [], "strange": [], "pictures": [], "links": [], "title": found["title"]}
        if found != harmless:
            self.harm.append(f"{where}: {found}")


# --- text stays text --------------------------------------------------------------------------------------------


# of pages that have several views
VIEWS = ("/quarantine?view=rules", "/snapshots?view=two", "/snapshots?view=retention", "/snapshots?view=restores",
         "/policies/clean?tab=versions", "/people?tab=tokens", "/slides?view=rulings", "/tiers/flash")  # fmt: skip


def addresses(house: House) -> list[str]:
    """Every page of the table, and the views of those that have several."""
    table = (HOME / "static" / "pages" / "table.js").read_text("utf-8")
    paths = [path for found in re.findall(r"paths: \[([^\]]+)\]", table) for path in re.findall(r'"([^"]+)"', found)]
    assert len(paths) > 20
    return [house.places.get(path, path) for path in paths] + [*VIEWS]


@contextmanager
def watched(browser: Browser, house: House, role: str) -> Iterator[Watched]:
    with seen(browser, house.url) as one:
        watch = Watched(one)
        one.sign_in(house.tokens[role])
        one.settled()
        watch.lie()
        yield watch


def test_whatever_people_and_files_are_called_stays_text_on_every_page(browser: Browser, house: House) -> None:
    """Each answer of the daemon, on each page and in its dialogs. That an API refuses some of this today is no reason
    for a page to rely on it."""
    visited, shown = addresses(house), 0
    with watched(browser, house, "admin") as watch:
        for place in visited:
            watch.one.go(place)
            rest(watch.page)
            watch.page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true })")
            watch.look(place)
            shown += "<img src=x" in watch.page.locator("main.page").inner_text()
            press(watch, place)
        harm = [*watch.harm]
        watch.page.evaluate("(markup) => document.body.insertAdjacentHTML('beforeend', markup)", HOSTILE)
        watch.look("as if a page had made markup of it")
        assert len(watch.harm) > len(harm), "or this watch sees nothing"
    assert harm == [] and shown > len(visited) / 2, "or nothing hostile was shown at all"


def rest(page: Page) -> None:
    page.locator("main.page").wait_for()
    expect(page.locator(".skeleton")).to_have_count(0, timeout=PATIENCE_MS)


PRESSED = 3
# a deed of a press, such as an opening dialog, is drawn in the next turn of the browser's loop
DRAWN_MS = 30


def press(watch: Watched, place: str) -> None:
    """The first few of its deeds: their dialogs show plans, commands, requests and, here, a hostile refusal."""
    page = watch.page
    buttons = page.locator("main.page button:enabled:visible")
    names = buttons.all_inner_texts()
    for name in [name for name in dict.fromkeys(names) if name][:PRESSED]:
        button = buttons.nth(names.index(name))
        if not button.count():
            continue
        button.evaluate("(one) => one.click()")
        page.wait_for_timeout(DRAWN_MS)
        dialog = page.locator("dialog[open]")
        if dialog.count():
            for field in dialog.last.locator("input[type=text]:visible, textarea:visible").all():
                field.fill(HOSTILE[1:])
            page.evaluate("() => document.querySelectorAll('dialog details').forEach((one) => { one.open = true })")
            dialog.last.evaluate("(one) => one.querySelector('form .last button:last-child:enabled')?.click()")
            page.wait_for_timeout(DRAWN_MS)
            watch.look(f"{place}, {name[:40]}")
            while dialog.count():
                page.keyboard.press("Escape")
                page.wait_for_timeout(DRAWN_MS)
        watch.look(f"{place} after {name[:40]}")


def test_an_address_that_somebody_sent_does_nothing_but_show_a_page(browser: Browser, house: House) -> None:
    """Whatever stands in its path, its query and behind the #: no script, no other place, no page that breaks."""
    names = "state view tab day policy subject actor action since until name path run after expression text tier kind"
    said = "&".join(f"{name}={quote(HOSTILE)}" for name in names.split())
    strange = [f"/runs/{quote(HOSTILE, safe='')}", f"/slides/{quote('../../v1/status', safe='')}",
               "/%2e%2e%2fv1/status", "//evil.example/", "/javascript:window.owned=1"]  # fmt: skip
    with seen(browser, house.url) as one:
        watch = Watched(one)
        one.sign_in(house.tokens["admin"])
        one.expect(404, 422)
        for place in [place for place in addresses(house) if "?" not in place] + strange:
            one.go(f"{place}?{said}#{quote(HOSTILE)}")
            rest(one.page)
            watch.look(place)
        for to in (
            f"/ui/runs?{said}#{quote(HOSTILE)}",
            f"/ui{strange[0]}",
            "/ui/?sign-in=failed&to=javascript:owned=1",
        ):
            one.page.goto(house.url + to)
            rest(one.page)
            watch.look(to)
    assert watch.harm + one.complaints == [], "\n".join(watch.harm + one.complaints)


# --- another page, in the next tab ------------------------------------------------------------------------------

EVIL = """<!doctype html><meta charset=utf-8><title>free slides</title>
<form id=f method=post enctype=text/plain action="%(deed)s" target=t><input name='{"a":"' value='"}'></form>
<form id=g method=post enctype="application/x-www-form-urlencoded" action="%(url)s/v1/session" target=t></form>
<iframe name=t></iframe><iframe src="%(url)s/ui/"></iframe><iframe src="%(url)s/v1/runs"></iframe>
<img src="%(url)s/v1/runs" onload="document.title='drawn'"><script src="%(url)s/v1/status"></script>
<script>
window.got = [];
const keep = async (name, asking) => {
  try { const a = await asking(); got.push([name, a.type, a.status]); } catch { got.push([name, 'refused', 0]); }
};
const post = (to, more) => () => fetch(to, { method: 'POST', credentials: 'include', body: '{}', ...more });
const socket = () => new Promise((yes, no) => {
  const one = new WebSocket("%(socket)s");
  one.onopen = () => yes({ type: 'open', status: 101 });
  one.onerror = no;
});
(async () => {
  const me = "%(url)s/v1/session";
  await keep('plain', post("%(deed)s", { mode: 'no-cors' }));
  await keep('json', post("%(deed)s", { headers: { 'Content-Type': 'application/json' } }));
  await keep('delete', post(me, { method: 'DELETE' }));
  await keep('read', () => fetch(me, { credentials: 'include' }));
  await keep('blind', () => fetch(me, { mode: 'no-cors', credentials: 'include' }));
  await keep('login', post(me, { mode: 'no-cors', body: '{"token":"mvr_evil"}' }));
  await keep('socket', socket);
  navigator.sendBeacon("%(deed)s", new Blob(['{}'], { type: 'text/plain' }));
  document.getElementById('f').submit();
  document.getElementById('g').submit();
  document.title = 'done ' + document.title;
})();
</script>"""


@contextmanager
def serving(text: str) -> Iterator[str]:
    """On another port of this machine, which for a browser is the same site: it sends the strict cookie along."""

    class Evil(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Not on the tests' own output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_page_of_somebody_else_changes_reads_and_frames_nothing_with_the_cookie_of_who_opened_it(
    browser: Browser, house: House
) -> None:
    """The nearest that an attacker's page can be: another program on this machine. The cookie comes along; that is why
    it alone is never enough."""
    run = house.runs.ready
    deed = f"{house.url}/v1/runs/{run}"
    evil = EVIL % {"url": house.url, "deed": f"{deed}/cancel", "socket": f"{deed}/events".replace("http", "ws", 1)}
    with seen(browser, house.url) as one, serving(evil) as place:
        one.sign_in(house.tokens["operator"])
        one.settled()
        page = one.page.context.new_page()
        asked: list[Request] = []
        page.on("request", lambda one: asked.extend([one] * (one.method in ("POST", "DELETE"))))
        page.goto(place)
        expect(page).to_have_title(re.compile("^done"))
        expect(page).not_to_have_title(re.compile("drawn"))
        got = {name: (kind, status) for name, kind, status in page.evaluate("window.got")}
        assert {status for _, status in got.values()} == {0}, "nothing of an answer can be read"
        assert got["json"][0] == got["delete"][0] == got["read"][0] == got["blind"][0] == got["socket"][0] == "refused"
        assert len(asked) >= 5 and any("mover=" in one.all_headers().get("cookie", "") for one in asked), asked
        answers = [one.response() for one in asked]
        assert {answer.status for answer in answers if answer} <= {403, 415}
        framed = [frame.url for frame in page.frames if frame != page.main_frame]
        assert not [url for url in framed if url.startswith(house.url) and "/ui" in url or "/v1/runs" in url], framed
        one.page.reload()
        expect(one.page.locator("main.page h1")).to_be_visible()
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        assert client.runs.view(run).state == "ready"


# --- two persons ------------------------------------------------------------------------------------------------


def person(house: House, admin: SyncClient, name: str) -> str:
    """An admin of a year ago, who is nobody else: as root makes one at the machine."""
    made = admin.tokens.make(wire.TokenRequest(actor=name, role="admin"))
    change = "update mover.token set person = id, created_at = now() - interval '1 year' where id = %s"
    house.change(change, made.id)
    assert made.secret
    return made.secret


def test_two_people_let_go_of_what_one_of_them_cannot_however_many_they_pretend_to_be(
    walk: Walk, house: House, browser: Browser
) -> None:
    """One asks in the browser, another approves in theirs, and it is carried out. The first one's second window, own
    further tokens, a token in the second one's name and one made by it: all of them are one person."""
    with SyncClient(house.url, token=house.tokens["admin"]) as admin:
        house.tokens.update(ann=person(house, admin, "ann"), bea=person(house, admin, "bea"))
    one = walk("ann", "/snapshots")
    page, why = one.page, "the reviewers are done with it"
    page.get_by_role("grid", name="Snapshots").locator("a[href*='/snapshots/']").last.click()
    page.get_by_role("button", name="Hold", exact=True).click()
    page.get_by_role("dialog").get_by_label("Why").fill("for the reviewers")
    page.get_by_role("dialog").get_by_role("button", name="Hold", exact=True).click()
    expect(page.get_by_text("Held by ann: for the reviewers")).to_be_visible()
    page.get_by_role("button", name="Ask to release").click()
    page.get_by_role("dialog").get_by_label("Why").fill(why)
    page.get_by_role("dialog").get_by_role("button", name="Ask to release").click()
    expect(page.get_by_text(f"“{why}”")).to_be_visible()

    window = walk("ann", "/snapshots?view=two").page
    mine = window.get_by_role("listitem").filter(has_text=why)
    expect(mine.get_by_role("button", name="Approve", exact=True)).to_be_disabled()
    with SyncClient(house.url, token=house.tokens["ann"]) as ann:
        asked = next(each for each in ann.shortenings.list().shortenings if each.reason == why)
        pretended = ann.tokens.make(wire.TokenRequest(actor="bea", role="admin")).secret
        house.tokens["pretended"] = pretended or ""
        with SyncClient(house.url, token=pretended) as second:
            third = second.tokens.make(wire.TokenRequest(actor="carl", role="admin")).secret
        house.change("update mover.token set created_at = now() - interval '1 year' where actor in ('bea', 'carl')")
        for secret in (house.tokens["ann"], pretended, third):
            with SyncClient(house.url, token=secret) as again, pytest.raises(Denied, match="one person"):
                again.shortenings.approve(asked.id)
    disguised = walk("pretended", "/snapshots?view=two")
    disguised.expect(403)
    approve(disguised.page, why)
    expect(disguised.page.get_by_role("dialog").get_by_role("alert")).to_contain_text("are one person")

    other = walk("bea", "/snapshots?view=two").page
    approve(other, why)
    expect(other.get_by_role("listitem").filter(has_text=why)).to_contain_text("Approved by bea")
    columns = ("requested_at", "not_before", "lapses_at", "approved_at")
    earlier = ", ".join(f"{column} = {column} - interval '5 days'" for column in columns)
    house.change(f"update mover.protect_request set {earlier} where id = %s", asked.id)
    with SyncClient(house.url, token=house.tokens["admin"]) as admin:
        turned = admin.turns.request(wire.TurnRequest(kind="keep", policy="protect"))
        assert admin.turns.wait(turned.id, timeout_s=300).state == "done"
        records = admin.audit.page(subject=asked.id).records
    done = other.get_by_role("grid", name="Requests").get_by_role("row").filter(has_text=why).first
    expect(done).to_contain_text("applied")
    expect(page.get_by_text("Held by ann: for the reviewers")).to_have_count(0)
    [approved] = [each.body for each in records if each.body["action"] == "protection: shortening approved"]
    assert (approved["actor"], approved["details"]["requested by"]) == ("bea", "ann")


def approve(page: Page, why: str) -> None:
    page.get_by_role("listitem").filter(has_text=why).get_by_role("button", name="Approve", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Approve", exact=True).click()
