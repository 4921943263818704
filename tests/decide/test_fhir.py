"""Audit records as FHIR AuditEvents: judged by a schema that is not ours."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fhir.resources.R4B.auditevent import AuditEvent as Schema  # R4B left AuditEvent as R4 (4.0.1) has it

import mover
from mover.decide.audit import Link
from mover.decide.fhir import KINDS, OTHER, audit_event, kind_of

HOUSE = Path(mover.__file__).parent
AT = datetime(2026, 11, 22, 13, 0, 0, 250, tzinfo=UTC)
# beginnings that the program puts together: the last word is one of these
FILLED = {
    "pack {}": ["quarantined"], "scan {}": ["complete"], "verification {}": ["whole"], "vault {} refused": ["export"],
    "{} read": ["slide", "ledger", "manifest", "snapshot", "audit", "answer"], "release {}": ["begun"],
}  # fmt: skip


def judged(event: dict[str, Any]) -> Any:
    """The resource as an independent reader has it; raises where it is none."""
    return Schema.model_validate(event)


def link(body: str, *, seq: int = 2) -> Link:
    return Link("demo", "n1", seq, AT, body, b"\1" * 32 if seq > 1 else b"", bytes([seq]) * 32)


def record(action: str, **more: object) -> str:
    return msgspec.json.encode({"actor": "ann", "action": action, "subject": "run-1", **more}).decode()


def words_of_records() -> Iterator[str]:
    """Every action the program writes: what is given to `audit.record` and its kin, and to the database's own."""
    for file in HOUSE.rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text())):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if name in ("record", "record_own", "_record", "_audit", "record_text"):
                for arg in [*call.args, *[one.value for one in call.keywords if one.arg == "action"]]:
                    yield from (word for word in _texts(arg) if re.fullmatch(r"[a-z{}-]+:?( [a-z{}-]+){1,6}", word))
    schema = (HOUSE / "catalog" / "schema.sql").read_text()
    yield from re.findall(r"protect_record\(in_node, [^']*?(?:'daemon', )?'([a-z:]+(?: [a-z]+)+)'", schema)
    yield from re.findall(r"'action', '([a-z]+ [a-z ]+)'", schema)


def _texts(node: ast.AST) -> Iterator[str]:
    inside: set[ast.AST] = set()
    for one in ast.walk(node):
        if isinstance(one, ast.JoinedStr):
            inside |= set(ast.walk(one))
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in one.values)
        elif isinstance(one, ast.Constant) and isinstance(one.value, str) and one not in inside:
            yield one.value


def test_every_action_the_program_writes_has_its_kind() -> None:
    """A new kind of record gets a row of the table with it: the hospital's repository sorts by these codes."""
    words = {filled for word in words_of_records() for filled in _filled(word)}
    assert len(words) > 100
    assert sorted(word for word in words if kind_of(word) == OTHER) == []
    assert kind_of("danced on the table") == OTHER


def _filled(word: str) -> list[str]:
    if "{}" not in word:
        return [word]
    return [word.replace("{}", one, 1) for one in FILLED.get(word, [])]


def test_no_row_of_the_table_hides_another() -> None:
    rows = [words for words, _ in KINDS]
    hidden = [later for at, later in enumerate(rows) for first in rows[:at] if later.startswith(first)]
    assert hidden == []


CASES = [
    ("signed in", "110114", "E", "0"),
    ("sign-ins refused", "110114", "E", "4"),
    ("slide read", "110103", "R", "0"),
    ("vault revealed", "110110", "R", "0"),
    ("unseal", "110110", "R", "0"),
    ("certificate issued", "110106", "C", "0"),
    ("batch declared", "110107", "C", "0"),
    ("run cleaned", "110105", "D", "0"),
    ("run failed", "110104", "E", "4"),
    ("account role granted", "110113", "U", "0"),
]


@pytest.mark.parametrize(("action", "code", "verb", "outcome"), CASES)
def test_a_record_is_an_event_of_its_kind(action: str, code: str, verb: str, outcome: str) -> None:
    event = audit_event(link(record(action, reason="it  was\ntime", request="r1")), site="ward")
    told = judged(event)
    assert (told.type.code, told.action, told.outcome) == (code, verb, outcome)
    assert told.outcomeDesc == "it was time" and told.agent[0].requestor and told.agent[0].altId == "ann"
    assert told.entity[0].what.identifier.value == "run-1" and told.source.observer.identifier.value == "n1"


def test_chain_and_body_go_with_the_event() -> None:
    """Whoever has the export as hashed finds each event in it, and finds what was changed on the way."""
    one = link(record("run ready"))
    event = audit_event(one, site="ward")
    assert event["id"] == one.hash.hex() and event["recorded"] == "2026-11-22T13:00:00.000250Z"
    assert [two["valueString"] for two in event["extension"]] == ["demo/n1/2", one.prev.hex()]
    assert event["entity"][0]["detail"] == [{"type": "body", "valueString": one.body}]
    judged(audit_event(link(record("run ready"), seq=1), site="ward"))  # the first follows nothing


@pytest.mark.parametrize("body", ["", "[]", "{}", "rubbish", '{"actor":1,"action":" a \\n b ","subject":null}'])
def test_a_body_that_is_none_of_ours_is_told_and_not_left_out(body: str) -> None:
    """Somebody wrote it into the database: that is what an auditor is after."""
    event = judged(audit_event(link(body or " "), site="ward"))
    assert event.type.code == "110100" and event.entity[0].detail[0].valueString == (body or " ")


def test_the_program_is_no_person() -> None:
    event = audit_event(link(msgspec.json.encode({"actor": "daemon", "action": "run ready"}).decode()), site="ward")
    told = judged(event)
    assert told.agent[0].requestor is False and told.agent[0].type.coding[0].code == "110150"
