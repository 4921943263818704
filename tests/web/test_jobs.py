"""The page of nodes and jobs: who carries the work, and what each piece is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_work_is_found_by_state_kind_and_subject_and_every_choice_is_in_the_address(walk: Walk, house: House) -> None:
    one = walk("operator", "/jobs")
    page = one.page
    node = page.locator(".nodes li")
    expect(node).to_have_count(1)
    expect(node).to_contain_text("online")
    grid = page.get_by_role("grid", name="Shards")
    expect(grid.get_by_role("row").nth(1)).to_be_visible()
    page.get_by_role("tab", name="failed").click()
    expect(page.get_by_text("No shard is failed")).to_be_visible()
    page.get_by_role("tab", name="done").click()
    page.get_by_label("For", exact=True).fill(house.runs.ready)
    page.keyboard.press("Enter")
    page.get_by_label("Kind", exact=True).fill("run-seal")
    page.keyboard.press("Enter")
    expect(grid.get_by_role("row")).to_have_count(2)
    assert f"state=done&subject={house.runs.ready}&kind=run-seal" in page.url
    grid.locator("button.mono").click()
    shard = page.get_by_role("dialog")
    expect(shard).to_contain_text("1 time, 0 failures")
    shard.get_by_role("button", name="All work for the same").click()
    expect(grid.get_by_text("run stage")).to_be_visible()
    grid.get_by_role("link").first.click()
    expect(page.locator("h1")).to_contain_text(house.runs.ready)


def test_a_custodian_has_nothing_to_do_with_work(walk: Walk) -> None:
    one = walk("custodian", "/jobs")
    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
