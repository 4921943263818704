"""The page of tiers: what fills one, scanned and read again from the browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_a_tier_is_scanned_and_tells_by_folder_what_fills_it(walk: Walk) -> None:
    """Down to a folder by its area, and by the address again."""
    one = walk("operator", "/tiers")
    page = one.page
    page.get_by_role("heading", name="flash").get_by_role("link").click()
    expect(page.get_by_text("What it can do")).to_be_visible()
    expect(page.get_by_text(re.compile("^deletion is (on|off)$")).first).to_be_visible()
    page.get_by_role("button", name="Scan", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("The same by command line and API").click()
    expect(dialog.get_by_text("mover scan start flash", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Scan", exact=True).click()
    scans = page.get_by_role("grid", name="Scans")
    expect(scans.get_by_text("complete", exact=True).first).to_be_visible()
    page.get_by_role("tab", name="What fills it").click()
    # what the runs of now left there
    page.locator(".treemap").get_by_role("button").first.click()
    assert "folder=" in page.url
    expect(page.get_by_role("table", name="Bytes by size of file and by age")).to_be_visible()
    page.get_by_role("tab", name="Twice").click()
    expect(page.get_by_role("grid", name="Duplicates")).to_be_visible()

    page.get_by_role("button", name="Read again", exact=True).click()
    expect(page.get_by_role("dialog").get_by_text("Plan, nothing is done yet.")).to_be_visible()
    page.keyboard.press("Escape")


def test_folders_of_an_identified_tier_are_not_told_and_a_viewer_begins_nothing(walk: Walk) -> None:
    one = walk("viewer", "/tiers/intake?tab=usage", narrow=True)
    page = one.page
    one.settled()
    expect(page.locator(".treemap")).to_have_count(0)
    for deed in ("Scan", "Read again"):
        expect(page.get_by_role("button", name=deed, exact=True)).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
