"""Policies in a browser: made, tried, saved, agreed on by two people, seen to act; and the same text in the folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Locator, Page, expect

from mover.model import wire
from mover.sdk import SyncClient
from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]
PATIENCE_MS = 300_000


def save(page: Page, reason: str) -> str:
    """The plan is there before the button does anything; what it said."""
    expect(page.locator("#checked")).to_have_text("No mistake found")
    page.get_by_role("button", name="Save").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox", name="Reason").fill(reason)
    expect(dialog.get_by_text("Plan, nothing is done yet.")).to_be_visible()
    said = dialog.locator(".plan").inner_text()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    return said


def agree(page: Page, change: Locator) -> None:
    change.get_by_role("button", name="Approve").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(change).to_have_count(0)


def test_a_policy_is_made_tried_saved_agreed_on_seen_to_act_and_the_same_text_stands_in_the_folder(
    walk: Walk, house: House
) -> None:
    """The seed's promise, whole and through the browser alone: no editor on the machine, no restart. An operator makes
    it, an admin who is another person agrees to it, and a run that is asked for on the page holds the lease that was
    typed a moment ago."""
    one = walk("operator", "/policies")
    page, file = one.page, house.policies / "night.yaml"
    page.get_by_role("link", name="New policy").click()
    page.get_by_label("Kind").select_option("stage")
    page.get_by_label("Name").fill("night")
    page.get_by_label("Name").blur()
    expect(page.locator("#policy .marks")).to_contain_text("line 3")
    page.locator("#policy").get_by_label("from (needed)").or_(
        page.locator("#policy").get_by_label("from")
    ).select_option("archive")
    page.locator("#policy").get_by_label("to", exact=True).select_option("flash")
    page.get_by_label("lease", exact=True).fill("7200")
    plan = save(page, "the night shift trains longer")
    assert "an operator asks: an admin agrees" in plan and "0 runs of the last 30 days went by it" in plan
    expect(page.locator("#waiting")).to_contain_text("the night shift trains longer")
    expect(page.get_by_text("Sent", exact=True)).to_have_count(0)  # one deed is told once
    assert not file.exists(), "nobody agreed yet"

    other = walk("second", "/policies").page
    mine = other.locator("#waiting li.policy-change").filter(has_text="night")
    expect(mine.locator(".diff .added").last).to_contain_text("lease_s")
    typed = "".join(f"{line[1:]}\n" for line in mine.locator(".diff .added").all_inner_texts())
    agree(other, mine)
    expect(other.get_by_role("grid", name="Policies")).to_contain_text("night")
    assert file.read_text() == typed
    assert yaml.safe_load(typed) == {
        "kind": "stage", "name": "night", "from": "archive", "to": "flash", "lease_s": 7200
    }  # fmt: skip

    one.go("/policies/night?view=yaml")
    field = page.get_by_label("The policy night as YAML")
    expect(field).to_have_value(typed)
    longer = "# ours\n" + typed.replace("7200", "3 hours")
    field.fill(longer)
    mark = page.locator(".marks li").filter(has_text="line 6")
    expect(mark).to_contain_text("Expected `int`")
    longer = longer.replace("3 hours", "10800")
    field.fill(longer)
    expect(page.locator("#policy .diff .added").filter(has_text="lease_s: 10800")).to_have_count(1)
    page.get_by_role("tab", name="Form").click()
    expect(page.get_by_label("lease", exact=True)).to_have_value("10800")
    save(page, "two hours were too short")
    expect(page.locator("#waiting")).to_contain_text("two hours were too short")
    assert file.read_text() == typed
    agree(other, other.locator("#waiting li.policy-change").filter(has_text="two hours were too short"))
    assert file.read_text() == longer

    page.get_by_role("tab", name="Versions").click()
    versions = page.locator(".policy-version")
    expect(versions).to_have_count(2)
    expect(versions.first).to_contain_text("the-operator, agreed by the-second: two hours were too short")
    expect(versions.first.locator(".added").filter(has_text="lease_s: 10800")).to_be_visible()

    one.go("/runs")
    one.expect(422)  # the plan is asked before a cohort is chosen
    page.get_by_role("button", name="Ask for a run").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Cohort").select_option("all-slides")
    dialog.get_by_label("Policy").select_option("night")
    dialog.get_by_role("button", name="Ask for a run").click()
    page.wait_for_url(re.compile("/runs/run-"))
    expect(page.locator("h1")).to_contain_text("ready", timeout=PATIENCE_MS)
    expect(page.locator("main")).to_contain_text(re.compile(r"lease ends.*in 2 h 5\d min", re.DOTALL))
    with SyncClient(house.url, token=house.tokens["operator"]) as client:
        run = client.runs.view(page.url.rstrip("/").rpartition("/")[2].partition("?")[0])
        assert run.policy == "night" and run.lease_until is not None and run.ready_at is not None
        assert 10_000 < (run.lease_until - run.ready_at).total_seconds() <= 10_800
        client.runs.finish(run.id, wire.FinishRequest(exit=1))


def test_what_is_risky_waits_for_another_person_who_agrees_in_a_browser_of_their_own(walk: Walk, house: House) -> None:
    """A hook-less, harmless-looking word that would let roots go by themselves; an operator may propose it, two people
    decide, and the one who asked is not one of the two."""
    file = house.policies / "clean.yaml"
    first = walk("admin", "/policies/clean")
    page = first.page
    page.get_by_label("automatic").check()
    expect(page.locator("#checked")).to_have_text("No mistake found")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("dialog").get_by_role("textbox", name="Reason").fill("the flash is small")
    plan = page.get_by_role("region", name="Steps of the plan")
    expect(plan.get_by_role("row").filter(has_text="agree first")).to_contain_text("without anybody asking")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    waiting = page.locator("#waiting")
    expect(waiting).to_contain_text("the-admin")
    assert "automatic: false" in file.read_text()
    first.expect(403)
    waiting.get_by_role("button", name="Approve").click()
    page.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("who asked does not approve")

    other = walk("second", "/policies").page
    expect(other.locator("#waiting")).to_contain_text("the flash is small")
    other.locator("#waiting").get_by_role("button", name="Approve").click()
    other.get_by_role("dialog").get_by_role("button", name="Approve").click()
    expect(other.locator("#waiting")).to_have_count(0)
    assert "automatic: true" in file.read_text() and file.read_text().startswith("# Step 5")
    with SyncClient(house.url, token=house.tokens["viewer"]) as client:
        assert client.policies.view("clean").followed == client.policies.view("clean").digest
        assert client.policies.versions("clean").versions[0].approved_by == "the-second"
    with SyncClient(house.url, token=house.tokens["admin"]) as client:  # other walks on this site clean by hand
        seen = client.policies.view("clean")
        back = wire.PolicyChangeRequest(
            seen.text.replace("automatic: true", "automatic: false"), "people clean again", seen.digest
        )
        assert client.policies.change("clean", back).state == "applied"
        assert client.policies.view("clean").followed != seen.followed


def test_a_form_changes_one_value_of_the_text_and_leaves_the_rest_as_somebody_wrote_it(
    walk: Walk, house: House
) -> None:
    """Comments say why; a form that loses them loses what the next night shift needs."""
    one = walk("operator", "/policies/protect")
    page, before = one.page, (house.policies / "protect.yaml").read_text()
    for label, value in (("last", "30"), ("weekly", "4"), ("monthly", ""), ("recovery time", "14400")):
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("roots").fill("/srv/work: one\n/srv/two")
    page.get_by_role("tab", name="YAML").click()
    text = page.get_by_label("The policy protect as YAML").input_value()
    said = yaml.safe_load(text)
    assert said["keep"] == {"last": 30, "weekly": 4} and said["recovery_time_s"] == 14400
    assert said["roots"] == ["/srv/work: one", "/srv/two"]
    comments = [line for line in before.splitlines() if line.lstrip().startswith("#")]
    assert [line for line in text.splitlines() if line.lstrip().startswith("#")] == comments
    page.get_by_role("button", name="Undo all").click()
    expect(page.locator("#checked")).to_have_text("Nothing was changed")
    page.get_by_role("tab", name="Form").click()
    page.get_by_label("roots").fill("")
    page.get_by_label("roots").press_sequentially("/srv/a\n/srv/b")
    expect(page.get_by_label("roots")).to_have_value("/srv/a\n/srv/b")
    page.get_by_role("button", name="Add to folders").click()
    member = page.locator(".policy-member").last
    member.get_by_label("name", exact=True).fill("papers")
    # its path is not said yet
    expect(page.locator("#policy .marks").get_by_role("button", name="line").first).to_be_visible()
    page.locator(".policy-member").last.get_by_label("path", exact=True).fill("/srv/papers")
    page.get_by_role("tab", name="YAML").click()
    said = yaml.safe_load(page.get_by_label("The policy protect as YAML").input_value())
    assert said["folders"] == [{"name": "papers", "path": "/srv/papers"}]

    one.go("/policies?new=dump&name=nightly&view=yaml")
    page.get_by_label("Begin with").select_option("example")
    example = page.get_by_label("The policy nightly as YAML")
    expect(example).to_have_value(re.compile("^# The vault and the catalog.*name: nightly", re.DOTALL))

    one.go("/policies/records")
    before = (house.policies / "records.yaml").read_text()
    page.get_by_text("cases", exact=True).click()
    page.get_by_label("class of Patient Name").select_option("text")
    page.get_by_label("one row per").nth(1).select_option("patient")
    page.locator(".policy-member").nth(1).get_by_label("A further name among columns").fill("Ward: phone")
    page.locator(".policy-member").nth(1).get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("button", name="Remove Phone").click()
    page.get_by_label("reviewers", exact=True).select_option("2")
    page.get_by_label("reviewers of").press_sequentially("place-unknown: 1")
    expect(page.locator("#checked")).to_have_text("No mistake found")
    page.get_by_role("tab", name="YAML").click()
    text = page.get_by_label("The policy records as YAML").input_value()
    gone, came = (
        [line[2:].strip() for line in difflib.ndiff(before.splitlines(), text.splitlines()) if line[0] == sign]
        for sign in "-+"
    )
    assert gone == ["one_row_per: case", "Patient Name: {class: drop}", "Phone: {class: drop}"]
    assert came == [
        "one_row_per: patient", "Patient Name: {class: text}", '"Ward: phone": {class: drop}', "reviewers: 2",
        "reviewers_of: {place-unknown: 1}",
    ]  # fmt: skip


def test_a_viewer_reads_and_changes_nothing(walk: Walk, house: House) -> None:
    one = walk("viewer", "/policies/protect")
    one.settled()
    page = one.page
    expect(page.get_by_label("The policy protect as YAML")).not_to_be_editable()
    for name in ("Save", "Remove"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_count(0)
    one.go("/policies")
    expect(page.get_by_role("grid", name="Policies").get_by_role("row").filter(has_text="stage").first).to_be_visible()
    expect(page.get_by_role("link", name="New policy")).to_have_count(0)
    assert Path(house.policies, "protect.yaml").is_file()
