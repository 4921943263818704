"""Who follows a link of the pages arrives, and every page can be come to."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docs.commands import FENCE, ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "policies" / "README.md",
                ROOT / "bench" / "README.md", ROOT / "mover" / "web" / "README.md"])  # fmt: skip
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def links(page: Path) -> list[tuple[str, Path, str]]:
    """As they are written, where they lead, and the section."""
    text = FENCE.sub("", page.read_text("utf-8"))
    said = [one for one in LINK.findall(text) if not re.match(r"[a-z]+:", one)]
    parts = [(one, *one.partition("#")[::2]) for one in said]
    return [(one, (page.parent / file).resolve() if file else page, section) for one, file, section in parts]


def sections(page: Path) -> set[str]:
    """As GitHub and most renderers call them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_to_a_file_and_a_section_that_exist() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {said}"
        for page in PAGES
        for said, file, section in links(page)
        if not file.exists() or (section and file.suffix == ".md" and section not in sections(file))
    ]
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    """A page that nobody leads to is not there."""
    linked = {file for page in PAGES for _, file, _ in links(page) if file != page}
    pages = {page for page in PAGES if page.parent.name == "docs"}
    assert sorted(page.name for page in pages - linked) == [] and len(pages) > 20


def test_what_a_contributor_is_sent_to_is_there() -> None:
    """Rooms are renamed; a map that was not is worse than none."""
    text = (ROOT / "docs" / "contributing.md").read_text("utf-8")
    named = re.findall(r"`((?:mover|scanners|tests|policies|docs)/[\w./]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == [] and len(named) > 8
