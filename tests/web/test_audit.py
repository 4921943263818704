"""The page of the audit: searched, judged, taken along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from mover.audit import check_pack
from mover.sdk import SyncClient
from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_who_answers_for_it_finds_a_deed_judges_the_chain_and_takes_a_run_along(
    walk: Walk, house: House, tmp_path: Path
) -> None:
    """What an outsider gets through the browser is the file that is checked without a daemon."""
    one = walk("admin", f"/audit?subject={house.runs.cleaned}")
    page = one.page
    grid = page.get_by_role("grid", name="Audit records")
    expect(grid.get_by_text("run requested", exact=True)).to_be_visible()
    page.get_by_label("Action begins with").fill("run cleaned")
    page.keyboard.press("Enter")
    expect(grid.get_by_role("row")).to_have_count(2)
    assert "action=run+cleaned" in page.url
    grid.locator("button[title^='Open the record']").click()
    record = page.get_by_role("dialog")
    expect(record).to_contain_text(house.runs.cleaned)
    page.keyboard.press("Escape")
    page.get_by_label("Before").fill("2001-01-01T00:00")
    expect(page.get_by_text("No record is like this")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Sign-ins").click()
    expect(grid.get_by_text("signed in", exact=True).first).to_be_visible()

    page.get_by_role("tab", name="Chain and checkpoints").click()
    page.get_by_role("button", name="Check now").click()
    expect(page.get_by_text("Whole", exact=True)).to_be_visible()
    _what_two_say_of_the_oldest_records(one, house)
    page.get_by_role("tab", name="Questions").click()
    asked = page.locator("#questions li button")
    expect(asked).to_have_count(10)
    with SyncClient(house.url, token=house.tokens["viewer"]) as client:
        number = client.slides.list().slides[0].number
    for at in range(10):
        asked.nth(at).click()
        expect(page.locator("#answer")).to_contain_text(asked.nth(at).inner_text())
        about = page.locator("#answer input[name=about]")
        if about.count() and not about.input_value():
            about.fill(number)
            page.keyboard.press("Enter")
        expect(page.locator("#answer .verdict")).to_be_visible()
    assert f"about={number}" in page.url
    page.get_by_role("tab", name="Take along").click()
    with page.expect_download() as events:
        page.get_by_role("button", name="Download as FHIR").click()
    events.value.save_as(tmp_path / "events")
    lines = (tmp_path / "events").read_text().splitlines()
    assert lines and all('"action":"' in line and '"resourceType":"AuditEvent"' in line for line in lines)
    page.get_by_label("Run", exact=True).select_option(house.runs.cleaned)
    with page.expect_download() as taken:
        page.get_by_role("button", name="Download the pack").click()
    pack = tmp_path / taken.value.suggested_filename
    taken.value.save_as(pack)
    assert check_pack(pack).problems == ()


def test_who_does_not_answer_for_it_has_no_such_page(walk: Walk) -> None:
    one = walk("operator", "/audit")
    expect(one.page.get_by_text("There is no such page, or not for your role")).to_be_visible()
    expect(one.page.get_by_role("link", name="Audit")).to_have_count(0)


def _what_two_say_of_the_oldest_records(one: Seen, house: House) -> None:
    """One asks and is told what the settings say; another sees what was asked, and approves, which is refused here:
    this hospital is younger than six years."""
    page, oldest = one.page, one.page.locator("#retirements")
    one.expect(409)
    expect(oldest).to_contain_text("Records stay for ever")
    oldest.get_by_role("button", name="Let some leave").click()
    page.get_by_label("Records from before").fill("2001-01-01")
    page.get_by_label("Why they leave").fill("to see whether they may")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("this site keeps its records for ever")).to_be_visible()
    page.keyboard.press("Escape")
    house.change(
        "insert into mover.audit_retirement (project_id, id, before, chains, digest, bytes, tiers, reason, asked_by,"
        " asked_person) select id, 'retirement-1', '2001-01-01', %s::jsonb, repeat('0', 64), 9, '{archive}',"
        " 'a small disk', 'ann', 'ann' from mover.project limit 1",
        '[{"node": "n7", "after": 0, "upto": 9, "hash": "00"}]',
    )
    one.go("/audit?tab=take")
    one.go("/audit?tab=chain")
    expect(oldest).to_contain_text("1 to 9 of the chain of n7: in a pack on archive")
    expect(oldest).to_contain_text("Says ann, and nobody else yet")
    oldest.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("this site keeps its records for ever").last).to_be_visible()
    house.change("delete from mover.audit_retirement")
