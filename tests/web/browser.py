"""A browser for tests, pictures and people who write pages: Debian's Chromium, driven by Playwright.

Everything a browser complains of is kept: errors on the console (a refused script or style is one), exceptions nobody
caught, requests that failed or were refused. `Seen.complaints` is empty after a good walk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Response, Route, expect, sync_playwright

from mover.web.assets import HOME, TYPES

# The shell has Chromium's engine and nothing around it: a page opens for a fifth of the work.
_SHELL = Path("/usr/bin/chromium-headless-shell")
CHROMIUM = _SHELL if _SHELL.exists() else Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LAPTOP, NARROW = {"width": 1366, "height": 768}, {"width": 360, "height": 740}
# a machine that runs eight other things is slow and not broken
PATIENCE_MS = 60_000
Theme = Literal["light", "dark"]
expect.set_options(timeout=PATIENCE_MS)


class Seen:
    """One page of one person, with what its browser complained of. Answers that a walk provokes on purpose are
    told beforehand: `expect(403)`."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self._expected: set[int] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        page.on("response", self._response)

    def expect(self, *statuses: int) -> None:
        self._expected.update(statuses)

    def sign_in(self, token: str, path: str = "/") -> None:
        """By a token, as a person without an account does; ends on `path`."""
        self.page.goto(f"{self.url}/ui{path}")
        use = self.page.get_by_text("Use a token instead")
        field = self.page.locator("#token")
        use.or_(field).first.wait_for()
        if use.is_visible():
            use.click()
        field.fill(token)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.locator("main.page").wait_for()

    def go(self, path: str) -> None:
        """As a link does: without leaving the page, which would forget the token."""
        self.page.evaluate(
            "to => { history.pushState(null, '', '/ui' + to); dispatchEvent(new PopStateEvent('popstate')) }", path
        )

    def settled(self) -> None:
        """Nothing is loading any more."""
        self.page.locator("main.page h1").first.wait_for()
        # the page's policy refuses what `wait_for_function` would evaluate in it
        expect(self.page.locator(".skeleton")).to_have_count(0, timeout=PATIENCE_MS)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type != "error":
            return
        # Chromium says each refused answer a second time; `_response` judged it
        if not message.text.startswith("Failed to load resource: the server responded"):
            self.complaints.append(f"console: {message.text}")

    def _response(self, answer: Response) -> None:
        # nobody is signed in when the page first asks who is
        asking = answer.status == 401 and answer.url.endswith("/v1/session")
        if answer.status >= 400 and answer.status not in self._expected and not asking:
            self.complaints.append(f"{answer.status} {answer.request.method} {answer.url}")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = launch(driver)
        try:
            yield browser
        finally:
            browser.close()


def launch(driver: Playwright) -> Browser:
    return driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))


@contextmanager
def seen(
    browser: Browser, url: str, *, theme: Theme = "light", narrow: bool = False, checkout: bool = False
) -> Iterator[Seen]:
    """A person's own browser: nothing is shared with another. `checkout`: files come from here, not from the daemon."""
    size = NARROW if narrow else LAPTOP
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", timezone_id="UTC")  # type: ignore[arg-type]
    page = context.new_page()
    if checkout:
        page.route(re.compile(r"/ui/static/"), _from_checkout)
    try:
        yield Seen(page, url)
    finally:
        context.close()


def _from_checkout(route: Route) -> None:
    name = route.request.url.split("/ui/static/")[1].partition("/")[2]
    file = HOME / name if name.startswith("vendor/") else HOME / "static" / name
    if not file.is_file():
        route.continue_()  # what the daemon makes itself
        return
    route.fulfill(body=file.read_bytes(), content_type=TYPES[file.suffix])
