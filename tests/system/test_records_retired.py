"""A daemon with a bucket and a folder for its packs: two people let the oldest records go, and power goes, too."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mover.clock import pause
from tests.system.test_lost_machine import Console, start, until
from tests.system.ward import Ward

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumps")]

OLD, DAY = 12_000, "2019-06-01"
STAMPS = "select pg_get_functiondef('mover.audit_append(text, text, text)'::regprocedure) as text"
FILL = ("select count(mover.audit_append('demo', 'n0', json_build_object('actor', 'ann', 'action', 'looked', 'subject',"
        " 'slide-' || i)::text)) from set_config('mover.project', 'demo', true), generate_series(1, %s) i")  # fmt: skip


@pytest.fixture
def console(make_ward: Callable[[Path], Ward], tmp_path: Path) -> Console:
    (tmp_path / "source").mkdir()
    ward = make_ward(tmp_path / "source")
    ward.change_settings(lambda s: s["listen"].pop("unix", None))
    ward.change_settings(lambda s: s.update(retention={"audit_years": 6}))
    policy = {"kind": "audit", "name": "audit", "to": ["protect", "archive"], "every_s": 10}
    (ward.site.policies / "audit.yaml").write_text(yaml.safe_dump(policy))
    return Console(ward, tmp_path)


def write_old_ones(ward: Ward) -> None:
    """The database writes them, as it did eight years ago."""
    [row] = ward.look(STAMPS)
    ward.change(row.text.replace("clock_timestamp()", "'2019-01-01'::timestamptz"))
    ward.look(FILL, OLD)
    ward.change(row.text)


def test_the_oldest_records_leave_through_a_power_cut_and_stand_on_both_tiers(console: Console, tmp_path: Path) -> None:
    ward = console.ward
    start(ward)
    for name, role in (("ann", "admin"), ("cora", "custodian")):
        console.person(name, role)
    write_old_ones(ward)
    until(lambda: console.told("mover audit verify")["uncovered"] == 0, "no checkpoint covers them")
    assert f"records 1 to {OLD} are older" in console.type(f"mover audit retire --before {DAY} --plan --reason room")

    asked = console.told(f"mover audit retire --before {DAY} --reason 'a small disk'")
    assert asked["state"] == "asked" and asked["records"] == OLD
    console.type(f"mover audit approve-retirement {asked['id']}", status=3)  # who asked
    console.type(f"mover audit approve-retirement {asked['id']}", who="cora")
    until(lambda: console.told("mover audit verify", status=None)["whole"], "no tier ever said so")
    ward._crash()
    start(ward)
    while ward.look("select count(*) as n from mover.audit_record where node = 'n0'")[0].n == OLD:
        pause(0.01)
    ward._crash()  # while they leave, or just after
    start(ward)
    until(lambda: console.told("mover audit retirements")[0]["state"] == "retired", "they never left")

    [told] = console.told("mover audit verify")["retired"]
    assert (told["left"], told["approved_by"]) == (0, "cora")
    shown = console.type("mover audit verify")
    assert re.search(r"audit +whole,", shown) and told["pack"] in shown
    assert told["pack"] in console.type("mover audit list --subject slide-7")
    files = [tmp_path / "of-bucket", ward.protect / told["pack"]]
    files[0].write_bytes(ward.archive().read(told["pack"]))
    assert files[0].read_bytes() == files[1].read_bytes()
    for file in files:
        console.type(f"mover audit verify {file}")
        assert console.type(f"mover audit read {file} --subject slide-7").count("looked") == 1
