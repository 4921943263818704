"""Do tables and images agree? The matrix, the lines behind a figure, and the way to mended tables."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_a_figure_of_the_matrix_leads_to_its_lines_and_a_line_to_its_slide(walk: Walk) -> None:
    one = walk("operator", "/records")
    page = one.page
    page.get_by_role("grid", name="Sets of tables").get_by_role("link").first.click()
    expect(page.locator("h1")).to_contain_text("aligned")
    matrix = page.locator("#matrix")
    figure = matrix.get_by_role("button", name="matched of imagery")
    amount = int(figure.inner_text())
    figure.click()
    assert "table=imagery" in page.url and "state=matched" in page.url
    lines = page.get_by_role("grid", name="Lines")
    expect(page.locator("#lines")).to_contain_text("Lines of imagery, matched")
    expect(lines).to_have_attribute("aria-rowcount", str(amount + 1))
    expect(lines.locator(".badge:not(.good)")).to_have_count(0)
    page.get_by_role("button", name="Declare mended tables").click()
    page.get_by_role("dialog", name="What lies there").get_by_role("button", name="Show the tables").click()
    dialog = page.get_by_role("dialog", name="Declare mended tables")
    one.expect(404, 409, 422)  # tables of two batches, perhaps: the plan says so
    for table in ("imagery", "cases", "outcomes"):
        dialog.get_by_label(f"{table} (needed)").select_option(index=1)
    expect(dialog.locator("code").first).to_contain_text(re.compile(r"mover records add \S+ imagery=\S+\.csv cases="))
    expect(dialog.get_by_text("Plan, nothing is done yet.").or_(dialog.get_by_role("alert"))).to_be_visible()
    page.keyboard.press("Escape")
    lines.get_by_role("link").first.click()
    expect(page.locator("#evidence")).to_be_visible()


def test_who_may_only_look_sees_the_matrix_on_a_phone(walk: Walk) -> None:
    one = walk("viewer", "/records", narrow=True)
    page = one.page
    page.get_by_role("grid", name="Sets of tables").get_by_role("link").first.click()
    expect(page.locator("#matrix")).to_be_visible()
    one.settled()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for deed in ("Declare mended tables", "Match again", "Declare tables"):
        expect(page.get_by_role("button", name=deed)).to_have_count(0)
