"""Every page there is, for every role: nothing is complained of, something is told, and everybody can reach it.

In the hospital of the other walks with five thousand slides more; `make soak` walks it without them, too, and with a
hundred thousand. The pages are those of `pages/table.js`, and who may see one is what the API says of the operation
that it needs: a new page is walked by itself, as soon as `hospital.places` knows one thing that it can be about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from msgspec import Struct
from playwright.sync_api import Browser, expect

from bench.hospital import Scale, fill
from mover.api import OPERATIONS
from mover.decide.access import ACTIONS
from mover.web.assets import HOME
from tests.system.ward import Ward
from tests.web.browser import Seen, seen
from tests.web.conftest import ROLES, living
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

_PAGE = re.compile(r'name: "(\w+)", title: "([^"]+)", paths: \[([^\]]+)\], needs: "([\w.]+)"')

# What anybody with a keyboard, a screen reader or a small screen would trip over, as far as the page itself can tell.
CHECK = """() => {
  const found = [];
  const told = (one) => one.outerHTML.slice(0, 120);
  const seen = (one) => one.checkVisibility();
  const named = (one) => (one.getAttribute("aria-label") || one.textContent.trim() || one.title || one.alt
    || [...(one.labels ?? [])].map((label) => label.textContent.trim()).join("")
    || (one.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id)));
  const controls = "a[href], button, input, select, textarea, summary, [role=tab], [role=grid], [role=img]";
  for (const one of document.querySelectorAll(controls))
    if (seen(one) && !named(one)) found.push(`no name: ${told(one)}`);
  for (const one of document.querySelectorAll("img")) if (!one.hasAttribute("alt")) found.push(`no alt: ${told(one)}`);
  for (const one of document.querySelectorAll("main table"))
    if (seen(one) && !one.querySelector("th")) found.push(`no headers: ${told(one)}`);
  for (const one of document.querySelectorAll("[role=grid]"))
    if (seen(one) && !one.querySelector("[role=columnheader]")) found.push(`no headers: ${told(one)}`);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of new Set(ids.filter((one, at) => ids.indexOf(one) !== at))) found.push(`id twice: ${id}`);
  if (document.querySelectorAll("main h1").length !== 1) found.push("not one heading");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
  return found;
}"""
IN_MAIN = """() => {
  const main = document.querySelector("main");
  return main.contains(document.activeElement) || !main.querySelector("a[href], button, input, select, [tabindex='0']");
}"""
TOLD = 60  # characters besides the heading: less is an empty page


class Page(Struct, frozen=True):
    title: str
    paths: list[str]
    needs: str


def pages() -> list[Page]:
    text = (HOME / "static" / "pages" / "table.js").read_text("utf-8")
    found = [Page(title, re.findall(r'"([^"]+)"', paths), needs) for _, title, paths, needs in _PAGE.findall(text)]
    assert len(found) == text.count("load: () => import") > 10
    return found


@pytest.fixture(scope="module", params=[5_000, pytest.param(100_000, marks=pytest.mark.soak)])
def large(
    worked: Ward, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[House]:
    scale = Scale(request.param)
    with living(worked, tmp_path_factory.mktemp("large"), lambda dsn: fill(dsn, "demo", scale)) as one:
        yield one


@pytest.mark.soak
@pytest.mark.parametrize("role", ROLES)
def test_every_page_of_a_small_hospital_is_there_for_who_may_see_it(browser: Browser, house: House, role: str) -> None:
    assert walk(browser, house, role) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_page_of_a_large_hospital_is_there_for_who_may_see_it(browser: Browser, large: House, role: str) -> None:
    """Folders and runs by the hundred, thousands of snapshots, years of history."""
    assert walk(browser, large, role) == []


def walk(browser: Browser, house: House, role: str) -> list[str]:
    """What there is to complain of, page by page. A phone is walked as well as a desk: each role has one of the two."""
    needed = {operation.name: ACTIONS[operation.action] for operation in OPERATIONS}
    found = []
    with seen(browser, house.url, narrow=role in ("viewer", "custodian")) as one:
        one.sign_in(house.tokens[role])
        for page in pages():
            for path in page.paths:
                one.go(house.places.get(path, path))
                if role in needed[page.needs]:
                    expect(one.page.locator("main.page h1").first, path).to_be_visible()
                    found += [f"{path}: {line}" for line in looked_at(one, page)]
                else:
                    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
        found += one.complaints
    return found


def looked_at(one: Seen, page: Page) -> list[str]:
    one.settled()
    found: list[str] = one.page.evaluate(CHECK)
    told = one.page.locator("main.page").inner_text()
    if len(told) < TOLD:
        found.append(f"says only: {told}")
    if page.paths != ["/"]:  # where one came in has the focus of the document, and a link that skips to the page
        one.page.keyboard.press("Tab")
        if not one.page.evaluate(IN_MAIN):
            found.append("Tab leaves the page at once")
    return found
