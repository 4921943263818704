"""`mover deid certify BATCH`: what the daemon signed is checked and filed away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mover.deid.certificate import encode, sign
from mover.errors import DigestMismatch, RequestInvalid
from mover.randomness import new_id
from mover.signing import load_key, new_key
from tests.cli.conftest import Daemon, Said
from tests.deid.test_certificate import certificate


class Issued:
    """A daemon that issues this text."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def issue(self, project: str, actor: str, role: str, batch: str, *, request: str = "") -> str:
        return self.text


@pytest.mark.slow  # signs, which hashes the program's own files
def test_the_certificate_of_a_batch_is_fetched_and_checks_out_unchanged(
    mover: Callable[..., Said], daemon: Daemon, tmp_path: Path
) -> None:
    """One that was changed on its way, or that no key fits, is not kept: it is looked at years later."""
    new_key(tmp_path / "key")
    text = encode(sign(certificate("AAA"), load_key(tmp_path / "key"))).decode()
    room: Any = daemon.rooms
    object.__setattr__(room, "certificates", Issued(text))
    batch = new_id("batch")

    kept = mover("--url", daemon.url, "deid", "certify", batch, "--to", "c.json")
    checked = mover("deid", "verify-certificate", "c.json")

    assert kept.status == 0 and (tmp_path / "c.json").read_text() == text
    assert checked.status == 0 and "valid" in checked.out
    object.__setattr__(room, "certificates", Issued(text.replace('"kept": 30', '"kept": 31')))
    assert mover("--url", daemon.url, "deid", "certify", batch, "--to", "d.json").status == DigestMismatch.exit_status
    assert not (tmp_path / "d.json").exists()
    assert mover("--url", daemon.url, "deid", "certify", batch).status == RequestInvalid.exit_status
