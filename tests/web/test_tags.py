"""The page of tags: put on by an expression, seen on the slide and in the list, taken back; and what is cold."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_slides_are_tagged_found_by_the_tag_and_the_change_is_taken_back(walk: Walk) -> None:
    """By the words of this walk alone: others tag, too. New words are an admin's."""
    one = walk("admin", "/tags")
    one.expect(422)  # what reads like a name is no tag
    page = one.page
    page.get_by_role("button", name="Tag slides").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Tag (needed)").fill("walked-by-tags")
    dialog.get_by_label("Slides where").fill("size_bytes > 0")
    expect(dialog.get_by_text("Plan, nothing is done yet.")).to_be_visible()
    dialog.get_by_role("button", name="Tag slides").click()
    expect(dialog).to_have_count(0)
    in_use = page.locator("#tags-in-use li").filter(has_text="walked-by-tags")
    expect(in_use).to_be_visible()
    in_use.get_by_role("link").click()
    expect(page.get_by_role("combobox", name="Tag")).to_have_value("walked-by-tags")
    page.get_by_role("grid", name="Slides").get_by_role("link").first.click()
    on_slide = page.locator("#slide-tags")
    expect(on_slide).to_contain_text("walked-by-tags")
    on_slide.get_by_role("button", name="Add a tag").click()
    dialog.get_by_label("Tag (needed)").fill("Mueller 47111")
    expect(dialog.get_by_text("small letters")).not_to_have_count(0)
    page.keyboard.press("Escape")

    one.go("/tags?tag=walked-by-tags")
    changes = page.get_by_role("grid", name="Changes of tags")
    changes.get_by_role("button", name="Undo").first.click()
    dialog.get_by_role("button", name="Undo").click()
    expect(changes.get_by_text("taken back").first).to_be_visible()
    expect(page.locator("#tags-in-use li").filter(has_text="walked-by-tags")).to_have_count(0)


def test_what_is_cold_is_told_by_slide_and_by_folder_and_a_viewer_tags_nothing(walk: Walk) -> None:
    """Whatever of it is cold: mostly nothing, the hospital of the walks is minutes old."""
    one = walk("viewer", "/tiers/archive?tab=cold&older=30", narrow=True)
    page = one.page
    one.settled()
    expect(page.locator("#ageing")).to_contain_text("used in the last")
    expect(page.get_by_role("heading", name="The longest unused")).to_be_visible()
    page.get_by_role("combobox", name="by").select_option("folder")
    expect(page).to_have_url(re.compile("by=folder"))
    for deed in ("Tag these slides", "Tag slides", "Undo"):
        expect(page.get_by_role("button", name=deed)).to_have_count(0)
    one.go("/tiers/intake")
    one.settled()
    expect(page.get_by_role("tab", name="Cold")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
