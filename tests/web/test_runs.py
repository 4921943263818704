"""The pages of runs, walked in a browser by people of each role."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_a_run_is_found_read_and_finished_without_a_reload(walk: Walk, house: House) -> None:
    """From the list by keyboard to one run, its plan, the deed, and the states that follow as they come."""
    one = walk("operator", "/runs")
    page = one.page
    grid = page.get_by_role("grid", name="Runs")
    rows = grid.get_by_role("row")
    expect(rows.filter(has=page.locator(f'a[href$="{house.runs.ready}"]'))).to_have_count(1)
    page.get_by_label("Filter Runs").fill("refused")
    # runs of other walks stand there, too, and none of them in this state
    expect(rows.filter(has=page.locator(f'a[href$="{house.runs.ready}"]'))).to_have_count(0)
    expect(rows.filter(has=page.locator(f'a[href$="{house.runs.refused}"]'))).to_have_count(1)
    assert "runs-filter=refused" in page.url
    page.get_by_label("Filter Runs").fill("")
    grid.focus()
    for key in ("Home", "Enter"):
        page.keyboard.press(key)
    expect(page.locator("h1")).to_contain_text(re.compile("cleaned|protected|ready|refused"))

    one.go(f"/runs/{house.runs.ready}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(house.runs.ready)
    expect(page.locator(".events li")).to_have_count(5)
    page.get_by_role("button", name="Finish", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Plan, nothing is done yet.")).to_be_visible()
    dialog.get_by_text("The same by command line and API").click()
    expect(dialog.get_by_text(f"mover run finish {house.runs.ready}")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Finish", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Finish", exact=True).click()
    expect(page.locator("h1")).to_contain_text("protected")
    page.get_by_role("button", name="Clean up").click()
    plan = page.get_by_role("region", name="Steps of the plan")
    expect(plan.get_by_role("row").nth(1)).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Clean up").click()
    expect(page.locator("h1")).to_contain_text("cleaned")
    expect(page.locator(".events li").first).to_contain_text("cleaned")


def test_who_may_only_look_is_offered_no_deed(walk: Walk, house: House) -> None:
    one = walk("viewer", f"/runs/{house.runs.refused}")
    one.settled()
    expect(one.page.get_by_text("Why it was refused")).to_be_visible()
    for deed in ("Finish", "Cancel", "Clean up", "Stage it again", "Ask for a run"):
        expect(one.page.get_by_role("button", name=deed)).to_have_count(0)


def test_a_role_that_may_not_see_runs_has_no_such_page(walk: Walk) -> None:
    """Absent, as the API answers 404: not greyed out, which would tell that there is something."""
    one = walk("custodian", "/runs")
    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
    expect(one.page.get_by_role("link", name="Runs")).to_have_count(0)


def test_pages_are_usable_on_a_phone_and_by_keys_alone(walk: Walk, house: House) -> None:
    one = walk("operator", f"/runs/{house.runs.cleaned}", narrow=True)
    one.settled()
    page = one.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Overview").click()
    expect(page.locator("h1")).to_have_text("Overview")
    page.keyboard.press("g")
    page.keyboard.press("r")
    expect(page.locator("h1")).to_have_text("Runs")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("go to Overview")
