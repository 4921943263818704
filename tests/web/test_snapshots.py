"""The pages of snapshots: why each is kept, what lies in it, how it comes back, and what takes two persons."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_a_snapshot_is_found_by_its_day_read_held_and_restored_also_in_place(walk: Walk, house: House) -> None:
    """The way back after a loss, as one person goes it: the day, the files, a plan, the files again."""
    one = walk("admin", "/snapshots")
    page = one.page
    page.get_by_role("group", name=re.compile("Snapshots of each day")).get_by_role("button").last.click()
    assert "day=20" in page.url
    grid = page.get_by_role("grid", name="Snapshots")
    expect(grid.get_by_role("row").nth(1)).to_contain_text("checked")
    ours = grid.get_by_role("row").filter(has=page.locator(f'a[href$="{house.runs.cleaned}"]'))
    ours.get_by_role("link").first.click()
    files = page.get_by_role("grid", name="Files")
    expect(files.get_by_text("model.pt")).to_be_visible()
    files.get_by_role("button", name="versions").first.click()
    expect(page.get_by_role("grid", name="Versions").get_by_role("row").nth(1)).to_contain_text("new")
    assert "model" not in page.url
    page.get_by_role("navigation", name="Folder").get_by_role("button", name="all").click()

    to = house.policies.parent / "home" / "back"
    _restore(one, to, in_place=False)
    expect(page.locator("h1")).to_contain_text("complete")
    model = next(to.rglob("model.pt"))
    whole = model.read_bytes()
    model.write_bytes(b"spoilt")
    page.get_by_role("link", name=re.compile("^snapshot")).click()
    _restore(one, to, in_place=True)
    expect(page.locator("h1")).to_contain_text("complete")
    assert model.read_bytes() == whole
    expect(page.get_by_text("moved aside")).to_be_visible()


def _restore(one: Seen, to: Path, *, in_place: bool) -> None:
    page = one.page
    page.get_by_role("button", name="Restore", exact=True).click()
    dialog = page.get_by_role("dialog")
    if in_place:
        dialog.get_by_label("In place").check()
    dialog.get_by_label("Into the folder").fill(str(to))
    expect(dialog.get_by_text("Plan, nothing is done yet.")).to_be_visible()
    if in_place:
        dialog.get_by_text("The same by command line and API").click()
        expect(dialog.get_by_text(re.compile(r"--in-place.* --agreed")).first).to_be_visible()
    dialog.get_by_role("button", name="Restore", exact=True).click()
    expect(page.get_by_role("heading", name="How far")).to_be_visible()


def test_a_release_is_asked_for_not_approved_by_a_new_token_and_rules_are_tried_as_a_picture(walk: Walk) -> None:
    """Who makes a token to approve with it is told so where it was tried; the request stays and can be withdrawn."""
    one = walk("operator", "/snapshots")
    page = one.page
    page.get_by_role("grid", name="Snapshots").get_by_role("link").first.click()
    page.get_by_role("button", name="Hold", exact=True).click()
    page.get_by_role("dialog").get_by_label("Why").fill("evidence for the thesis")
    page.get_by_role("dialog").get_by_role("button", name="Hold", exact=True).click()
    expect(page.get_by_text("Held by the-operator: evidence for the thesis")).to_be_visible()
    page.get_by_role("button", name="Ask to release").click()
    page.get_by_role("dialog").get_by_label("Why").fill("the thesis is handed in")
    page.get_by_role("dialog").get_by_role("button", name="Ask to release").click()
    expect(page.get_by_text("“the thesis is handed in”")).to_be_visible()
    expect(page.get_by_role("button", name="Approve", exact=True)).to_have_count(0)

    other = walk("second", "/snapshots?view=two")
    other.expect(403)
    other.page.get_by_role("button", name="Approve", exact=True).click()
    dialog = other.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Approve", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("made too short before the request")
    other.page.keyboard.press("Escape")
    page.get_by_role("button", name="Withdraw", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Withdraw", exact=True).click()
    expect(page.get_by_role("grid", name="Requests").get_by_role("row").nth(1)).to_contain_text("withdrawn")
    other.go("/snapshots?view=retention")
    other.page.get_by_label("last", exact=True).fill("1")
    expect(other.page.get_by_text(re.compile("^With last 1"))).to_be_visible()
    expect(other.page.get_by_text("Less than the policy's file promises")).to_be_visible()


def test_who_may_only_look_is_offered_no_way_to_change_a_snapshot(walk: Walk) -> None:
    one = walk("viewer", "/snapshots", narrow=True)
    page = one.page
    expect(page.get_by_role("grid", name="Snapshots").get_by_role("row").nth(1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("grid", name="Snapshots").get_by_role("link").first.click()
    one.settled()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for deed in ("Restore", "Hold", "Tag", "Ask to forget"):
        expect(page.get_by_role("button", name=deed, exact=True)).to_have_count(0)
