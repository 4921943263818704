"""The first page: what needs somebody, what moved, how full it is; in both themes, and readable in both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from mover.web.assets import HOME
from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_what_needs_somebody_stands_first_and_leads_there(walk: Walk, house: House) -> None:
    """The demo's hospital has packs in quarantine and no policy for dumps."""
    one = walk("admin")
    one.settled()
    page = one.page
    needs = page.locator("#needs li")
    expect(needs.filter(has_text="no policy of kind dump")).to_contain_text("now")
    expect(needs.filter(has_text="in quarantine")).to_contain_text("soon")
    for tier in ("intake", "archive", "flash", "protect"):
        expect(page.locator("#tiers")).to_contain_text(tier)
    page.locator("#runs-now").get_by_role("link").nth(1).click()
    expect(page).to_have_url(re.compile("/ui/runs/run-"))
    page.go_back()
    expect(page.locator("h1")).to_have_text("Overview")


def test_bytes_that_moved_are_a_picture_with_its_numbers(walk: Walk) -> None:
    """A plot is a canvas: its numbers stand below it, for who cannot see it and for tests."""
    one = walk("viewer")
    moving = one.page.locator("#moving")
    expect(moving.locator("canvas")).to_be_visible()
    expect(moving.locator(".big").filter(has_text="archive → flash")).to_contain_text("in the hour")
    moving.get_by_text("Numbers").click()
    expect(moving.get_by_role("columnheader", name="archive → flash")).to_be_visible()


def test_a_custodian_sees_only_what_is_a_custodians(walk: Walk) -> None:
    one = walk("custodian")
    one.settled()
    for id in ("tiers", "moving", "runs-now"):
        expect(one.page.locator(f"#{id}")).to_have_count(0)
    expect(one.page.get_by_role("navigation", name="Pages").get_by_role("link", name="Runs")).to_have_count(0)


def test_a_session_outlives_a_reload_and_ends_for_good(walk: Walk) -> None:
    one = walk("operator", "/runs")
    one.page.reload()
    expect(one.page.locator("h1")).to_have_text("Runs")
    one.page.get_by_role("button", name="Sign out").click()
    expect(one.page.get_by_role("heading", name="Sign in to Mover")).to_be_visible()
    one.page.reload()
    expect(one.page.get_by_role("heading", name="Sign in to Mover")).to_be_visible()


def test_the_theme_is_chosen_and_remembered(walk: Walk) -> None:
    one = walk("viewer", dark=True)
    one.settled()
    root = one.page.locator("html")
    expect(root).to_have_attribute("data-theme", "dark")
    button = one.page.get_by_role("button", name="Theme")
    button.click()
    expect(root).to_have_attribute("data-theme", "light")
    one.page.reload()
    expect(root).to_have_attribute("data-theme", "light")


# --- colours ----------------------------------------------------------------------------------------------

# WCAG 2.2, 1.4.3: text needs 4.5 to 1; 1.4.11: the edges of what is pressed, 3 to 1
TEXT = [(ink, paper) for ink in ("ink", "ink-2") for paper in ("paper", "sheet", "well")]
TEXT += [("ink-3", "sheet"), ("ink-3", "paper"), ("accent", "sheet"), ("accent", "paper"), ("accent-ink", "accent")]
TEXT += [(tone, place) for tone in ("good", "work", "wait", "warn", "bad") for place in ("sheet", f"{tone}-well")]
EDGES = [
    ("rule-strong", "sheet"),
    ("focus", "sheet"),
    ("accent", "well"),
    *((f"{t}-area", "well") for t in ("good", "work", "bad")),
]


def themes() -> Iterator[tuple[str, dict[str, str]]]:
    text = (Path(HOME) / "static" / "style" / "tokens.css").read_text()
    for name in ("light", "dark"):
        block = re.search(rf'\[data-theme="{name}"\] \{{(.*?)\n\}}', text, re.DOTALL)
        assert block is not None
        yield name, dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block[1]))


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_text_can_be_read_on_its_ground(theme: str) -> None:
    colours = dict(themes())[theme]
    low = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in TEXT}
    assert {pair: found for pair, found in low.items() if found < 4.5} == {}
    edges = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in EDGES}
    assert {pair: found for pair, found in edges.items() if found < 3.0} == {}
