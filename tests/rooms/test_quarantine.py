"""What waits is decided about once, by cause, and the batch goes on by itself."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg
import pytest
from msgspec.structs import replace

from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.errors import Conflict, Denied, NotFound
from mover.model import wire
from mover.model.access import Identity
from mover.policy import Loaded, PolicyBook
from mover.sandbox import Sandbox
from tests.rooms.rig import OTHER, POLICIES, PROJECT, Rig
from tests.support.persons import person
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
SLIDES = [svs(size=(320 + 64 * at, 256)) for at in range(3)]
CZI = b"ZISRAWFILE" + bytes(64)
WHY = "agreed with the ward on Monday"
ANN = Identity(actor="ann", role="operator", project=PROJECT)
EVE = Identity(actor="eve", role="operator", project=OTHER)


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


def put(rig: Rig, folder: str, **files: bytes) -> None:
    place = rig.folder / "intake" / folder
    place.mkdir(exist_ok=True)
    for name, data in files.items():
        (place / name.replace("__", ".")).write_bytes(data)


async def run(rig: Rig, folder: str, **options: object) -> wire.Batch:
    """Declared and worked on to its end."""
    body = wire.BatchRequest(folder=folder, **options)  # type: ignore[arg-type]
    batch = await rig.batches.declare(PROJECT, "ann", body)
    await rig.work()
    return await rig.batches.view(PROJECT, batch.id)


async def only_cause(rig: Rig, code: str) -> wire.QuarantineCause:
    [found] = [one for one in (await rig.quarantine.causes(PROJECT)).causes if one.code == code]
    return found


def decision(action: str, **more: object) -> wire.QuarantineDecisionRequest:
    return wire.QuarantineDecisionRequest(action=action, reason=WHY, **more)  # type: ignore[arg-type]


async def test_one_decision_keeps_out_all_packs_of_a_cause_and_those_that_come_later(rig: Rig) -> None:
    """The administrator's first batch: a format without a writer is decided about once, not per file and month."""
    put(rig, "b1", one__svs=SLIDES[0], a__czi=CZI, b__czi=CZI + b"b")
    first = await run(rig, "b1")
    assert first.packs == {"published": 1, "quarantined": 2}
    cause = await only_cause(rig, "format-unsupported")
    assert (cause.count, cause.kind, cause.batches, len(cause.packs)) == (2, "czi", 1, 2)

    made = await rig.quarantine.decide(ANN, cause.id, decision("exclude"))

    assert made.rule and (made.packs, made.batches, made.rule.standing) == (2, [first.id], True)
    after = await rig.batches.view(PROJECT, first.id)
    assert (after.state, after.packs) == ("complete", {"published": 1, "excluded": 2})
    [counted] = rig.rows("select details from mover.proof where id ="
                         " (select complete_proof from mover.batch where id = %s)", first.id)  # fmt: skip
    assert counted.details == {"states": {"excluded": 2, "published": 1}}
    put(rig, "b2", two__svs=SLIDES[1], c__czi=CZI + b"c")
    later = await run(rig, "b2")
    assert (later.state, later.packs) == ("complete", {"published": 1, "excluded": 1})
    assert (await rig.quarantine.causes(PROJECT)).causes == []
    [record] = rig.rows("select body::jsonb as body from mover.audit_record"
                        " where body::jsonb ->> 'action' = 'quarantine decided'")  # fmt: skip
    assert (record.body["actor"], record.body["reason"]) == ("ann", WHY)
    assert sorted(path.name for path in (rig.folder / "intake" / "b1").iterdir()) == ["a.czi", "b.czi", "one.svs"]

    rule = await rig.quarantine.revoke(PROJECT, "bob", made.rule.id, wire.QuarantineRevokeRequest(reason=WHY))

    assert (rule.revoked_by, rule.excluded) == ("bob", 0)
    assert (await only_cause(rig, "format-unsupported")).count == 3
    assert (await rig.batches.view(PROJECT, later.id)).packs == {"published": 1, "quarantined": 1}


async def test_what_the_walk_itself_refuses_is_decided_about_in_the_same_way(rig: Rig) -> None:
    """Notes of other programs lie in every export; they are decided about before the next walk finds more."""
    put(rig, "b1", one__svs=SLIDES[0], note__doc=b"x")
    await run(rig, "b1")
    cause = await only_cause(rig, "entry-unknown")
    await rig.quarantine.decide(ANN, cause.id, decision("exclude"))
    put(rig, "b2", two__svs=SLIDES[1], other__doc=b"y")

    later = await run(rig, "b2")

    assert (later.packs, later.reasons) == ({"published": 1, "excluded": 1}, {})
    again = await run(rig, "b2")
    assert again.packs == later.packs, "declaring the folder again takes no decision back"


async def test_mended_packs_are_retried_together_and_the_batch_completes_anew(rig: Rig) -> None:
    put(rig, "b1", a__svs=SLIDES[0][:900], b__svs=SLIDES[1][:900], gone__svs=SLIDES[2][:900])
    batch = await run(rig, "b1")
    assert batch.packs == {"quarantined": 3}
    causes = (await rig.quarantine.causes(PROJECT, batch.id)).causes
    put(rig, "b1", a__svs=SLIDES[0], b__svs=SLIDES[1])
    (rig.folder / "intake" / "b1" / "gone.svs").unlink()

    for cause in causes:
        await rig.quarantine.decide(ANN, cause.id, decision("retry"))
        await rig.work()

    after = await rig.batches.view(PROJECT, batch.id)
    assert (after.state, after.packs) == ("complete", {"published": 2, "quarantined": 1})
    assert after.reasons == {"entry-missing": 1}, "a pack that is not there any more is said, not worked on"


async def test_a_thumbnail_may_be_waived_and_then_is_for_later_packs_of_the_kind(rig: Rig) -> None:
    policies = [replace(p, require_thumbnail=True) if p.name == "images" else p for p in POLICIES]
    book = PolicyBook([Loaded(policy=p, file=f"{p.name}.yaml", text="", digest="") for p in policies])
    rig.batches._policies = rig.packs._policies = book
    put(rig, "b1", one__svs=SLIDES[0])
    batch = await run(rig, "b1")
    cause = await only_cause(rig, "pack-incomplete")
    assert batch.packs == {"quarantined": 1} and cause.offers[0].action == "accept-without-thumbnail"

    made = await rig.quarantine.decide(ANN, cause.id, decision("accept-without-thumbnail"))
    assert made.rule
    await rig.work()

    assert (await rig.batches.view(PROJECT, batch.id)).packs == {"published": 1}
    put(rig, "b2", two__svs=SLIDES[1])
    plan = await rig.batches.plan_declare(PROJECT, "ann", wire.BatchRequest(folder="b2"))
    assert plan.counts["quarantine"] == 0
    assert (await run(rig, "b2")).packs == {"published": 1}
    await rig.quarantine.revoke(PROJECT, "ann", made.rule.id, wire.QuarantineRevokeRequest(reason=WHY))
    put(rig, "b3", three__svs=SLIDES[2])
    assert (await run(rig, "b3")).packs == {"quarantined": 1}


async def test_what_nobody_listed_is_declared_or_left_out_and_the_batch_completes(rig: Rig) -> None:
    """A batch that is not what was declared never completes; two decisions make it what it is."""
    put(rig, "b1", one__svs=SLIDES[0], two__svs=SLIDES[1], three__svs=SLIDES[2])
    batch = await run(rig, "b1", expected=["one.svs"])
    assert (batch.state, batch.missing_count) == ("failed", 2)
    cause = await only_cause(rig, "not-declared")
    two, three = (await rig.quarantine.cause(PROJECT, cause.id)).packs

    await rig.quarantine.decide(ANN, cause.id, decision("exclude", packs=[two]))
    assert (await rig.batches.view(PROJECT, batch.id)).missing_count == 1
    await rig.quarantine.decide(ANN, cause.id, decision("declare", packs=[three]))
    await rig.work()

    after = await rig.batches.view(PROJECT, batch.id)
    assert (after.state, after.missing_count, after.packs) == ("complete", 0, {"published": 2, "excluded": 1})


async def test_declaring_a_pack_waives_its_list_and_nothing_else(rig: Rig) -> None:
    """Not listed and torn besides: the first decision must not carry the second."""
    put(rig, "b1", one__svs=SLIDES[0], two__svs=b"")
    batch = await run(rig, "b1", expected=["one.svs"])
    cause = await only_cause(rig, "not-declared")

    await rig.quarantine.decide(ANN, cause.id, decision("declare"))
    await rig.work()

    after = await rig.batches.view(PROJECT, batch.id)
    assert (after.state, after.reasons) == ("complete", {"structure-invalid": 1})


async def test_what_is_unproven_is_not_asked_again_by_the_same_judge(rig: Rig) -> None:
    put(rig, "b1", one__svs=SLIDES[0], bad__svs=SLIDES[1][:900])
    batch = await run(rig, "b1")
    rig.rows("update mover.pack set reason = 'redaction-unproven', explanation = 'x', cause = null"
             " where state = 'quarantined'")  # fmt: skip
    cause = await only_cause(rig, "redaction-unproven")

    bob = person(rig.dsns, "bob", "operator")
    asked = (await rig.quarantine.decide(ANN, cause.id, decision("retry"))).proposal
    assert asked, "a proof found something: two persons, although no policy says so"
    with pytest.raises(Conflict, match="only after an update"):
        await rig.quarantine.review(bob, asked.id, review("confirm"))
    assert (await rig.quarantine.rules(PROJECT)).rules == [], "a decision about nothing is none"
    rig.rows("update mover.pack set judged_by = 'mover 0.0.1 0' where state = 'quarantined'")
    made = await rig.quarantine.review(bob, asked.id, review("confirm"))

    assert made.batches == [batch.id]


async def test_tables_that_wait_are_a_cause_too_and_are_matched_again(rig: Rig) -> None:
    put(rig, "b1", one__svs=SLIDES[0])
    batch = await run(rig, "b1")
    rig.rows("insert into mover.record_set (id, project_id, batch_id, policy, version, state, reason, explanation,"
             " source, created_by) values ('records-1', 'demo', %s, 'records', 1, 'quarantined', 'place-unknown',"
             " 'column 3 is not declared', 's', 'ann')", batch.id)  # fmt: skip
    cause = await only_cause(rig, "place-unknown")
    assert (cause.kind, cause.words, cause.packs) == ("records", "column # is not declared", ["records-1"])
    assert [offer.action for offer in cause.offers] == ["retry"] and "survey" in cause.advice

    await rig.quarantine.decide(ANN, cause.id, decision("retry"))

    [row] = rig.rows("select r.state, s.kind from mover.record_set r join mover.shard s on s.subject_id = r.id")
    assert (row.state, row.kind) == ("waiting-for-images", "records-match")


async def test_decisions_are_a_projects_own(rig: Rig) -> None:
    put(rig, "b1", a__czi=CZI, one__svs=SLIDES[0])
    await run(rig, "b1")
    cause = await only_cause(rig, "format-unsupported")

    assert (await rig.quarantine.causes(OTHER)).causes == []
    with pytest.raises(NotFound):
        await rig.quarantine.decide(EVE, cause.id, decision("exclude"))
    plan = await rig.quarantine.plan_decide(PROJECT, "ann", cause.id, decision("exclude"))
    assert plan.counts == {"packs": 1, "standing": 1}
    assert plan.steps[0].reason.endswith("counted as excluded; so are later packs of this cause")
    once = await rig.quarantine.plan_decide(PROJECT, "ann", cause.id, decision("exclude", standing=False))
    assert once.steps[0].reason.endswith("counted as excluded"), "what is decided once says nothing of later packs"
    assert (await only_cause(rig, "format-unsupported")).count == 1, "a plan changes nothing"


def reviewed(rig: Rig, **said: object) -> None:
    """The images policy, with what it says of who decides."""
    policies = [replace(p, **said) if p.name == "images" else p for p in POLICIES]
    rig.book.use(PolicyBook([Loaded(policy=p, file=f"{p.name}.yaml", text="", digest="") for p in policies]))


def review(word: str) -> wire.QuarantineReview:
    return wire.QuarantineReview(decision=word, reason="looked at both of them")  # type: ignore[arg-type]


async def test_where_two_persons_decide_one_proposes_and_nothing_happens_until_another_confirms(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night shift alone lets nothing out that the ward wanted two to look at: not by a second token, not twice, and
    a daemon that is killed in the middle of the second word has decided nothing."""
    reviewed(rig, reviewers_of={"format-unsupported": 2})
    put(rig, "b1", one__svs=SLIDES[0], a__czi=CZI, b__czi=CZI + b"b", note__doc=b"x")
    batch = await run(rig, "b1")
    cause = await only_cause(rig, "format-unsupported")
    assert {offer.action: offer.reviewers for offer in cause.offers} == {"retry": 2, "exclude": 2}
    assert {offer.reviewers for offer in (await only_cause(rig, "entry-unknown")).offers} == {1}
    ann, bob = person(rig.dsns, "ann", "operator"), person(rig.dsns, "bob", "operator")
    hers = person(rig.dsns, "ann-at-home", "operator")
    rig.rows("update mover.token set person = (select person from mover.token where actor = 'ann')"
             " where actor = 'ann-at-home'")  # fmt: skip
    plan = await rig.quarantine.plan_decide(PROJECT, "ann", cause.id, decision("exclude"))
    assert [step.action for step in plan.steps] == ["confirm first", "exclude"]

    asked = (await rig.quarantine.decide(ann, cause.id, decision("exclude"))).proposal
    assert asked and (asked.state, asked.waiting, asked.standing, asked.proposed_by) == ("open", 2, True, "ann")
    again = await rig.quarantine.decide(hers, cause.id, decision("exclude"))
    assert again.proposal == asked and again.rule is None, "the same decision twice is one"
    with pytest.raises(Conflict, match="waits for a second person"):
        await rig.quarantine.decide(bob, cause.id, decision("retry"))
    reviewed(rig)
    with pytest.raises(Conflict, match="waits for a second person"):
        await rig.quarantine.decide(bob, cause.id, decision("exclude"))  # nor by a policy that says less meanwhile
    for same in (ann, hers):
        with pytest.raises(Denied, match="one person"):
            await rig.quarantine.review(same, asked.id, review("confirm"))
    young = person(rig.dsns, "new", "operator", days=0)  # made before it was proposed, for it
    rig.rows("update mover.token set created_at = now() - interval '23 hours' where actor = 'new'")
    with pytest.raises(Denied, match="nobody here when"):
        await rig.quarantine.review(young, asked.id, review("confirm"))
    with pytest.raises(Denied, match="one person"):
        await rig.quarantine.review(named_alike(rig, "Ann"), asked.id, review("confirm"))
    with pytest.raises(Denied, match="decides nothing"):
        await rig.quarantine.review(person(rig.dsns, "vic", "viewer"), asked.id, review("decline"))
    with pytest.raises(NotFound):
        await rig.quarantine.review(person(rig.dsns, "eve", "admin", project=OTHER), asked.id, review("confirm"))
    assert (await only_cause(rig, "format-unsupported")).count == 2

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(rig.quarantine, "_audit", _killed)
        await rig.quarantine.review(bob, asked.id, review("confirm"))
    assert [one.id for one in (await rig.quarantine.proposals(PROJECT, open=True)).proposals] == [asked.id]

    made = await rig.quarantine.review(bob, asked.id, review("confirm"))
    assert made.rule and (made.packs, made.rule.decided_by, made.rule.confirmed_by) == (2, "ann", "bob")
    assert (await rig.batches.view(PROJECT, batch.id)).packs == {"published": 1, "quarantined": 1, "excluded": 2}
    twice = await rig.quarantine.review(bob, asked.id, review("confirm"))
    assert twice.rule == made.rule and twice.proposal == made.proposal
    with pytest.raises(Conflict, match="confirmed already"):
        await rig.quarantine.review(hers, asked.id, review("decline"))
    said = rig.rows("select body::jsonb as body from mover.audit_record"
                    " where starts_with(body::jsonb ->> 'action', 'quarantine') order by seq")  # fmt: skip
    assert [(row.body["action"], row.body["actor"]) for row in said] == [
        ("quarantine proposed", "ann"), ("quarantine decided", "bob"),
    ]  # fmt: skip
    assert said[1].body["details"]["proposed by"] == "ann" and said[1].body["reason"] == "looked at both of them"


def named_alike(rig: Rig, name: str) -> Identity:
    """Who came by an identity provider: the machine answers for this person, who may have a token besides."""
    proof = hashlib.sha256(name.encode()).digest()
    rig.rows("insert into mover.account (id, name, issuer, subject, person, made_by)"
             " values ('account-1', %s, 'https://idp', '1', 'account-1', 'provider')", name)  # fmt: skip
    rig.rows("insert into mover.account_grant (project_id, account_id, role, by_provider)"
             " values (%s, 'account-1', 'operator', true)", PROJECT)  # fmt: skip
    rig.rows("insert into mover.session (id, hash, kind, account_id, idle_s, ends_at)"
             " values ('session-1', %s, 'provider', 'account-1', 3600, now() + interval '1 day')", proof)  # fmt: skip
    return Identity(actor=name, role="operator", project=PROJECT, token_id="session-1", proof=proof)


async def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


async def test_what_was_proposed_is_declined_or_lapses_and_waits_again_for_anybody(rig: Rig) -> None:
    """Who proposed takes it back alone, which lets nothing out; what nobody looked at in two weeks holds nothing up."""
    reviewed(rig, reviewers=2)
    put(rig, "b1", one__svs=SLIDES[0], a__czi=CZI)
    await run(rig, "b1")
    cause = await only_cause(rig, "format-unsupported")
    ann, bob = person(rig.dsns, "ann", "operator"), person(rig.dsns, "bob", "operator")
    first = (await rig.quarantine.decide(ann, cause.id, decision("exclude", packs=cause.packs))).proposal
    assert first and first.packs == cause.packs and first.standing is False
    declined = await rig.quarantine.review(ann, first.id, review("decline"))
    assert declined.proposal and (declined.proposal.state, declined.rule) == ("declined", None)
    assert (await rig.quarantine.review(ann, first.id, review("decline"))).proposal == declined.proposal

    second = (await rig.quarantine.decide(bob, cause.id, decision("exclude"))).proposal
    rig.rows("update mover.quarantine_proposal set lapses_at = now(), proposed_at = now() - interval '14 days'"
             " where state = 'open'")  # fmt: skip
    assert second and (await rig.quarantine.proposals(PROJECT, open=True)).proposals == []
    with pytest.raises(Conflict, match="lapsed"):
        await rig.quarantine.review(ann, second.id, review("confirm"))
    third = (await rig.quarantine.decide(ann, cause.id, decision("retry"))).proposal
    assert third and third.id != second.id
    states = {one.id: one.state for one in (await rig.quarantine.proposals(PROJECT)).proposals}
    assert states == {third.id: "open", second.id: "lapsed", first.id: "declined"}
    assert rig.actions().count("quarantine declined") == 1


async def test_no_other_way_lets_out_what_two_persons_decide_about(rig: Rig) -> None:
    """An operator who declares the folder again, with a shorter list or none, or who takes the policy away that wants
    two, decides no more alone than before; and the database holds what is proposed, whoever writes."""
    reviewed(rig, reviewers_of={"not-declared": 2})
    put(rig, "b1", one__svs=SLIDES[0], two__svs=SLIDES[1], bad__svs=SLIDES[2][:900])
    await run(rig, "b1", expected=["one.svs", "bad.svs"])
    cause = await only_cause(rig, "not-declared")
    put(rig, "b1", bad__svs=SLIDES[2])

    again = await run(rig, "b1")
    assert again.packs == {"published": 2, "quarantined": 1}, "what one person decides about is looked at again"

    ann = person(rig.dsns, "ann", "operator")
    asked = (await rig.quarantine.decide(ann, cause.id, decision("declare"))).proposal
    reviewed(rig)
    assert asked and (await run(rig, "b1")).reasons["not-declared"] == 1, "a policy that says less meanwhile"
    with pytest.raises(psycopg.Error, match="waits for a second person"):
        rig.rows("update mover.pack set state = 'found' where reason = 'not-declared' returning id")
    await rig.quarantine.review(ann, asked.id, review("decline"))

    rig.rows("insert into mover.node (id, version) values ('n1', '1') on conflict do nothing")
    rig.rows("insert into mover.policy (name, digest, kind, text) values ('images', 'd', 'images', %s)",
             "kind: images\nname: images\nreviewers_of: {not-declared: 2}\nof-another-release: 1\n")  # fmt: skip
    for digest in ("d", None):
        rig.rows("insert into mover.policy_stand (node, name, digest) values ('n1', 'images', %s)", digest)
    rig.book.use(PolicyBook([one for one in rig.book.all() if one.name != "images"]))
    assert {offer.reviewers for offer in (await only_cause(rig, "not-declared")).offers} == {2}
    for text, needed in (("kind: images", 1), ("[", 2)):  # what nobody can read may have said anything
        rig.rows("update mover.policy set text = %s where digest = 'd'", text)
        assert {offer.reviewers for offer in (await only_cause(rig, "not-declared")).offers} == {needed}
