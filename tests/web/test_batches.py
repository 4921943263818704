"""Batches and what waits of them, walked by who decides and by who may only look."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.browser import Seen

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]
CAUSE = "neither content nor name belong to a known family"


def open_batch_that_waits(page: Page) -> None:
    row = page.get_by_role("grid", name="Batches").get_by_role("row").filter(has=page.locator(".badge.warn")).last
    row.get_by_role("link").first.click()
    expect(page.locator("h1")).to_contain_text("complete")


def test_a_pack_is_looked_up_decided_about_by_a_rule_and_the_rule_is_revoked(walk: Walk, tmp_path: Path) -> None:
    """From a batch to a cause, a plan, a decision that stands, and back: nothing passes by itself on the way."""
    one = walk("operator", "/batches")
    page = one.page
    open_batch_that_waits(page)
    page.get_by_role("tab", name="quarantined").click()
    assert "state=quarantined" in page.url
    packs = page.get_by_role("grid", name="Packs")
    expect(packs.locator(".badge.good")).to_have_count(0)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the certificate").click()
    download.value.save_as(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["signature"]

    packs.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Names of 1").click()
    asking = page.get_by_role("dialog")
    asking.get_by_label("Why you look").fill("the scanner's operator asks")
    asking.get_by_role("button", name="Names of 1").click()
    names = page.get_by_role("dialog", name="Original names")
    shown = names.locator("td").last.inner_text()
    assert "." in shown
    page.keyboard.press("Escape")
    expect(page.get_by_text(shown.split("\n")[0])).to_have_count(0)
    assert shown.split("\n")[0] not in page.url

    page.locator("#waits").get_by_role("link", name=CAUSE).click()
    expect(page.locator("h1")).to_contain_text("format unknown")
    page.get_by_role("button", name="Leave out, as a rule").click()
    deciding = page.get_by_role("dialog")
    deciding.get_by_label("Why you decide so").fill("a calibration strip")
    expect(deciding.get_by_text("Plan, nothing is done yet.")).to_be_visible()
    deciding.get_by_text("The same by command line and API").click()
    expect(deciding.get_by_text(re.compile(r"mover quarantine decide .*--standing"))).to_be_visible()
    one.expect(404)  # the page asks once more for what is gone
    deciding.get_by_role("button", name="Leave out, as a rule").click()
    expect(page.get_by_text("Nothing waits for this cause any more")).to_be_visible()

    one.go("/quarantine?view=rules")
    page.get_by_role("button", name=re.compile("Look at")).first.click()
    page.get_by_role("button", name="Revoke").click()
    revoking = page.get_by_role("dialog")
    revoking.get_by_label("Why it holds no more").fill("it was a slide after all")
    revoking.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("No rule stands")).to_be_visible()
    page.get_by_role("tab", name="Waiting").click()
    expect(page.get_by_role("grid", name="Causes").filter(has_text=CAUSE)).to_be_visible()


@pytest.mark.parametrize(("role", "deeds"), [("viewer", ()), ("custodian", ("Names",))])
def test_who_may_not_decide_is_offered_no_decision(walk: Walk, role: str, deeds: tuple[str, ...]) -> None:
    """A custodian looks at names and decides nothing; a viewer neither."""
    one = walk(role, "/batches", narrow=role == "viewer", dark=True)
    page = one.page
    expect(page.get_by_role("button", name="Declare a folder")).to_have_count(0)
    open_batch_that_waits(page)
    one.settled()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(page.get_by_role("button", name="Names")).to_have_count(len(deeds))
    expect(page.get_by_role("button", name="Download the certificate")).to_have_count(len(deeds))
    page.locator("#waits").get_by_role("link", name=CAUSE).click()
    expect(page.locator("#ways").get_by_text("Judge again")).to_be_visible()
    expect(page.locator("#ways").get_by_role("button")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
