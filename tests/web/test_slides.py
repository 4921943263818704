"""One slide, before and after: what a compliance officer asks, answered without opening a file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.web.browser import Seen
from tests.web.hospital import House

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]
Walk = Callable[..., Seen]


def test_what_was_taken_out_of_a_slide_stands_masked_beside_what_proves_it(walk: Walk) -> None:
    one = walk("operator", "/slides")
    page = one.page
    page.get_by_label("Filter Slides").fill("aperio")
    page.get_by_role("grid", name="Slides").get_by_role("link").first.click()
    evidence = page.locator("#evidence")
    expect(evidence.get_by_text("label is gone")).to_be_visible()
    removed = int(evidence.locator(".big").filter(has_text="removed").locator("strong").inner_text())
    assert removed > 0
    expect(evidence.locator(".big").filter(has_text="found again").locator("strong")).to_have_text("0")
    picture = evidence.get_by_role("img", name="as it is now")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 0
    page.get_by_role("tab", name="Look at it").click()
    zoom = page.locator("figure.zoom")
    expect(zoom).to_have_attribute("data-shown", re.compile("[1-9]"))
    expect(zoom.get_by_role("img", name=re.compile("scale bar: .*(µm|mm)"))).to_be_visible()
    colours = {one for _, one in Image.open(io.BytesIO(zoom.screenshot())).convert("RGB").getcolors(1 << 24) or []}
    assert any(red > green + 40 < blue for red, green, blue in colours), "there is stained tissue on the screen"
    before = zoom.locator(".scale").inner_text()
    for _ in range(5):  # a quarter more each
        zoom.get_by_role("application").press("+")
    expect(zoom.locator(".scale")).not_to_have_text(before)
    zoom.get_by_role("button", name="Whole slide").click()
    expect(zoom.locator(".scale")).to_have_text(before)
    one.expect(409)
    withdrawn = '{"code": "conflict", "detail": "the slide is withdrawn", "retry": "never"}'
    page.route("**/v1/slides/*/view", lambda asked: asked.fulfill(status=409, body=withdrawn))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_text("There is no zoomable picture of this slide.")).to_be_visible()
    expect(zoom).to_have_count(0)
    page.get_by_role("tab", name="Before and after").click()
    evidence.get_by_role("tab", name="removed").click()
    assert "only=drop" in page.url
    expect(page.locator("#codes")).to_contain_text("table E.1-1a): ")
    expect(page.locator("#codes")).to_contain_text("X removed")
    fields = page.get_by_role("grid", name="Fields")
    expect(fields.get_by_role("row").filter(has_text="page 0 (level)").first).to_contain_text("allow-list")
    page.get_by_label("Filter Fields").fill("page 4 (label)")
    expect(fields.get_by_role("row")).to_have_count(2)
    expect(page.locator("#proofs")).to_contain_text("every byte was read again")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the certificate").click()
    assert download.value.suggested_filename.endswith(".certificate.json")
    one.go("/slides?view=rulings")
    page.get_by_label("only those that wait").check()
    expect(page.get_by_text("Nothing waits for a second person")).to_be_visible()


def test_slides_are_chosen_by_what_the_address_then_says(walk: Walk) -> None:
    """The daemon finds them: of a hundred thousand only some are loaded."""
    one = walk("viewer", "/slides")
    page, grid = one.page, one.page.get_by_role("grid", name="Slides")
    family = page.get_by_role("textbox", name="Family")
    family.fill("aperio-svs")
    family.press("Enter")
    page.get_by_role("combobox", name="State").select_option("aligned")
    expect(page).to_have_url(re.compile(r"\?family=aperio-svs&state=aligned$"))
    expect(grid.get_by_role("row").filter(has_text="aperio-svs").first).to_be_visible()
    expect(grid.get_by_role("row").filter(has_text="hamamatsu")).to_have_count(0)
    family.fill("no-such-family")
    family.press("Enter")
    expect(page.get_by_text("None of these")).to_be_visible()
    page.get_by_text("The same by command line and API").click()
    expect(page.get_by_text("mover slide list --family no-such-family --state aligned", exact=True)).to_be_visible()
    page.get_by_role("button", name="All slides").first.click()
    expect(grid.get_by_role("row").filter(has_text="hamamatsu").first).to_be_visible()
    one.go("/cohorts")
    with page.expect_download() as download:
        page.get_by_role("group", name="Save the figure family").get_by_role("button", name="SVG").click()
    assert download.value.suggested_filename == "family.svg"
    assert "Slides by family" in download.value.path().read_text()


def test_a_slide_that_was_withdrawn_comes_back_by_the_word_of_two_people(walk: Walk, house: House) -> None:
    """Who asks does not decide, and sees what the other said without a reload."""
    one = walk("operator", "/slides")
    page = one.page
    page.get_by_label("Filter Slides").fill("aligned")
    link = (
        page.get_by_role("grid", name="Slides").get_by_role("row").filter(has_text="aligned").last.get_by_role("link")
    )
    number = link.inner_text()
    found = "select number, 'identifier-found-later', record_set_id from mover.slide_search where number = %s limit 1"
    house.change(f"insert into mover.slide_withdrawal (number, reason, found_by) {found}", number)
    link.click()
    expect(page.get_by_text("Withdrawn: identifier found later.")).to_be_visible()
    page.get_by_role("button", name="Take it back").click()
    asking = page.get_by_role("dialog")
    asking.get_by_label("Why").fill("it is a maker's name")
    asking.get_by_role("button", name="Take it back").click()
    ruling = page.locator("#rulings li").first
    expect(ruling).to_contain_text("asked")
    expect(ruling.get_by_role("button", name="Grant")).to_have_count(0)

    second = walk("custodian", "/slides").page
    second.get_by_role("grid", name="Rulings").get_by_role("link", name=number).click()
    second.get_by_role("button", name="Grant").click()
    granting = second.get_by_role("dialog")
    granting.get_by_label("Why").fill("I looked at the records")
    granting.get_by_role("button", name="Grant").click()
    expect(granting).to_have_count(0)
    expect(second.locator("#rulings li").first).to_contain_text("I looked at the records")
    expect(ruling).to_contain_text("done")
    expect(ruling).to_contain_text("the-custodian")


def test_a_custodian_sees_what_is_asked_about_slides_and_no_slide(walk: Walk) -> None:
    """Who may undo the pseudonyms does not browse what they stand on."""
    one = walk("custodian", "/slides", narrow=True)
    one.page.get_by_label("only those that wait").check()
    expect(one.page.get_by_text("Nothing waits for a second person")).to_be_visible()
    expect(one.page.get_by_role("tab", name="Slides")).to_have_count(0)
    one.go("/slides/0PD1RD220XPK768GR")
    expect(one.page.get_by_text("Nothing was asked yet")).to_be_visible()
    expect(one.page.locator("#evidence")).to_have_count(0)
