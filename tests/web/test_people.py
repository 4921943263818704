"""The pages of people and of alarms: rights given and taken in the browser, and who is told of trouble."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_an_account_is_made_given_another_role_and_disabled(walk: Walk) -> None:
    """The first password is shown once, and gone with its dialog."""
    one = walk("admin", "/people")
    page = one.page
    page.get_by_role("button", name="Add an account").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=False).first.fill("erika")
    dialog.get_by_role("button", name="Add an account").click()
    expect(dialog.get_by_text("It is shown now and never again")).to_be_visible()
    secret = dialog.locator("code").inner_text()
    assert len(secret) >= 12
    dialog.get_by_role("button", name="I have it").click()
    assert secret not in page.content()
    grid = page.get_by_role("grid", name="Accounts")
    for deed in ("Change the role", "Disable"):
        grid.get_by_role("button", name="erika").click()
        page.get_by_role("button", name=deed, exact=True).click()
        page.locator("dialog").last.get_by_role("button", name=deed, exact=True).click()
        expect(page.get_by_role("dialog")).to_have_count(0)
    expect(grid.get_by_text("disabled", exact=True)).to_be_visible()
    page.get_by_role("tab", name="Tokens").click()
    expect(page.get_by_role("grid", name="Tokens").get_by_text("the-operator")).to_be_visible()


def test_a_viewer_reads_alarms_and_knows_nothing_of_people(walk: Walk) -> None:
    one = walk("viewer", "/alarms")
    expect(one.page.get_by_text("No alarm stands")).to_be_visible()
    expect(one.page.get_by_role("button", name="Test a receiver")).to_have_count(0)
    expect(one.page.get_by_role("link", name="People")).to_have_count(0)
    one.go("/people")
    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
