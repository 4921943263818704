"""The pages of cohorts: an expression is written with help, saved, frozen and dealt out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_an_expression_is_completed_corrected_counted_saved_and_frozen(walk: Walk) -> None:
    """The scientist's way: names and values are offered, a mistake is pointed at where it stands, the count follows."""
    one = walk("operator", "/cohorts")
    one.expect(422)  # what is half typed is no expression yet
    page = one.page
    field = page.get_by_role("combobox", name="Cohort expression")
    field.press_sequentially("scanned_y")
    expect(page.get_by_role("option")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(field).to_have_value("scanned_year ")
    expect(page.get_by_role("option", name=re.compile("between"))).to_be_visible()
    page.keyboard.press("Escape")
    field.press_sequentially(">= 1900 adn")
    wrong = page.locator(".wrong")
    expect(wrong).to_contain_text("this is not an expression")
    place = int(wrong.get_by_role("button").inner_text().removeprefix("character "))
    assert "scanned_year >= 1900 adn"[place - 1] == page.locator(".expression mark").inner_text()
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_disabled()
    field.fill("scanned_year >= 1901")
    expect(page.locator(".count-line strong")).to_have_text(re.compile(r"^[1-9]"))
    expect(page.locator(".spread").first).to_be_visible()

    page.get_by_role("tab", name="Clause by clause").click()
    expect(page.get_by_role("list", name="Clauses").get_by_role("listitem").first).to_be_visible()
    page.get_by_role("button", name="Save", exact=True).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Name").fill("walked")
    dialog.get_by_text("The same by command line and API").click()
    expect(dialog.get_by_text("mover cohort save walked 'scanned_year >= 1901'")).to_be_visible()
    dialog.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("h1")).to_have_text("walked@1")

    page.get_by_label("Share of train").fill("0.8")
    expect(page.get_by_text("The shares are 1.1 together, not 1")).to_be_visible()
    expect(page.get_by_role("button", name="Deal out")).to_be_disabled()
    page.get_by_role("button", name="Freeze", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Freeze", exact=True).click()
    expect(page.locator("h1")).to_contain_text("selection-")
    expect(page.get_by_role("grid", name="Numbers").get_by_role("row").nth(1)).to_be_visible()
    page.get_by_role("button", name="Ask for a run with it").click()
    expect(page.get_by_role("dialog").get_by_text("Plan, nothing is done yet.")).to_be_visible()


def test_who_may_only_look_counts_and_changes_nothing(walk: Walk) -> None:
    one = walk("viewer", "/cohorts/all-slides@1", narrow=True)
    one.settled()
    page = one.page
    expect(page.locator(".count-line strong")).to_have_text(re.compile(r"^[1-9]"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for deed in ("Save", "Save as next version", "Freeze", "Deal out", "Ask for a run with it"):
        expect(page.get_by_role("button", name=deed, exact=True)).to_have_count(0)
