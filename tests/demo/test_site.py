"""The demo's own installation, served again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mover.demo import seaweed
from mover.demo.places import Place, Places
from mover.demo.site import Site
from mover.settings import load


@pytest.mark.parametrize(("depth", "local"), [(0, True), (12, False)])
def test_settings_written_again_keep_what_a_person_added(tmp_path: Path, depth: int, local: bool) -> None:
    """`make serve` writes them anew for the ports of now; an alarm's receiver was lost there, and nobody was told. The
    socket, at which two people get accounts of their own, is left out where its path would be too long."""
    site = Site(tmp_path.joinpath(*["a-long-name"] * depth))
    site.root.mkdir(parents=True, exist_ok=True)

    def place(name: str) -> Place:
        (site.root / name).mkdir()
        return Place(name, str(site.root / name), "folder", name == "source", False, "a plain folder")

    where = Places(str(site.root), place("source"), place("flash"), place("protect"))
    (site.root / "keys").touch()
    server = seaweed.Seaweed(
        folder="", endpoint="http://127.0.0.1:1", region="us-east-1", bucket="archive", log_file="", pid=1, started=1,
        credentials_file=str(site.root / "keys"), sockets="", ports=(),
    )  # fmt: skip
    site.write_settings(where, server)
    settings = yaml.safe_load(site.config.read_text())
    settings["receivers"] = {"ward": {"kind": "webhook", "url": "http://127.0.0.1:9/alarm"}}
    site.config.write_text(yaml.safe_dump(settings))
    site.write_settings(where, server)
    again = load(site.config)
    assert set(again.receivers) == {"ward"} and (again.listen.unix is not None) == local
