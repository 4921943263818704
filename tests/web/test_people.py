"""The pages of people and of alarms: rights given and taken in the browser, and who is told of trouble."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from mover.model import wire
from mover.sdk import SyncClient
from tests.web.browser import Seen, seen
from tests.web.hospital import House

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


def test_a_person_changes_the_password_and_has_tokens_of_their_own(browser: Browser, house: House) -> None:
    """What was typed stands nowhere afterwards, and the old password opens nothing."""
    with SyncClient(house.url, token=house.tokens["admin"]) as admin:
        first = admin.accounts.make(wire.AccountRequest(name="yuki", role="viewer")).secret or ""
    with seen(browser, house.url) as one:
        page = one.page
        for password in (first, "four random words"):
            page.goto(f"{house.url}/ui/you")
            page.locator("#name").fill("yuki")
            page.locator("#password").fill(password)
            page.get_by_role("button", name="Sign in", exact=True).click()
            expect(page.locator("h1")).to_have_text("You")
            if password == first:
                page.get_by_label("The one before").fill(first)
                page.get_by_label("A new one").fill("four random words")
                page.get_by_label("The new one again").fill("four random words")
                page.get_by_role("button", name="Change the password").click()
                expect(page.get_by_text(re.compile("^Changed"))).to_be_visible()
                expect(page.get_by_label("A new one")).to_have_value("")
                page.get_by_role("button", name="Make a token").click()
                dialog = page.get_by_role("dialog")
                dialog.get_by_label("For", exact=False).first.fill("laptop")
                dialog.get_by_label("Ends").fill("2027-01-01T00:00")
                dialog.get_by_role("button", name="Make a token").click()
                expect(dialog.get_by_text("It is shown now and never again")).to_be_visible()
                assert dialog.locator("code").inner_text().startswith("mvr_")
                dialog.get_by_role("button", name="I have it").click()
                expect(page.get_by_role("grid", name="Your tokens").get_by_text("yuki/laptop")).to_be_visible()
                page.get_by_role("button", name="Sign out").click()
                expect(page.locator("#password")).to_be_visible()
        assert one.complaints == []


def test_a_viewer_reads_alarms_and_knows_nothing_of_people(walk: Walk) -> None:
    one = walk("viewer", "/alarms")
    expect(one.page.get_by_text("No alarm stands")).to_be_visible()
    expect(one.page.get_by_role("button", name="Test a receiver")).to_have_count(0)
    expect(one.page.get_by_role("link", name="People")).to_have_count(0)
    one.go("/people")
    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
