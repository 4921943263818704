"""Policies are changed through a whole house: by one person, by two, by hand in the folder, and after a kill."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import yaml

from mover.daemon import House, _policies, open_house
from mover.errors import Conflict, Denied, NotFound, PolicyInvalid, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import CleanPolicy, StagePolicy
from mover.policies.folder import Folder
from mover.policy import default_folder, digest_of
from mover.settings import load
from tests.rooms.keeping_rig import MACHINE
from tests.rooms.test_roles import write_settings
from tests.support.postgres import Dsns

pytestmark = pytest.mark.slow

STAGE = "# where runs stand\nkind: stage\nname: stage\nfrom: archive\nto: flash\nlease_s: 3600\n"
CLEAN = "kind: clean\nname: clean\nfrom: flash\nautomatic: false\n"
KEEP = "kind: protect\nname: protect\nfrom: flash\nto: protect\nkeep: {last: 5}\n"
BUDGET = "kind: budget\nname: nas\ntier: archive\nread_bytes_s: 1000000\n"


class Site:
    """A house with a folder of policies, and two people and an operator in it."""

    def __init__(self, house: House, folder: Path, dsns: Dsns) -> None:
        self.house, self.folder, self.dsns, self.room = house, folder, dsns, _policies(house)

    async def person(self, name: str, role: str = "admin", *, days: int = 2) -> Identity:
        body = wire.TokenRequest(actor=name, role=role)  # type: ignore[arg-type]
        made = await self.house.access.make_token(MACHINE, body)
        assert made.secret is not None
        with psycopg.connect(self.dsns.superuser) as conn:
            said = "update mover.token set created_at = now() - make_interval(days => %s) where id = %s"
            conn.execute(said, [days, made.id])
        return await self.house.access.authenticate(made.secret)

    async def digest(self, name: str) -> str:
        return (await self.room.view("demo", name)).digest

    async def change(self, who: Identity, name: str, text: str | None, *, old: str | None = None) -> wire.PolicyChange:
        return await self.room.change(who, name, text, old or await self.digest(name), "the night shift says so")

    def agreed(self, name: str, base: str | None, text: str, *, kind: str) -> str:
        """As the daemon writes it down before it touches the file, and as a thief of its role may, too."""
        with psycopg.connect(self.dsns.daemon) as conn:
            conn.execute("select set_config('mover.project', 'demo', true)")
            values = (f"change-{name}", self.house.settings.node, name, kind, base, digest_of(text), text, "by itself")
            conn.execute("select mover.policy_ask(%s, %s, %s, %s, %s, %s, %s, '{}', %s, null, 'uid:0')", values)
        return values[0]


@pytest.fixture
async def site(tmp_path: Path, dsns: Dsns) -> AsyncIterator[Site]:
    path = write_settings(tmp_path, dsns, role="clean")
    settings = yaml.safe_load(path.read_text())
    for name in ("archive", "protect"):
        (tmp_path / name).mkdir()
        settings["tiers"][name] = {
            "kind": "posix", "zone": "deidentified", "role": name, "path": str(tmp_path / name)
        }  # fmt: skip
    folder = tmp_path / "policies"
    folder.mkdir()
    for name, text in (("stage", STAGE), ("clean", CLEAN), ("protect", KEEP)):
        (folder / f"{name}.yaml").write_text(text)
    path.write_text(yaml.safe_dump(settings | {"policies": str(folder)}))
    async with open_house(load(path)) as house:
        await house.following.turn()
        yield Site(house, folder, dsns)


async def test_a_change_acts_at_once_stands_as_it_was_typed_and_is_told_with_who_and_why(site: Site) -> None:
    """The seed's promise: no restart, no editor on the machine, comments kept, and nobody overwrites a colleague."""
    ann, old = await site.person("ann"), await site.digest("stage")
    longer = STAGE.replace("3600", "7200")
    plan = await site.room.plan(ann, "stage", longer, old)
    assert [(s.action, s.subject, s.reason) for s in plan.steps] == [
        ("change", "lease_s", "3600 → 7200"),
        ("know", "stage", "0 runs of the last 30 days went by it; 0 of them stand and end as they began"),
    ]
    assert (site.folder / "stage.yaml").read_text() == STAGE

    done = await site.change(ann, "stage", longer)
    assert (done.state, done.risks, done.requested_by) == ("applied", [], "ann")
    assert (site.folder / "stage.yaml").read_text() == longer
    assert site.house.policies.get("stage", StagePolicy).lease_s == 7200
    newest, first = (await site.room.versions("stage", None, 9)).versions
    assert (newest.changed_by, newest.reason, newest.change) == ("ann", done.reason, done.id)
    assert "-lease_s: 3600" in newest.diff and "+lease_s: 7200" in newest.diff
    assert first.changed_by is None and first.text == STAGE
    assert [v.id for v in (await site.room.versions("stage", newest.id, 9)).versions] == [first.id]

    with pytest.raises(Conflict, match="not the one that was edited"):
        await site.change(ann, "stage", STAGE, old=old)
    with pytest.raises(RequestInvalid, match="changes nothing"):
        await site.change(ann, "stage", longer)
    with pytest.raises(RequestInvalid, match="another policy"):
        await site.room.plan(ann, "stage-two", STAGE.replace("stage\nfrom", "other\nfrom"), None)
    with pytest.raises(Denied):
        await site.room.plan(Identity(actor="bob", role="admin", project="other"), "stage", STAGE, old)

    made = await site.room.change(ann, "nas", BUDGET, None, "the clinic's NAS suffers")
    assert made.state == "applied" and (site.folder / "nas.yaml").read_text() == BUDGET
    assert site.house.budgets._limits_of("archive").read_bytes_s == 1_000_000
    gone = await site.change(ann, "nas", None)
    assert gone.state == "applied" and not (site.folder / "nas.yaml").exists()
    assert site.house.budgets._limits_of("archive").read_bytes_s is None
    assert (await site.room.versions("nas", None, 9)).versions[0].digest is None
    with pytest.raises(NotFound):
        await site.room.view("demo", "nas")
    actions = await actions_of(site)
    assert actions.count("policy: changed") == 3 and actions.count("policy: change asked for") == 3


async def test_what_is_risky_waits_for_another_person_and_then_acts(site: Site) -> None:
    ann, bob, eve = await site.person("ann"), await site.person("bob"), await site.person("eve", "operator")
    automatic = CLEAN.replace("false", "true")
    plan = await site.room.plan(ann, "clean", automatic, await site.digest("clean"))
    assert plan.counts["to agree on"] == 1 and plan.steps[0].action == "agree first"
    asked = await site.change(ann, "clean", automatic)
    assert asked.state == "asked" and "without anybody asking" in asked.risks[0]
    assert asked.diff[-2:] == ["-automatic: false", "+automatic: true"]
    assert (await site.change(ann, "clean", automatic)).id == asked.id
    assert [one.id for one in (await site.room.view("demo", "clean")).waiting] == [asked.id]
    assert [one.id for one in (await site.room.changes("demo", None, True, None, 9)).changes] == [asked.id]
    late, namesake = await site.person("late", days=0), await site.person("Ann")
    for who, words in ((ann, "who asked"), (eve, "admin"), (late, "nobody here"), (namesake, "bears this name")):
        with pytest.raises(Denied, match=words) as refused:
            await site.room.approve(who, asked.id)
        # another role helps the operator alone; the others need another person
        assert ("role" in refused.value.advice) == (who is eve)
    assert not site.house.policies.get("clean", CleanPolicy).automatic

    done = await site.room.approve(bob, asked.id)
    assert (done.state, done.approved_by) == ("applied", "bob")
    assert site.house.policies.get("clean", CleanPolicy).automatic
    assert (site.folder / "clean.yaml").read_text() == automatic
    assert (await site.room.versions("clean", None, 9)).versions[0].approved_by == "bob"
    assert (await site.room.approve(bob, asked.id)).id == asked.id

    harmless = await site.change(eve, "stage", STAGE + "# eve\n")
    assert harmless.state == "asked" and "operator" in harmless.risks[0]
    assert (await site.room.withdraw(eve, harmless.id)).state == "withdrawn"
    stale = await site.change(eve, "stage", STAGE + "# eve again\n")
    await site.change(ann, "stage", STAGE + "# ann\n")
    assert (await site.room.approve(bob, stale.id)).state == "refused"
    assert (site.folder / "stage.yaml").read_text() == STAGE + "# ann\n"


async def test_a_shorter_promise_does_not_hold_by_its_file_alone(site: Site) -> None:
    """Two persons agreed on the text; what is kept goes on being kept until two agreed on that."""
    ann, bob = await site.person("ann"), await site.person("bob")
    shorter = KEEP.replace("last: 5", "last: 1")
    plan = await site.room.plan(ann, "protect", shorter, await site.digest("protect"))
    assert ("agree first", "keep.last") in [(s.action, s.subject) for s in plan.steps] and "forget" in plan.step
    asked = await site.change(ann, "protect", shorter)
    assert (await site.room.approve(bob, asked.id)).state == "applied"
    seen = await site.room.view("demo", "protect")
    assert seen.text == shorter and any(words.startswith("keep.last") for words in seen.holds)


async def test_a_folder_is_followed_as_people_edit_it_and_a_mistake_changes_nothing(site: Site) -> None:
    ann, stage = await site.person("ann"), site.folder / "stage.yaml"
    stage.write_text(STAGE.replace("lease_s", "leese_s"))
    await site.house.following.turn()
    assert site.house.policies.get("stage", StagePolicy).lease_s == 3600
    seen = await site.room.view("demo", "stage")
    assert seen.trouble and "leese_s" in seen.trouble and seen.digest != seen.followed
    assert any("stage.yaml:6:1" in words for words in await site.room.told())
    with pytest.raises(PolicyInvalid):  # of another file: nothing of the folder could be followed
        await site.change(ann, "clean", CLEAN + "# more\n")
    mended = await site.change(ann, "stage", STAGE.replace("3600", "60"))
    assert mended.state == "applied" and site.house.policies.get("stage", StagePolicy).lease_s == 60
    assert await site.room.told() == []

    with psycopg.connect(site.dsns.superuser) as conn:
        conn.execute("insert into mover.node (id, version) values ('n2', '0')")
        conn.execute("insert into mover.policy_stand (node, name, digest) select 'n2', name, digest from mover.policy"
                     " where name = 'stage' order by loaded_at limit 1")  # fmt: skip
    assert await site.room.told() == [f"the policy stage is another on n2 than on {site.house.settings.node}"]
    assert {one.node for one in (await site.room.view("demo", "stage")).nodes} == {"n2", site.house.settings.node}


async def test_a_kill_between_row_and_file_is_gone_on_from_and_a_forged_row_carries_nothing(site: Site) -> None:
    """The row comes first, then the file, then the record that it stands. Whoever has the database alone has no say
    in what a second person must agree to."""
    text, old = STAGE.replace("3600", "7200"), await site.digest("stage")
    before_file = site.agreed("stage", old, text, kind="stage")
    await site.house.following.turn()
    assert (await site.room.view_change("demo", before_file)).state == "applied"
    assert (site.folder / "stage.yaml").read_text() == text

    (site.folder / "nas.yaml").write_text(BUDGET)  # the file came, the record did not
    after_file = site.agreed("nas", None, BUDGET, kind="budget")
    await site.house.following.turn()
    assert (await site.room.view_change("demo", after_file)).state == "applied"

    forged = site.agreed("clean", await site.digest("clean"), CLEAN.replace("false", "true"), kind="clean")
    await site.house.following.turn()
    refused = await site.room.view_change("demo", forged)
    assert refused.state == "refused" and "second person" in (refused.explanation or "")
    assert (site.folder / "clean.yaml").read_text() == CLEAN


async def test_mistakes_are_told_by_line_while_somebody_types(site: Site) -> None:
    async def marks(text: str, name: str | None = None) -> list[tuple[int, str | None]]:
        checked = await site.room.check(wire.PolicyCheckRequest(text=text, name=name))
        return [(one.line, one.file) for one in checked.mistakes]

    assert await marks(STAGE, "stage") == []
    assert await marks(STAGE.replace("to: flash", "to: archive"), "stage") == [(5, None)]
    assert await marks(STAGE + "lease_s: 5\n", "stage") == [(7, None)]
    assert await marks("kind: stage\nname: stage\n  from: [", "stage") != []
    assert await marks(STAGE.replace("name: stage", "name: other"), "stage") == [(1, None)]
    assert await marks("just words") == [(1, None)]
    assert await marks(KEEP + "append_only: chattr\n", "protect") == [(1, None)]  # no means for it here
    checked = await site.room.check(wire.PolicyCheckRequest(text=BUDGET))
    assert (checked.mistakes, checked.name, checked.kind) == ([], "nas", "budget")
    assert checked.value == yaml.safe_load(BUDGET)
    schema = await site.room.schema()
    assert {"name": "flash", "zone": "deidentified", "role": "flash"} in schema.tiers and "$defs" in schema.document


def test_what_cannot_be_written_is_said_beforehand(tmp_path: Path) -> None:
    folder, place = Folder(tmp_path), tmp_path / "stage.yaml"
    assert folder.why_not(place) == ""
    place.symlink_to(tmp_path / "elsewhere.yaml")
    assert "link" in folder.why_not(place)
    assert "came with the software" in Folder(default_folder()).why_not(default_folder() / "stage.yaml")
    other = tmp_path / "clean.yaml"
    folder.replace(other, CLEAN, base=None)
    other.chmod(0o604)
    folder.replace(other, CLEAN + "# more\n", base=digest_of(CLEAN))
    assert other.stat().st_mode & 0o777 == 0o604 and not list(tmp_path.glob(".*"))
    with pytest.raises(Conflict):
        folder.replace(other, None, base=digest_of(CLEAN))


async def actions_of(site: Site) -> list[str]:
    with psycopg.connect(site.dsns.superuser) as conn:
        rows = conn.execute("select body::jsonb ->> 'action' from mover.audit_record").fetchall()
    return [row[0] for row in rows]
