"""The page for paper says what the check found, and is safe to open whoever wrote the certificate."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from mover.cli.deid import command
from mover.deid.certificate import encode, sign, verify
from mover.deid.printed import page
from mover.errors import EntryExists, IntegrityError
from mover.signing import load_key, new_key
from tests.deid.test_certificate import certificate


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, dict[str, str | None]] = {}
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def signed(tmp_path: Path) -> bytes:
    new_key(tmp_path / "key")
    made = certificate("AAA", "BBB")
    evil = msgspec.structs.replace(made, role='<script>alert("1")</script><img src=x onerror=y>')
    return encode(sign(evil, load_key(tmp_path / "key")))


def test_the_page_holds_every_word_of_the_certificate_and_nothing_that_runs(signed: bytes) -> None:
    told = Tags(page(verify(signed), signed).decode())
    said = " ".join(told.words)
    assert not {"script", "img", "link", "iframe", "a", "form"} & set(told.tags)
    assert '<script>alert("1")</script>' in said and "valid: every part is as it was signed" in said
    for word in ("slide AAA", "AAA/AAA.svs", "slide BBB", "literals searched", "calibration study", "2026c"):
        assert word in said, word
    assert "default-src 'none'" in str(told.tags["meta"])


def test_a_changed_certificate_is_printed_as_not_valid(signed: bytes) -> None:
    changed = signed.replace(b'"files": 3', b'"files": 4')
    said = " ".join(Tags(page(verify(changed), changed).decode()).words)
    assert changed != signed and "NOT VALID" in said and "inventory: changed since signing" in said
    assert "NOT VALID" in page(verify(b"no certificate"), b"no certificate").decode()


def test_the_page_as_typed(signed: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(signed)
    words = ["verify-certificate", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]
    assert CliRunner().invoke(command, words).exit_code == 0
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")
    assert CliRunner().invoke(command, words).exit_code == EntryExists.exit_status
    (tmp_path / "c.json").write_bytes(signed.replace(b'"files": 3', b'"files": 4'))
    words[-1] = str(tmp_path / "d.html")
    assert CliRunner().invoke(command, words).exit_code == IntegrityError.exit_status
    assert "NOT VALID" in (tmp_path / "d.html").read_text()
