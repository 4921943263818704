"""Out of quarantine by two persons, and from a refusal to the rule that it lacked: each whole, in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import yaml
from playwright.sync_api import Page, expect

from mover.clock import monotonic_s, pause
from mover.demo.tables import BATCHES, VERSIONS
from mover.model import wire
from mover.sdk import SyncClient
from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]
WAIT_S = 300


def two_decide(house: House, codes: dict[str, int]) -> None:
    """The images policy says who decides; fewer than before is itself for two persons."""
    with SyncClient(house.url, token=house.tokens["admin"]) as admin:
        seen = admin.policies.view("images")
        said = f"\nreviewers_of: {yaml.safe_dump(codes, default_flow_style=True).strip()}\n"
        text = seen.text.partition("\nreviewers_of:")[0].rstrip() + (said if codes else "\n")
        made = admin.policies.change("images", wire.PolicyChangeRequest(text, "who decides", seen.digest))
    if made.state == "asked":
        with SyncClient(house.url, token=house.tokens["second"]) as second:
            assert second.policies.approve(made.id).state == "applied"


def decide(page: Page, button: str, field: str, why: str) -> None:
    page.get_by_role("button", name=button, exact=True).first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label(field).fill(why)
    dialog.get_by_role("button", name=button, exact=True).click()


def test_two_persons_decide_each_in_a_browser_of_their_own_and_both_see_who_waits_for_whom(
    walk: Walk, house: House
) -> None:
    """One proposes and the packs stay where they are; the same person by another token is refused; another one reads it
    on the overview, looks, and confirms."""
    two_decide(house, {"format-unknown": 2})
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        cause = next(one for one in client.quarantine.list().causes if one.code == "format-unknown")
        assert {offer.reviewers for offer in cause.offers} == {2}
    first = walk("operator", f"/quarantine/{cause.id}")
    page = first.page
    expect(page.locator("#ways")).to_contain_text("one proposes, another confirms")
    page.get_by_role("grid", name="What waits").get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Propose: Leave out").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Why you decide so").fill("a calibration strip")
    plan = dialog.get_by_role("region", name="Steps of the plan")
    expect(plan.get_by_role("row").filter(has_text="confirm first")).to_contain_text("another one confirms")
    dialog.get_by_role("button", name="Propose: Leave out").click()
    waiting = page.locator("#proposals")
    expect(waiting).to_contain_text("the-operator")
    expect(waiting).to_contain_text("1 chosen pack")

    same = walk("admin", "/quarantine", dark=True)
    same.expect(403)
    expect(same.page.locator("#proposals")).to_contain_text("a calibration strip")
    decide(same.page, "Confirm", "What you looked at", "I am the same, by another token")
    expect(same.page.get_by_role("dialog").get_by_role("alert")).to_contain_text("one person")
    with SyncClient(house.url, token=house.tokens["viewer"]) as viewer:
        assert viewer.quarantine.view(cause.id).count == cause.count, "nothing happened yet"
        assert "a decision about quarantine waits for a second person" in viewer.status().warnings

    other = walk("second", "/", narrow=True)
    other.page.locator("#needs").get_by_role("link", name="a decision about quarantine waits").click()
    other.settled()
    assert other.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    other.page.get_by_role("tab", name="Proposed").click()
    expect(other.page.get_by_role("grid", name="Proposed decisions")).to_contain_text("open")
    decide(other.page, "Confirm", "What you looked at", "opened two of them with the ward")
    expect(other.page.locator("#proposals")).to_have_count(0)
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        rule = client.quarantine.rules().rules[0]
        assert (rule.decided_by, rule.confirmed_by, rule.packs) == ("the-operator", "the-second", 1)
        client.quarantine.revoke(rule.id, reason="other walks want them to wait")
        assert client.quarantine.view(cause.id).count == cause.count
    two_decide(house, {})


def test_an_unlisted_column_is_one_click_from_its_rule_and_what_waited_for_it_goes_on(walk: Walk, house: House) -> None:
    """A new export has one column more. From the refusal to the rule: seen as a difference, tried on the very tables
    that wait, agreed on by another person; and nobody has to remember what waited."""
    file = house.policies / "records.yaml"
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        batch = sorted(client.batches.list().batches, key=lambda one: one.created_at)[1].id
        held = client.records.declare(wire.RecordsRequest(batch=batch, files=paths(VERSIONS["unlisted"])))
        assert client.records.wait(held.id, timeout_s=WAIT_S).reason == "place-unknown"
        cause = next(one.id for one in client.quarantine.list().causes if held.id in one.packs)
    one = walk("admin", f"/quarantine/{cause}")
    page, before = one.page, file.read_text()
    page.get_by_role("button", name="Leave out what the table does not list").click()
    expect(page.locator("h1")).to_contain_text("records")
    came = page.locator("#policy .diff .added")
    expect(came).to_have_count(1)
    expect(came).to_contain_text("others: drop")
    assert "Notiz2" not in page.url and file.read_text() == before
    text = page.get_by_label("The policy records as YAML").input_value()
    expect(page.locator("#checked")).to_have_text("No mistake found")
    page.get_by_role("button", name="Save").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Reason").fill("the registry has a column more")
    expect(dialog.locator(".plan")).to_contain_text(re.compile(r"[1-9]\d* would pass"))
    dialog.get_by_role("button", name="Save").click()
    expect(page.locator("#waiting")).to_contain_text("the registry has a column more")
    assert file.read_text() == before

    other = walk("second", "/policies/records")
    other.page.locator("#waiting").get_by_role("button", name="Approve").click()
    other.page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(other.page.locator("#waiting")).to_have_count(0)
    assert file.read_text() == text
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        again = declared_again(client, held)
        assert again.version == held.version + 1
        assert client.records.wait(again.id, timeout_s=WAIT_S).state == "aligned"
        assert held.id not in [id for one in client.quarantine.list().causes for id in one.packs]
        whole = client.records.declare(
            wire.RecordsRequest(batch=batch, files=paths(BATCHES[1]))
        )  # as the others know it
        assert client.records.wait(whole.id, timeout_s=WAIT_S).state == "aligned"
    one.go(f"/records/{held.id}")
    expect(page.locator("main.page .stale", has_text="declared again").get_by_role("link")).to_contain_text("version")


def paths(outcomes: str) -> dict[str, str]:
    """The tables of the second batch, with these outcomes."""
    folders = dict.fromkeys(("imagery", "cases"), BATCHES[1]) | {"outcomes": outcomes}
    return {table: f"records/{folder}/{table}.csv" for table, folder in folders.items()}


def declared_again(client: SyncClient, held: wire.RecordSet) -> wire.RecordSet:
    """By the daemon itself, in its own time."""
    until_s = monotonic_s() + WAIT_S
    while (newest := client.records.list(batch=held.batch).records[0]).id == held.id:
        assert monotonic_s() < until_s, "nothing was declared again"
        pause(0.2)
    return newest
