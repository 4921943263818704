"""The general verb from request to report, on a real database and real folders."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.errors import Conflict, ExpressionInvalid, RequestInvalid, TransferRefused
from mover.model import wire
from mover.model.ids import make_number
from mover.model.moving import Keep
from mover.model.policy import MovePolicy, ReleaseRule
from mover.moving import plan
from tests.rooms.moving_rig import ANN, MovingRig, request
from tests.support.facts import DIGEST, insert
from tests.support.postgres import Dsns
from tests.support.seaweed import object_tier

POLICY = MovePolicy(
    name="old-slides", source="nas", target="cold", prefix="in", to_prefix="kept", when="age > 90d and size > 1kB",
    release=ReleaseRule(), every_s=60,
)  # fmt: skip
DAY_S = 86_400.0
pytestmark = pytest.mark.slow


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[MovingRig]:
    made = MovingRig(tmp_path, dsns, database, (POLICY,))
    yield made
    made.carrier.close()


SOME = {"in/a.svs": b"a" * 3000, "in/deep/er/b.svs": b"b" * 10, "in/c": b""}


async def test_a_tree_is_copied_and_every_entry_has_its_digest_and_its_row(rig: MovingRig) -> None:
    """The promise of the verb in one breath: bytes, rows, digests, audit."""
    rig.fill("nas", {**SOME, "out/x": b"left alone"})
    seen = await rig.moved(prefix="in", to_prefix="kept/2026")
    assert (seen.state, seen.entries, seen.counts) == ("done", 3, {"moved": 3})
    assert rig.files("cold") == {f"kept/2026/{key[3:]}": data for key, data in SOME.items()}
    assert rig.files("nas") == {**SOME, "out/x": b"left alone"}
    known = rig.rows("select key, digest, verified_at from mover.entry where tier = 'cold' order by key")
    assert {bytes(r.key).decode(): r.digest for r in known} == {
        key: blake3(data).hexdigest() for key, data in rig.files("cold").items()
    }
    assert all(row.verified_at is not None for row in known)
    assert rig.actions() == ["transfer requested", "transfer planned", "transfer shard moved"]


# --- sources: a tree, a list, a query, several --------------------------------------------------------------


async def test_a_list_moves_just_its_names_whatever_bytes_they_hold(rig: MovingRig) -> None:
    odd = "in/\udcff\udc80\\n.svs"
    rig.fill("nas", {"in/a": b"1", odd: b"2", "in/not-listed": b"3"})
    seen = await rig.moved(prefix="in", keys=["a", r"\xff\x80\x5cn.svs"])
    assert seen.state == "done"
    assert rig.files("cold") == {"a": b"1", odd[3:]: b"2"}


async def test_a_list_with_a_missing_name_is_refused_whole_and_names_it(rig: MovingRig) -> None:
    """Four slides silently missing is what an operator fears most (I7)."""
    rig.fill("nas", {"in/a": b"1"})
    seen = await rig.moved(prefix="in", keys=["a", "gone-1", "gone-2"])
    assert (seen.state, seen.reason) == ("refused", "entry-missing")
    assert [one["entry"] for one in seen.offenders] == ["nas:in/gone-1", "nas:in/gone-2"]
    assert rig.files("cold") == {} and seen.codes == {"entry-missing": 2}


async def test_what_is_missing_may_be_reported_while_the_rest_moves(rig: MovingRig) -> None:
    rig.fill("nas", {"in/a": b"1"})
    seen = await rig.moved(prefix="in", keys=["a", "gone"], offenders="report")
    assert (seen.state, seen.counts, seen.codes) == ("incomplete", {"moved": 1, "failed": 1}, {"entry-missing": 1})


async def test_a_condition_selects_by_age_size_and_name(rig: MovingRig) -> None:
    rig.fill("nas", {"in/old.svs": b"x" * 2000, "in/old.txt": b"x" * 2000}, age_s=100 * DAY_S)
    rig.fill("nas", {"in/new.svs": b"x" * 2000})
    seen = await rig.moved(where="age > 90d and size > 1kB and name like '%.svs'")
    assert seen.state == "done" and list(rig.files("cold")) == ["in/old.svs"]


async def test_a_condition_selects_what_people_tagged(rig: MovingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the slide's number in the key; a tag that was taken off, or another one, selects nothing. Read in slices, and
    not beyond the bound: a move that knew only some of them would leave the others and say it is done."""
    monkeypatch.setattr(plan, "SLICE_TAGGED", 1)
    numbers = [make_number(n.to_bytes(10, "big")) for n in range(3)]
    rig.fill("nas", {f"in/{n}/1/{n}.svs": n.encode() for n in numbers} | {f"{numbers[0]}.svs": b"0", "loose": b""})
    with psycopg.connect(rig.dsns.superuser) as conn:
        insert(conn, "tag_change", project_id="demo", id="change-1", tag="keep", action="add", chosen="a list", count=1,
               bytes=1, reason="", created_by="ann")  # fmt: skip
        for n in numbers:
            insert(conn, "slide", number=n, site="ward", family="aperio", extension="svs", size_bytes=1, digest=DIGEST,
                   tier="nas", key=f"slides/{n}/1/{n}.svs", facts="{}")  # fmt: skip
            insert(conn, "slide_grant", project_id="demo", number=n)
        for n, tag, present in ((0, "keep", True), (1, "keep", False), (2, "other", True)):
            insert(conn, "slide_tag", project_id="demo", number=numbers[n], tag=tag, present=present,
                   change_id="change-1")  # fmt: skip
    seen = await rig.moved(where="tag = 'keep' and kind = 'file'")
    assert seen.state == "done" and set(rig.files("cold")) == {
        f"in/{numbers[0]}/1/{numbers[0]}.svs", f"{numbers[0]}.svs",
    }  # fmt: skip
    again = await rig.moved(key="k2", where="tag is not null", to_prefix="all")
    assert again.state == "done" and again.entries == 3
    monkeypatch.setattr(plan, "TAGGED_MAX", 1)
    few = await rig.moved(key="k3", where="tag = 'keep'", to_prefix="few")
    many = await rig.moved(key="k4", where="tag is not null", to_prefix="many")
    assert (few.state, many.state) == ("done", "refused")


async def test_a_condition_that_selects_nothing_is_no_success(rig: MovingRig) -> None:
    rig.fill("nas", {"in/a": b"1"})
    seen = await rig.moved(where="size > 1GB")
    assert (seen.state, seen.reason) == ("refused", "nothing-selected")


async def test_a_mistake_in_a_condition_points_at_its_character(rig: MovingRig) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        await rig.ask(where="age > 90d and sise > 1MB")
    assert caught.value.where == "character 15" and "`size`" in caught.value.advice


async def test_a_query_of_the_catalog_needs_no_listing(rig: MovingRig) -> None:
    """Tens of millions of entries were walked once; choosing among them must not walk them again."""
    rig.fill("nas", {"in/a": b"1", "in/b": b"2"})
    await rig.moved("first", prefix="in", to_prefix="one")
    seen = await rig.moved(
        "second", source="cold", to="nas", prefix="one", to_prefix="back", catalog=True, where="digest is not null"
    )
    assert seen.state == "done" and rig.files("nas")["back/b"] == b"2"
    assert rig.rows("select known from mover.transfer_entry where transfer_id = %s and known is null", seen.id) == []


async def test_several_sources_move_in_one_transfer_each_to_its_place(rig: MovingRig) -> None:
    rig.fill("nas", {"in/a": b"1"})
    rig.fill("shelf", {"lib/b": b"2"})
    sources = [
        wire.TransferSource(tier="nas", prefix="in", to="from-nas", limits=wire.TransferLimits(bytes_s=10**9)),
        wire.TransferSource(tier="shelf", prefix="lib", to="from-shelf"),
    ]
    seen = await rig.moved(sources=sources, to_prefix="all")
    assert seen.state == "done" and set(rig.files("cold")) == {"all/from-nas/a", "all/from-shelf/b"}


@pytest.mark.parametrize(("prefix", "reason"), [("in", "source-missing"), ("", "source-empty")])
async def test_an_absent_and_an_empty_source_are_errors_with_names(rig: MovingRig, prefix: str, reason: str) -> None:
    """An unmounted folder and a typing mistake look the same: nothing is there (I7)."""
    seen = await rig.moved(prefix=prefix)
    assert (seen.state, seen.reason) == ("refused", reason)


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"source": "intake"}, "zone-crossing"),
        ({"source": "nas", "to": "nas", "prefix": "in", "to_prefix": "in/copy"}, "places-overlap"),
        ({"source": "nas", "to": "nas", "prefix": "in/copy", "to_prefix": "in"}, "places-overlap"),
        ({"source": "nas", "to": "shelf"}, "target-read-only"),
        ({"source": "nas", "to": "protect"}, "target-owned"),
        ({"source": "nas", "to": "flash", "to_prefix": "runs/run-1"}, "target-owned"),
        ({"source": "shelf", "verb": "move"}, "release-read-only"),
        ({"source": "flash", "prefix": "runs/run-1", "verb": "move"}, "release-owned"),
        ({"source": "cold", "to": "nas", "prefix": "slides", "verb": "move"}, "release-owned"),
        ({"source": "cold", "to": "nas", "verb": "move"}, "release-owned"),
    ],
)
async def test_a_way_that_may_not_be_taken_is_refused_before_anything_is_listed(
    rig: MovingRig, said: dict[str, str], code: str
) -> None:
    with pytest.raises(TransferRefused) as caught:
        await rig.ask(**said)
    assert code in [one["code"] for one in caught.value.details]
    assert rig.rows("select id from mover.transfer") == []


@pytest.mark.parametrize(("to", "folder"), [("flash", "runs/run-1"), ("cold", "slides/0123456789ABCDEFG")])
async def test_a_tree_that_leads_into_another_workflows_folder_is_refused(
    rig: MovingRig, to: str, folder: str
) -> None:
    """I4: the target's prefix is free, the names below the source's are not. A list says the same."""
    rig.fill("nas", {f"in/{folder}/extra.svs": b"1", "in/free": b"2"})
    seen = await rig.moved(prefix="in", to=to)
    assert (seen.state, seen.reason) == ("refused", "target-owned")
    keys = await rig.moved("list", prefix="in", to=to, keys=[f"{folder}/extra.svs"])
    assert (keys.state, keys.reason) == ("refused", "target-owned") and rig.files(to) == {}
    assert (await rig.moved("beside", prefix="in", to=to, to_prefix="mirror")).state == "done"


async def test_a_target_that_would_overwrite_is_refused_also_without_a_policy(rig: MovingRig) -> None:
    """A store that takes a second conditional put would replace what a plan believed to be there already."""
    rig.fill("nas", {"a": b"1"})
    rig.tiers["cold"].__dict__["traits"] = msgspec.structs.replace(rig.tiers["cold"].traits, conditional_put=False)
    seen = await rig.moved()
    assert (seen.state, seen.reason) == ("refused", "target-overwrites") and rig.files("cold") == {}


async def test_an_identified_tier_is_refused_and_no_name_of_it_is_written_down(rig: MovingRig) -> None:
    """D4, D10: not a plan, not a row, not a message."""
    rig.fill("intake", {"SMITH-JANE/S26-1.svs": b"x"})
    with pytest.raises(TransferRefused) as caught:
        await rig.transfers.plan_request(ANN, request("intake", prefix="SMITH-JANE"))
    assert "SMITH" not in str(caught.value) + str(caught.value.details)


async def test_two_bind_mounted_names_of_one_place_do_not_copy_into_themselves(rig: MovingRig) -> None:
    (rig.folder / "cold" / "loop").symlink_to(rig.folder / "nas")
    rig.fill("nas", {"a": b"1"})
    with pytest.raises(TransferRefused, match="inside each other"):
        await rig.ask(to_prefix="loop")


async def test_taken_names_with_other_bytes_are_all_listed_and_nothing_moves(rig: MovingRig) -> None:
    """R8: an existing different entry is never overwritten, and nobody finds out half-way."""
    rig.fill("nas", {"a": b"mine", "b": b"mine", "c": b"same"})
    rig.fill("cold", {"a": b"other bytes", "b": b"also others", "c": b"same"})
    seen = await rig.moved()
    assert (seen.state, seen.codes) == ("refused", {"target-taken": 2})
    assert {one["entry"] for one in seen.offenders} == {"nas:a", "nas:b"}
    assert rig.files("cold")["a"] == b"other bytes"


async def test_a_taken_name_of_equal_size_is_read_before_it_is_believed(rig: MovingRig) -> None:
    """rclone move onto a rotten file of equal size deletes the good source."""
    rig.fill("nas", {"a": b"right", "b": b"equal"})
    rig.fill("cold", {"a": b"wrong", "b": b"equal"})
    seen = await rig.moved()
    assert (seen.state, seen.counts) == ("incomplete", {"present": 1, "failed": 1})
    assert seen.codes == {"entry-exists": 1} and rig.files("cold")["a"] == b"wrong"


async def test_a_page_of_transfers_is_bounded_whatever_was_refused(rig: MovingRig) -> None:
    """I10: the view of one shows its first thousand offenders; a thousand of those would fill the memory."""
    rig.fill("nas", {f"in/{n}": b"one" for n in range(30)})
    rig.fill("cold", {f"{n}": b"other" for n in range(30)})
    seen = await rig.moved(prefix="in")
    [shown] = (await rig.transfers.list("demo")).transfers
    assert (len(seen.offenders), len(shown.offenders)) == (30, 10) and shown.codes == {"target-taken": 30}


async def test_two_sources_that_would_get_one_name_are_refused(rig: MovingRig) -> None:
    rig.fill("nas", {"x/a": b"1", "y/a": b"2"})
    sources = [wire.TransferSource(tier="nas", prefix=prefix) for prefix in ("x", "y")]
    seen = await rig.moved(sources=sources)
    assert (seen.state, seen.codes) == ("refused", {"target-twice": 2})


async def test_symlinks_and_pipes_are_refused_or_skipped_as_was_said(rig: MovingRig) -> None:
    rig.fill("nas", {"a": b"1"})
    (rig.folder / "nas" / "link").symlink_to("a")
    refused = await rig.moved("one")
    assert refused.codes == {"symlink-refused": 1}
    skipped = await rig.moved("two", keep=Keep(symlinks="skip"))
    assert (skipped.state, skipped.counts) == ("done", {"moved": 1, "skipped": 1})
    os.mkfifo(rig.folder / "nas" / "pipe")
    assert (await rig.moved("three", keep=Keep(symlinks="skip"))).codes == {"not-a-file": 1}


async def test_a_plan_prints_everything_and_keeps_nothing(rig: MovingRig) -> None:
    rig.fill("nas", {"in/a": b"1234", "in/b": b"12"})
    rig.fill("cold", {"kept/b": b"12"})
    plan = await rig.transfers.plan_request(ANN, request(prefix="in", to_prefix="kept"))
    assert plan.counts == {"entries": 2, "present": 1, "looked at": 2} and plan.bytes == 6
    assert "no history" in plan.step
    assert {(step.action, step.subject, step.reason) for step in plan.steps} == {
        ("copy", "nas:in/a", "to cold:kept/a"), ("read and compare", "nas:in/b", "to cold:kept/b"),
    }  # fmt: skip
    assert rig.rows("select id from mover.transfer union all select id::text from mover.transfer_entry") == []
    await rig.moved(prefix="in", to_prefix="kept")
    again = await rig.transfers.plan_request(ANN, request(prefix="in", to_prefix="elsewhere"))
    assert "seconds" in again.counts or "no history" not in again.step


async def test_a_target_without_room_is_refused_before_the_first_byte(
    rig: MovingRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.fill("nas", {"a": b"12345"})
    monkeypatch.setattr(type(rig.ends), "free_bytes", lambda self, name: 4)
    seen = await rig.moved()
    assert (seen.state, seen.reason) == ("refused", "no-space") and rig.files("cold") == {}


async def test_the_same_key_is_the_same_transfer_and_another_body_a_conflict(rig: MovingRig) -> None:
    rig.fill("nas", {"a": b"1"})
    first = await rig.ask("k")
    assert (await rig.ask("k")).id == first.id
    with pytest.raises(Conflict):
        await rig.ask("k", prefix="in")
    with pytest.raises(RequestInvalid):
        await rig.ask("other", prefix="../out")


async def test_a_tree_goes_to_a_bucket_and_comes_back_the_same(rig: MovingRig, weed: Seaweed) -> None:
    """posix to object and object to posix, by the same verb; a bucket is not released from."""
    rig.add("bucket", object_tier(weed, "bucket"), "archive")
    rig.fill("nas", SOME)
    out = await rig.moved("out", prefix="in", to="bucket", to_prefix="kept")
    assert (out.state, out.counts) == ("done", {"moved": 3})
    known = rig.rows("select key, digest from mover.entry where tier = 'bucket'")
    assert {bytes(r.key).decode()[5:]: r.digest for r in known} == {
        key[3:]: blake3(data).hexdigest() for key, data in SOME.items()
    }
    back = await rig.moved("back", source="bucket", prefix="kept", to="cold", to_prefix="in")
    assert back.state == "done" and rig.files("cold") == SOME
    again = await rig.moved("again", prefix="in", to="bucket", to_prefix="kept")
    # a conditional put that meets the same bytes may be told as either: the first answer may have been lost
    assert again.state == "done" and again.counts.get("present", 0) + again.counts.get("moved", 0) == 3
    with pytest.raises(TransferRefused) as caught:
        await rig.ask("move", source="bucket", to="cold", prefix="kept", verb="move")
    assert [one["code"] for one in caught.value.details] == ["release-unsupported"]


async def test_a_name_a_bucket_cannot_hold_refuses_the_plan_by_name(rig: MovingRig, weed: Seaweed) -> None:
    rig.add("bucket", object_tier(weed, "bucket"), "archive")
    rig.fill("nas", {"in/ok": b"1", "in/\udcff.svs": b"2"})
    seen = await rig.moved(prefix="in", to="bucket")
    assert (seen.state, seen.codes) == ("refused", {"name-not-text": 1})
    assert [one["entry"] for one in seen.offenders] == [r"nas:in/\xff.svs"]


async def test_a_folder_whose_name_is_no_text_is_a_source_like_any_other(rig: MovingRig) -> None:
    rig.fill("nas", {"in\udcff/a": b"1", "in/b": b"2"})
    seen = await rig.moved(prefix=r"in\xff", to_prefix=r"kept\x5c")
    assert (seen.state, seen.sources, seen.to) == ("done", [r"nas:in\xff"], r"cold:kept\x5c")
    assert rig.files("cold") == {"kept\\/a": b"1"}
    with pytest.raises(RequestInvalid):
        await rig.ask("other", prefix="a\\b")
